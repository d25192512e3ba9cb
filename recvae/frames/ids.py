"""Ids in the columns of a table: the one rule by which text, numbers and floats become ids, and its error sentences.

An id is kept as it was written. Whole numbers are their digits, also in a column of floats, which is how pandas keeps
whole numbers beside missing values; a float that is not whole, or may be rounded, is refused. Rows are numbered from 1
in messages, any header not counted.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recvae.arguments import shown
from recvae.errors import DataError, InputError, did_you_mean

if TYPE_CHECKING:
    import pyarrow as pa

_ID_KINDS = "ids must be text or whole numbers"
CANONICAL_INTEGER = re.compile(r"0|-?[1-9][0-9]*")
_WHOLE_FLOAT = re.compile(r"(?:0|-?[1-9][0-9]*)\.0")


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


def check_columns(label: object, want: Columns, names: Sequence[str], separator: str | None = None) -> None:
    """Raise an error unless each wanted column is among ``names`` exactly once and has one purpose."""
    for name in want.names():
        if not isinstance(name, str):
            raise InputError(f"The name of a column is a text, and not {shown(name)}.")
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


def coded_ids(column: "pa.ChunkedArray", label: str, name: str) -> tuple[NDArray[np.int32], NDArray[np.object_]]:
    """Return int32 codes (n,) and the distinct ids (object array of str), in order of first appearance."""
    return united([texts_of(column, Origin(label), name)])


def united(parts: "Sequence[tuple[NDArray[np.int32], pa.Array]]") -> tuple[NDArray[np.int32], NDArray[np.object_]]:
    """Return the codes of all parts, with common ids in order of first appearance."""
    codes, texts = joined(parts)
    return codes, np.array(whole_ids(texts), dtype=np.object_)


def joined(parts: "Sequence[tuple[NDArray[np.int32], pa.Array]]") -> tuple[NDArray[np.int32], list[str]]:
    """Return the codes of all parts, and the common texts as they stand, in order of first appearance."""
    import pyarrow as pa

    (codes, ids), *others = parts
    if others:
        chunks = [pa.DictionaryArray.from_arrays(pa.array(mine), texts) for mine, texts in parts]
        column = pa.chunked_array(chunks).unify_dictionaries()
        codes, ids = np.concatenate([chunk.indices.to_numpy() for chunk in column.chunks]), column.chunk(0).dictionary
    return codes, ids.to_pylist()


def texts_of(column: "pa.ChunkedArray", origin: Origin, name: str) -> "tuple[NDArray[np.int32], pa.Array]":
    """Return int32 codes (n,) and the distinct ids as an Arrow array of texts, in order of first appearance."""
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if column.null_count:
        raise origin.error(first_true(column.is_null()), f"the id in column '{name}' is missing.")
    if pa.types.is_floating(kind):
        column = pa.chunked_array([pa.array(_whole(column.cast(kind).to_numpy(), origin, name))])
    elif pa.types.is_nested(kind) or pa.types.is_null(kind) or pa.types.is_fixed_size_binary(kind):
        # polars gives a column of Python objects away as their addresses, eight bytes each
        raise DataError(f"Column '{name}' of {origin} holds {kind}; {_ID_KINDS}.")
    if pa.types.is_decimal(kind) or pa.types.is_binary(kind):
        column = _as_text(column, origin, name)
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    chunks = column.unify_dictionaries().chunks
    codes = numbers_of([chunk.indices for chunk in chunks]).astype(np.int32, copy=False)
    dictionary = _as_text(chunks[0].dictionary, origin, name)
    empty = dictionary.index("").as_py()
    if empty >= 0:
        rows = np.flatnonzero(codes == empty)
        if rows.size:
            raise origin.error(int(rows[0]), f"the id in column '{name}' is empty.")
    return codes, dictionary


def numbers_of(chunks: "Sequence[pa.Array]") -> NDArray[np.generic]:
    """Return the numbers of arrays in which none is missing. Arrow's own way to NumPy imports pandas where it can."""
    return np.concatenate([np.from_dlpack(chunk) for chunk in chunks])


def whole_ids(ids: Iterable[str]) -> list[str]:
    """Return a column's distinct ids, without the ``.0`` where all of them are whole numbers written as floats.

    A column of floats is written to text so; read from Parquet or a frame it has the same ids.
    """
    texts = list(ids)
    return [text[:-2] for text in texts] if all(map(_WHOLE_FLOAT.fullmatch, texts)) else texts


def ascending(ids: Sequence[str] | NDArray[np.object_]) -> NDArray[np.int64]:
    """Return the permutation (len(ids),) that puts ids in ascending order.

    The order is numeric where every id is a canonical integer ("0", or an optional minus and no leading zero), and by
    code point otherwise, so that "007" and "7" stay two ids with a defined order.
    """
    texts = list(ids)
    if not all(map(CANONICAL_INTEGER.fullmatch, texts)):
        return np.array(sorted(range(len(texts)), key=texts.__getitem__), dtype=np.int64)
    numbers = [int(text) for text in texts]
    try:
        return np.argsort(np.array(numbers, dtype=np.int64), kind="stable").astype(np.int64)
    except OverflowError:
        return np.array(sorted(range(len(numbers)), key=numbers.__getitem__), dtype=np.int64)


def row_error(label: object, row: int, problem: str) -> DataError:
    """Return the error for a row, numbered from 1 without the header."""
    return DataError(f"{label}, row {row:,} (header not counted): {problem} Correct or remove that row.")


def not_utf8(label: object, where: str, encoding: str = "latin1") -> DataError:
    """Return the error for text that is not UTF-8; the remedy converts it from ``encoding``."""
    return DataError(
        f"{label} is not UTF-8 text ({where}). Convert it, for example: iconv -f {encoding} -t utf-8 OLD > NEW"
    )


def _whole(values: NDArray[np.floating], origin: Origin, name: str) -> NDArray[np.int64]:
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


def first_true(mask: "pa.ChunkedArray") -> int:
    """Return the place of the first True in a column that has one."""
    return int(np.flatnonzero(mask.to_numpy())[0])
