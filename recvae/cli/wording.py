"""Words of the command line: options in place of Python arguments in error sentences, and numbers of places."""

import re

_OPTIONS = (
    (re.compile(r"\b(overwrite|resume)=True\b"), r"--\1"),
    (re.compile(r"\bother_data=True\b"), "--other-data"),
    (re.compile(r"\bweights='(\w+)'"), r"--weights \1"),
    (re.compile(r"\bdevice='([\w:]+)'"), r"--device \1"),
)


def in_options(sentence: str) -> str:
    """Return a sentence that names arguments of Python with the options of the command line in their place."""
    for argument, option in _OPTIONS:
        sentence = argument.sub(option, sentence)
    return sentence


def ordinal(number: int) -> str:
    """Return a place as people say it: 1st, 2nd, 11th, 1,021st."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{ending}"
