"""How an option is declared: once, where it is used, with its default, its meaning and its bounds.

Option sets are frozen dataclasses in the modules that use them; this module needs the standard library only, so that
the numeric modules run where nothing but torch, numpy and scipy is installed. :mod:`recvae.config` turns the same
declarations into checked configuration.
"""

from dataclasses import field
from typing import Any


def option(default: Any, meaning: str, **bounds: Any) -> Any:
    """Declare a dataclass field with its meaning and, for numbers, ``gt``, ``ge``, ``lt`` or ``le`` bounds."""
    return field(default=default, metadata={"meaning": meaning, "bounds": bounds})
