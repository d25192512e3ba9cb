"""Arrow columns to :class:`Interactions`, and the error sentences for rows and columns that cannot be used."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from data_prep.interactions import Codes, Interactions
from recvae.frames.ids import Columns, Origin, first_true, numbers_of, texts_of, united

if TYPE_CHECKING:
    import pyarrow as pa

_TIMES = "times are numbers, or dates such as 2020-01-31, 2020-01-31 10:20:30 or 2020-01-31T10:20:30Z"


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of a table, in order: the ids as int32 codes (n,) of Arrow arrays of distinct texts.

    ``rating`` is float64 and ``time`` int64 or float64, (n,) or None; ``dated`` is whether times were dates, which are
    int64 microseconds.
    """

    user: Codes
    item: Codes
    user_ids: "pa.Array"
    item_ids: "pa.Array"
    rating: npt.NDArray[np.float64] | None
    time: npt.NDArray[np.int64] | npt.NDArray[np.float64] | None
    dated: bool

    def __len__(self) -> int:
        return int(self.user.size)


def one_line(error: Exception) -> str:
    """Return an exception's message as one line of at most about 200 characters."""
    text = " ".join(str(error).split())
    return text if len(text) < 200 else text[:200] + " ..."


def no_number(what: str, value: object, name: str) -> str:
    """Return the problem of a rating or a time that cannot be read, for :func:`row_error`."""
    wanted = f"time: {_TIMES}" if what == "time" else "number"
    return f"the {what} {str(value)[:100]!r} in column '{name}' is not a {wanted}."


def is_number(value: bytes) -> bool:
    """Return whether Arrow reads ``value`` as a finite number."""
    try:
        return b"_" not in value and math.isfinite(float(value))  # float() reads 1_000, Arrow does not
    except ValueError:
        return False


def from_table(table: "pa.Table", want: Columns, label: str) -> Interactions:
    """Turn an Arrow table into :class:`Interactions`; raise :class:`DataError` for the first bad row of a column."""
    return interactions([rows_of(table, want, Origin(label))], label)


def rows_of(table: "pa.Table", want: Columns, origin: Origin) -> Rows:
    """Turn an Arrow table into :class:`Rows`; errors as :func:`from_table`."""
    with ThreadPoolExecutor(2) as both:  # Arrow and NumPy let go of Python's lock
        users, items = (both.submit(texts_of, table[name], origin, name) for name in (want.user, want.item))
    (user, user_ids), (item, item_ids) = users.result(), items.result()
    rating = None if want.rating is None else _numbers(table[want.rating], origin, want.rating, "rating")
    time, dated = (None, False) if want.time is None else _times(table[want.time], origin, want.time)
    return Rows(
        user,
        item,
        user_ids,
        item_ids,
        rating=None if rating is None else rating.astype(np.float64, copy=False),
        time=time,
        dated=dated,
    )


def interactions(parts: Sequence[Rows], label: str) -> Interactions:
    """Return the rows of all ``parts``, one after the other."""
    user, user_ids = united([(part.user, part.user_ids) for part in parts])
    item, item_ids = united([(part.item, part.item_ids) for part in parts])
    ratings, times = ([getattr(part, name) for part in parts] for name in ("rating", "time"))
    return Interactions(
        user=user,
        item=item,
        user_ids=user_ids,
        item_ids=item_ids,
        rating=None if ratings[0] is None else _one(ratings),
        time=None if times[0] is None else _one(times),
        label=label,
    )


def _one(arrays: Sequence[npt.NDArray[np.generic]]) -> Any:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _numbers(column: "pa.ChunkedArray", origin: Origin, name: str, what: str) -> npt.NDArray[np.float64]:
    """Return a column as float64 (n,); raise :class:`DataError` naming the first row that is not a finite number."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    try:
        # Rounding a number beyond 2^53 is fine; taking a text for a number is not.
        numbers = column.cast(pa.float64(), safe=not pa.types.is_integer(column.type))
        found = numbers.to_numpy() if column.null_count else numbers_of(numbers.chunks)
        values: npt.NDArray[np.float64] = found.astype(np.float64, copy=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        texts = [str(value) for value in column.to_pylist()]  # only for the error's sentence
        row = next((row for row, text in enumerate(texts) if not is_number(text.encode())), 0)
        raise origin.error(row, no_number(what, texts[row], name)) from None
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        value = column[int(bad[0])].as_py()
        shown = "missing" if value is None else f"{value}, not a finite number"
        raise origin.error(int(bad[0]), f"the {what} in column '{name}' is {shown}.")
    return values


def _times(
    column: "pa.ChunkedArray", origin: Origin, name: str
) -> tuple[npt.NDArray[np.int64] | npt.NDArray[np.float64], bool]:
    """Return a time column as int64 where it holds integers or dates (microseconds), else as float64; whether dates."""
    import pyarrow as pa

    column = _dates(column)
    kind = column.type
    if column.null_count:
        raise origin.error(first_true(column.is_null()), f"the time in column '{name}' is missing.")
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        microseconds = column.cast(pa.timestamp("us", tz=getattr(kind, "tz", None)), safe=False)
        return np.asarray(microseconds.cast(pa.int64()).to_numpy(), dtype=np.int64), True
    if pa.types.is_integer(kind):
        values = column.to_numpy()
        large = np.flatnonzero(values > np.iinfo(np.int64).max)
        if large.size:
            problem = f"the time {values[large[0]]} in column '{name}' is larger than 2^63 - 1."
            raise origin.error(int(large[0]), problem)
        return np.asarray(values, dtype=np.int64), False
    return _numbers(column, origin, name, "time"), False


def _dates(column: "pa.ChunkedArray") -> "pa.ChunkedArray":
    """Return a column without dictionary encoding, and with dates that are text as timestamps."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        for zone in (None, "UTC"):
            try:
                return column.cast(pa.timestamp("us", tz=zone))
            except pa.ArrowInvalid:
                continue
    return column
