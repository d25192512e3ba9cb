"""Moments and durations as people write them, in the unit of a column of times.

Times are numbers of any unit, or dates, which become microseconds when they are read. The unit of numbers that count
since 1970 shows in their size: the same moment is 10 digits in seconds, 13 in milliseconds, 16 in microseconds and 19
in nanoseconds.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from recvae.arguments import shown
from recvae.errors import InputError

Times: TypeAlias = npt.NDArray[np.int64] | npt.NDArray[np.float64]

_UNITS = ((1e8, 1), (1e11, 10**3), (1e14, 10**6), (1e17, 10**9))  # from this size on, so many in a second
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Moment:
    """A place in a log of clicks; one of the three is set.

    ``share``: the share of the clicks that lie before it, between 0 and 1; ``number``: a time in the column's unit;
    ``date``: a date, in UTC where none is named. ``text`` is the moment as it was written.
    """

    text: str
    share: float | None = None
    number: float | None = None
    date: datetime | None = None

    def among(self, n: int, ordered: Callable[[int], float], label: str) -> float:
        """Return the moment as a time of ``n`` clicks; ``ordered(place)`` is the time at a place of them in order.

        Raises :class:`InputError` for a date where the times do not count since 1970.
        """
        if self.share is not None:
            return ordered(min(n - 1, int(self.share * n)))
        if self.number is not None:
            return self.number
        assert self.date is not None
        ticks = per_second(ordered(n - 1), label)
        return (self.date - _EPOCH) // timedelta(microseconds=1) * ticks / 10**6


def moment(value: object, name: str = "The cutoff") -> Moment:
    """Read a share, a date or a time in the column's unit; raise :class:`InputError` for anything else."""
    text = str(value).strip()
    number = _number(value)
    if number is not None and 0 < number < 1:
        return Moment(text, share=number)
    if number is not None:
        return Moment(text, number=number)
    try:
        date = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(
            f"{name} must be a date such as 2020-01-31 or 2020-01-31T10:20:30Z, a share of the clicks such as 0.8, or "
            f"a time in the unit of the column of times, and is {shown(value)}."
        ) from error
    return Moment(text, date=date if date.tzinfo is not None else date.replace(tzinfo=UTC))


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float | np.integer | np.floating):
        return None
    try:
        found = float(value)
    except ValueError:
        return None
    if isinstance(value, str) and re.fullmatch(r"\d{8}", value.strip()):
        return None  # a date without hyphens: 20200131
    return found if math.isfinite(found) else None


def per_second(latest: float, label: str) -> int:
    """Return how many units of a column of times make a second, by its latest time.

    Raises :class:`InputError` where the times are too small to count since 1970.
    """
    found = [ticks for least, ticks in _UNITS if latest >= least]
    if not found:
        raise InputError(
            f"The times of {label} end at {latest:g}, which is no number of seconds since 1970: name moments and "
            "durations as plain numbers, in the unit of these times."
        )
    return found[-1]


def duration(text: object, latest: float, label: str, name: str = "The duration") -> float:
    """Return a duration such as 7d, 12h, 2w or 90m in the unit of a column of times whose latest time is ``latest``.

    A number without a letter is in that unit already. Raises :class:`InputError` for other text and for 0 or less.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw]?)", str(text).strip())
    if match is None or float(match[1]) <= 0:
        raise InputError(f"{name} must be a time span above 0 such as 7d, 12h or 2w, and is {shown(text)}.")
    if not match[2]:
        return float(match[1])
    return float(match[1]) * _SECONDS[match[2]] * per_second(latest, label)


def written(time: float, latest: float) -> str:
    """Return a time as a date where the times count since 1970, else as a number."""
    ticks = [ticks for least, ticks in _UNITS if latest >= least]
    if not ticks:
        return f"{time:.15g}"
    try:
        date = _EPOCH + timedelta(seconds=time / ticks[-1])
    except OverflowError:
        return f"{time:.15g}"
    return date.strftime("%Y-%m-%d") if date.time().isoformat() == "00:00:00" else date.strftime("%Y-%m-%dT%H:%M:%SZ")
