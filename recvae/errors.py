"""Errors whose message is a sentence for a person.

Every error that a user can cause or meet is a :class:`RecvaeError`. Its message names the file, the row or the field
and says what to do. The command line prints the message without a traceback and exits with ``exit_code``: 2 for bad
input, 1 for a failure at work.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence


class RecvaeError(Exception):
    """Any failure that this project explains in a sentence."""

    exit_code = 1


class InputError(RecvaeError, ValueError):
    """An argument, an option or a file cannot be used; the message names it and says what to do."""

    exit_code = 2


class DataError(InputError):
    """A data file or matrix holds an entry that cannot be used."""


class ConfigError(InputError):
    """One or more options are unknown or out of range; the message lists them all."""


class FormatError(InputError):
    """A dataset or run folder is truncated, altered, of another version or of another kind."""


class WorkError(RecvaeError):
    """The input is good, but the work failed: a full disk, a failed download, a loss that is not finite."""


class OtherMachineWarning(UserWarning):
    """A run is continued with another number of threads or other CPU instructions than it was begun with."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: Python's, CUDA's, or that of PyTorch on a CPU, which has no class of its own."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError | ValueError) and any(part in str(error) for part in _OUT_OF_MEMORY)


# Messages of PyTorch's allocators on Linux and Windows, and of PyTorch and NumPy for shapes beyond any memory.
_OUT_OF_MEMORY = (
    "allocate memory",
    "not enough memory",
    "Storage size calculation overflowed",
    "array is too big",
    "Maximum allowed dimension exceeded",
)


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` with the nearest of ``choices``, whatever its case; an empty string where none is.

    Nothing is suggested for a number, as any digit may be the mistyped one.
    """
    return nearest(name, {choice: choice for choice in choices})


def nearest(name: str, choices: Mapping[str, str]) -> str:
    """Return as :func:`did_you_mean` does: the key of ``choices`` is compared, its value is suggested."""
    if not any(character.isalpha() for character in name):
        return ""
    keys: dict[str, str] = {}
    for key, choice in choices.items():
        keys.setdefault(key.casefold(), choice)
    near = difflib.get_close_matches(name.casefold(), keys, n=1, cutoff=0.5)
    return f" Did you mean '{keys[near[0]]}'?" if near else ""


def listed(names: Sequence[str], most: int = 5) -> str:
    """Return names for a sentence, cut where there are many."""
    quoted = ", ".join(f"'{name}'" for name in names[:most])
    return quoted if len(names) <= most else f"{quoted} and {len(names) - most} more"
