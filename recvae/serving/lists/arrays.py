"""Arrow arrays of ids, lists and ratings as NumPy reads them, with a sentence for each that cannot be used."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recvae.errors import DataError
from recvae.matrices import Rows

if TYPE_CHECKING:
    import pyarrow as pa

_ID_KINDS = "ids must be text or whole numbers"


def is_list(kind: "pa.DataType") -> bool:
    """Return whether the values of a column are lists."""
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def as_text(values: "pa.Array", name: str) -> "pa.Array":
    """Return ids as an array of text of the same length; raise :class:`DataError` where the column holds no ids."""
    import pyarrow as pa

    if pa.types.is_string(values.type):
        return values
    if pa.types.is_dictionary(values.type):
        return as_text(values.dictionary, name).take(values.indices)
    kind = values.type
    text = pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_integer(kind)
    if pa.types.is_floating(kind):
        values, text = _whole(values, name), True
    if not (text or pa.types.is_decimal(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise DataError(f"The column '{name}' holds {kind}; {_ID_KINDS}.")
    try:
        return values.cast(pa.string())
    except pa.ArrowInvalid as error:
        raise DataError(f"The column '{name}' holds ids that are not UTF-8 text; {_ID_KINDS}.") from error


def _whole(values: "pa.Array", name: str) -> "pa.Array":
    """Return ids that are whole floats as int64; raise :class:`DataError` for others, and where floats are rounded."""
    import pyarrow as pa

    numbers = values.drop_null().to_numpy(zero_copy_only=False)
    wrong = (
        ~np.isfinite(numbers)
        | (numbers != np.floor(numbers))
        | (np.abs(numbers) >= 2.0 ** (np.finfo(numbers.dtype).nmant + 1))
    )
    if wrong.any():
        raise DataError(
            f"The column '{name}' holds the id {numbers[wrong.argmax()]!s}, a number that is not whole, or so large "
            f"that it is rounded; {_ID_KINDS}."
        )
    return values.cast(pa.int64())


def distinct(values: "pa.Array", name: str) -> "tuple[NDArray[np.int64], pa.Array]":
    """Return ids as codes int64 (n,), -1 where one is missing, and the text of each code; errors as :func:`as_text`."""
    import pyarrow as pa

    if not pa.types.is_dictionary(values.type):
        values = values.dictionary_encode()
    indices = values.indices
    codes = (indices.fill_null(-1) if indices.null_count else indices).to_numpy(zero_copy_only=False)
    return codes.astype(np.int64, copy=False), as_text(values.dictionary, name)


def places(ids: "pa.Array", among: "pa.Array") -> NDArray[np.int64]:
    """Return the place of each id, text (n,), in an array of text; -1 where it is not there."""
    import pyarrow.compute as pc

    found = pc.index_in(ids, value_set=among).fill_null(-1)
    return np.asarray(found.to_numpy(zero_copy_only=False), dtype=np.int64)


def flat_lists(values: "pa.Array", name: str) -> "tuple[NDArray[np.int64], pa.Array]":
    """Return where the lists (n,) begin and end, int64 (n + 1,), and their values one after the other.

    Raises :class:`DataError` where the column holds no lists, and where one is missing.
    """
    import pyarrow as pa

    if not is_list(values.type):
        raise DataError(f"The column '{name}' holds {values.type}, and not a list of items for each user.")
    if values.null_count:
        row = int(values.is_null().to_numpy(zero_copy_only=False).argmax())
        raise DataError(
            f"The list in the column '{name}' is missing in row {row + 1:,}: a user without items has an empty one."
        )
    if pa.types.is_fixed_size_list(values.type):
        values = values.cast(pa.large_list(values.type.value_type))
    offsets = values.offsets.to_numpy().astype(np.int64)
    return offsets - offsets[0], values.flatten()


def numbers(values: "pa.Array", name: str) -> NDArray[np.float64]:
    """Return ratings as float64 (n,), NaN where one is missing; raise :class:`DataError` for another column."""
    import pyarrow as pa

    kind = values.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise DataError(f"The column '{name}' holds {kind}; ratings are numbers.")
    found: NDArray[np.float64] = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return found


def ends(lengths: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the offsets of lists of these lengths, int32 (n + 1,)."""
    return np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)


def as_lists(offsets: NDArray[np.int32], values: "pa.Array") -> "pa.Array":
    """Return values as a list array."""
    import pyarrow as pa

    return pa.ListArray.from_arrays(pa.array(offsets), values)


def history_matrix(
    indptr: NDArray[np.int64], columns: NDArray[np.int64], values: NDArray[np.float64] | None, n_items: int, one: float
) -> Rows:
    """Return histories as canonical rows (n, n_items); items of column -1 are left out, and an item counts once.

    ``values``: of each entry, of which an item keeps its first; without, each is ``one``.
    """
    rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    known = columns >= 0
    keys = rows[known] * n_items + columns[known]
    found = None if values is None else values[known]
    if not (keys[1:] > keys[:-1]).all():
        if found is None:
            keys.sort()
        else:
            order = np.argsort(keys, kind="stable")  # of equal ones the first stays first
            keys, found = keys[order], found[order]
        first = np.ones(len(keys), dtype=bool)
        np.not_equal(keys[1:], keys[:-1], out=first[1:])
        keys, found = keys[first], None if found is None else found[first]
    rows, columns = np.divmod(keys, n_items)
    starts = np.searchsorted(rows, np.arange(len(indptr)))
    data = np.full(len(keys), one, np.float32) if found is None else found.astype(np.float32)
    return Rows((data, columns, starts), shape=(len(indptr) - 1, n_items))
