"""Arrow columns to :class:`Interactions`, and the error sentences for rows and columns that cannot be used."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from data_prep.interactions import Codes, Ids, Interactions
from data_prep.kinds import not_utf8
from recvae.errors import DataError, InputError, did_you_mean

if TYPE_CHECKING:
    import pyarrow as pa

_ID_KINDS = "ids must be text or whole numbers"
_WHOLE_FLOAT = re.compile(r"(?:0|-?[1-9][0-9]*)\.0")
_TIMES = "times are numbers, or dates such as 2020-01-31, 2020-01-31 10:20:30 or 2020-01-31T10:20:30Z"


@dataclass(frozen=True)
class Columns:
    """The names of the columns to read; ``rating`` and ``time`` are optional."""

    user: str
    item: str
    rating: str | None = None
    time: str | None = None

    def names(self) -> list[str]:
        """Return the names of the columns to read, each once."""
        return list(dict.fromkeys(name for name in (self.user, self.item, self.rating, self.time) if name is not None))


@dataclass(frozen=True)
class Origin:
    """The file or frame of a table's rows: ``label`` in messages, and the number of its rows ``before`` these."""

    label: object
    before: int = 0

    def __str__(self) -> str:
        return str(self.label)

    def error(self, place: int, problem: str) -> DataError:
        """Return the error for the row at ``place``, counted from 0 within the table."""
        return row_error(self.label, self.before + place + 1, problem)


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


def row_error(label: object, row: int, problem: str) -> DataError:
    """Return the error for a row, numbered from 1 without the header."""
    return DataError(f"{label}, row {row:,} (header not counted): {problem} Correct or remove that row.")


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


def check_columns(label: object, want: Columns, names: Sequence[str], separator: str | None = None) -> None:
    """Raise an error unless each wanted column is among ``names`` exactly once and has one purpose."""
    given = [name for name in (want.user, want.item, want.rating, want.time) if name is not None]
    if len(given) > len(want.names()):
        twice = next(name for name in given if given.count(name) > 1)
        raise InputError(f"Column '{twice}' is named for two purposes. Users, items, ratings and times need their own.")
    for name in want.names():
        if names.count(name) > 1:
            raise DataError(f"{label} has {names.count(name)} columns named '{name}'. Rename all but one.")
        if name not in names:
            hint = did_you_mean(name, names)
            if separator is not None and len(names) == 1:
                hint = f" It was split at {separator!r}: give the right one with --separator."
            raise DataError(f"{label} has no column '{name}'; it has {', '.join(names)}.{hint}")


def from_table(table: "pa.Table", want: Columns, label: str) -> Interactions:
    """Turn an Arrow table into :class:`Interactions`; raise :class:`DataError` for the first bad row of a column."""
    return interactions([rows_of(table, want, Origin(label))], label)


def rows_of(table: "pa.Table", want: Columns, origin: Origin) -> Rows:
    """Turn an Arrow table into :class:`Rows`; errors as :func:`from_table`."""
    user, user_ids = _texts(table[want.user], origin, want.user)
    item, item_ids = _texts(table[want.item], origin, want.item)
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
    user, user_ids = _united([(part.user, part.user_ids) for part in parts])
    item, item_ids = _united([(part.item, part.item_ids) for part in parts])
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


def _united(parts: "Sequence[tuple[Codes, pa.Array]]") -> tuple[Codes, Ids]:
    """Return the codes of all parts, with common ids in order of first appearance."""
    import pyarrow as pa

    (codes, ids), *others = parts
    if others:
        chunks = [pa.DictionaryArray.from_arrays(pa.array(mine), texts) for mine, texts in parts]
        column = pa.chunked_array(chunks).unify_dictionaries()
        codes, ids = np.concatenate([chunk.indices.to_numpy() for chunk in column.chunks]), column.chunk(0).dictionary
    return codes, np.array(whole_ids(ids.to_numpy(zero_copy_only=False)), dtype=np.object_)


def coded_ids(column: "pa.ChunkedArray", label: str, name: str) -> tuple[Codes, Ids]:
    """Return int32 codes (n,) and the distinct ids (object array of str), in order of first appearance."""
    return _united([_texts(column, Origin(label), name)])


def _texts(column: "pa.ChunkedArray", origin: Origin, name: str) -> "tuple[Codes, pa.Array]":
    """Return int32 codes (n,) and the distinct ids as an Arrow array of texts, in order of first appearance."""
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if column.null_count:
        raise origin.error(_first_true(column.is_null()), f"the id in column '{name}' is missing.")
    if pa.types.is_floating(kind):
        column = pa.chunked_array([pa.array(_whole(column.cast(kind).to_numpy(), origin, name))])
    elif pa.types.is_nested(kind) or pa.types.is_null(kind):
        raise DataError(f"Column '{name}' of {origin} holds {kind}; {_ID_KINDS}.")
    if pa.types.is_decimal(kind) or pa.types.is_binary(kind):
        column = _as_text(column, origin, name)
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    chunks = column.unify_dictionaries().chunks
    codes = np.concatenate([chunk.indices.to_numpy().astype(np.int32, copy=False) for chunk in chunks])
    dictionary = _as_text(chunks[0].dictionary, origin, name)
    empty = dictionary.index("").as_py()
    if empty >= 0:
        rows = np.flatnonzero(codes == empty)
        if rows.size:
            raise origin.error(int(rows[0]), f"the id in column '{name}' is empty.")
    return codes, dictionary


def whole_ids(ids: Iterable[str]) -> list[str]:
    """Return a column's distinct ids, without the ``.0`` where all of them are whole numbers written as floats.

    A column of floats is written to text so; read from Parquet or a frame it has the same ids.
    """
    texts = list(ids)
    return [text[:-2] for text in texts] if all(map(_WHOLE_FLOAT.fullmatch, texts)) else texts


def _whole(values: npt.NDArray[np.floating], origin: Origin, name: str) -> npt.NDArray[np.int64]:
    """Return float ids as int64 (n,); raise :class:`DataError` for an id that is not whole, or may be rounded."""
    uneven = np.flatnonzero(~np.isfinite(values) | (values != np.floor(values)))
    if uneven.size:
        problem = f"the id {values[uneven[0]]} in column '{name}' is not whole; {_ID_KINDS}."
        raise origin.error(int(uneven[0]), problem)
    bits = np.finfo(values.dtype).nmant + 1
    large = np.flatnonzero(np.abs(values.astype(np.float64)) >= 2.0**bits)
    if large.size:
        raise origin.error(
            int(large[0]),
            f"the id {values[large[0]]:.0f} in column '{name}' is a float of {values.dtype.itemsize * 8} bits, in which"
            f" different ids from 2^{bits} on become one. Write ids as whole numbers or text.",
        )
    return values.astype(np.int64)


def _as_text(values: "pa.ChunkedArray | pa.Array", origin: Origin, name: str) -> "pa.ChunkedArray | pa.Array":
    import pyarrow as pa

    try:
        return values.cast(pa.large_string())
    except pa.ArrowInvalid as error:
        raise not_utf8(origin, f"column '{name}'") from error
    except pa.ArrowNotImplementedError as error:
        raise DataError(f"Column '{name}' of {origin} holds {values.type}; {_ID_KINDS}.") from error


def _first_true(mask: "pa.ChunkedArray") -> int:
    return int(np.flatnonzero(mask.to_numpy())[0])


def _numbers(column: "pa.ChunkedArray", origin: Origin, name: str, what: str) -> npt.NDArray[np.float64]:
    """Return a column as float64 (n,); raise :class:`DataError` naming the first row that is not a finite number."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    try:
        # Rounding a number beyond 2^53 is fine; taking a text for a number is not.
        values: npt.NDArray[np.float64] = column.cast(
            pa.float64(), safe=not pa.types.is_integer(column.type)
        ).to_numpy()
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
        raise origin.error(_first_true(column.is_null()), f"the time in column '{name}' is missing.")
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
