"""Checks of arguments of the Python interface, before any work; an error names the argument."""

import math
import numbers
import operator
import os
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, TypeGuard

from recvae.errors import InputError

LONGEST = 60  # characters of a value in a sentence


def shown(value: object) -> str:
    """Return a value for a sentence: its repr on one line, cut where it is long, or its type where it has none."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # noqa: BLE001 - the repr of any object may fail, and Python prints no number of 5,000 digits
        return f"{'an' if type(value).__name__[0] in 'aeiou' else 'a'} {type(value).__name__}"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def whole_number(name: str, value: object, *, least: int, most: int | None = None) -> int:
    """Return ``value``, a whole number of Python or NumPy, as an int; raise :class:`InputError` for any other value."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)  # NumPy's integers are such numbers
    number = operator.index(value) if whole else least - 1  # type: ignore[arg-type]  # `whole` says that it has an index
    if number < least or (most is not None and number > most):
        limits = f"of at least {least:,}" if most is None else f"from {least:,} to {most:,}"
        raise InputError(f"{name} must be a whole number {limits}, and is {shown(value)}.")
    return number


def real_number(name: str, value: object) -> float:
    """Return ``value``, a finite number of Python or NumPy, as a float; raise :class:`InputError` for another one."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    number = float(value) if real else math.nan  # type: ignore[arg-type]  # `real` says that it is a number
    if not math.isfinite(number):
        raise InputError(f"{name} must be a number, and is {shown(value)}.")
    return number


def function(name: str, value: object) -> None:
    """Raise :class:`InputError` for an argument that is neither None nor can be called."""
    if value is not None and not callable(value):
        raise InputError(f"{name} must be a function, and is {shown(value)}.")


class Frame(Protocol):
    """A data frame of any library: an object that gives its columns through Arrow's C stream interface."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return a PyCapsule of an ArrowArrayStream."""


def is_frame(value: object) -> TypeGuard[Frame]:
    """Return whether a value is a data frame."""
    return hasattr(type(value), "__arrow_c_stream__")


def flag(name: str, value: object) -> bool:
    """Return ``value``, True or False of Python or NumPy; raise :class:`InputError` for any other value."""
    if isinstance(value, bool):
        return value
    if type(value).__name__ == "bool" and getattr(value, "ndim", None) == 0:  # NumPy's
        return bool(value)
    raise InputError(f"{name} must be True or False, and is {shown(value)}.")


def items(name: str, values: object) -> list[Any]:
    """Return the members of ``values``; raise :class:`InputError` for a text and for a value without members."""
    if isinstance(values, str | bytes):
        raise InputError(f"{name} must be a list, not one text such as {shown(values)}. Write [{shown(values)}].")
    if not isinstance(values, Iterable) or getattr(values, "ndim", 1) == 0:
        raise InputError(f"{name} must be a list, and is {shown(values)}.")
    return list(values)


def need_packages(what: str, *packages: str, install: str) -> None:
    """Raise :class:`InputError` where a package is not installed that ``what`` needs; ``install`` is the remedy."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        are = "is" if len(missing) == 1 else "are"
        raise InputError(
            f"{what} needs {', '.join(missing)}, which {are} not installed. Install it with: pip install {install}"
        )


def path_of(value: object) -> Path:
    """Return ``value`` as a path; raise :class:`InputError` if it is no path, or none that the system can have."""
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise InputError(f"A path is a text or a pathlib.Path, not {shown(value)}.")
    path = Path(value)
    try:
        os.fsencode(path)
        if "\0" in str(path):
            raise ValueError("it has a null character")
        path.exists()
    except (ValueError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(f"The path {shown(str(path))} cannot be used: {reason}.") from error
    return path
