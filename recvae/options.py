"""How an option is declared: once, where it is used, with its default, its meaning, its bounds and its search space.

Option sets are frozen dataclasses in the modules that use them; this module needs the standard library only, so that
the numeric modules run where nothing but torch, numpy and scipy is installed. :mod:`recvae.config` turns the same
declarations into checked configuration, and :mod:`recvae.tuning` searches what is declared searchable.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Between:
    """Search a whole or real number from ``low`` to ``high``, both included; ``log`` spreads it by magnitude."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class OneOf:
    """Search one of ``values``: ``OneOf(32, 64, 128)``."""

    values: tuple[Any, ...]

    def __init__(self, *values: Any) -> None:
        object.__setattr__(self, "values", values)


Space = Between | OneOf

# What no model needs more of: a file or a slip of the hand that asks for it is refused before memory or hours are lost.
WIDEST, DEEPEST = 65_536, 100


def option(default: Any, meaning: str, *, search: Space | None = None, **bounds: Any) -> Any:
    """Declare a dataclass field with its meaning and, for numbers, ``gt``, ``ge``, ``lt`` or ``le`` bounds.

    Of a tuple the bounds are those of its values, and ``max_length`` is how many there may be.

    ``search`` is where ``recvae tune`` looks for better values; without it the option keeps the value it is given.
    Use ``Between(low, high)`` for an int or a float and ``OneOf(a, b, ...)`` for a choice.
    """
    return field(default=default, metadata={"meaning": meaning, "bounds": bounds, "search": search})
