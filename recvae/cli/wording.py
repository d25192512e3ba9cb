"""Error sentences of the library with options of the command line in place of Python arguments."""

import re

_OPTIONS = (
    (re.compile(r"\b(overwrite|resume)=True\b"), r"--\1"),
    (re.compile(r"\bdevice='([\w:]+)'"), r"--device \1"),
)


def in_options(sentence: str) -> str:
    """Return a sentence that names arguments of Python with the options of the command line in their place."""
    for argument, option in _OPTIONS:
        sentence = argument.sub(option, sentence)
    return sentence
