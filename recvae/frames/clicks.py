"""Clicks in data frames -> sparse matrices, and lists of items -> a data frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recvae.arguments import Frame
from recvae.errors import DataError, InputError
from recvae.frames.ids import (
    CANONICAL_INTEGER,
    Columns,
    Origin,
    ascending,
    check_columns,
    joined,
    texts_of,
    united,
    whole_ids,
)
from recvae.frames.tables import LABEL, Table

if TYPE_CHECKING:
    import pyarrow as pa
    from scipy.sparse import csr_array

RANK, SCORE = "rank", "score"


@dataclass(frozen=True, eq=False)
class FrameClicks:
    """The rows of frames, one frame after the other: int32 codes (n,) of distinct users and items.

    ``user_ids`` and ``item_ids`` are in order of first appearance; item ids are the texts of the column, in which whole
    numbers written as floats still have their ``.0``. ``ends``: the number of rows up to the end of each frame.
    """

    tables: tuple[Table, ...]
    want: Columns
    user: NDArray[np.int32]
    item: NDArray[np.int32]
    user_ids: Sequence[str]
    item_ids: Sequence[str]
    ends: tuple[int, ...]

    @property
    def parts(self) -> list[slice]:
        """The rows of each frame."""
        return [slice(start, end) for start, end in zip((0, *self.ends), self.ends, strict=False)]


def read_clicks(frames: Sequence[Frame], want: Columns, labels: Sequence[str] = (LABEL,)) -> FrameClicks:
    """Read the users and items of frames that have the same two columns.

    Raises :class:`InputError` for anything that is no frame, and :class:`DataError`, naming the frame and the row, for
    a column that there is not, or twice, for a missing id, and for a frame without rows.
    """
    tables = tuple(Table(frame, label) for frame, label in zip(frames, labels, strict=True))
    users, items = [], []
    for table in tables:
        check_columns(table.label, want, table.names)
        arrow = table.columns(want.names())
        if not arrow.num_rows:
            raise DataError(f"{table.label[0].upper() + table.label[1:]} has no rows.")
        users.append(texts_of(arrow[want.user], Origin(table.label), want.user))
        items.append(texts_of(arrow[want.item], Origin(table.label), want.item))
    user, user_ids = united(users)
    item, item_ids = joined(items)
    ends = np.cumsum([len(codes) for codes, _ in users]).tolist()
    return FrameClicks(tables, want, user, item, user_ids.tolist(), item_ids, tuple(ends))


def training_matrix(frame: Frame, want: Columns) -> "tuple[csr_array, list[str]]":
    """Return a frame's clicks as CSR (n_users, n_items), float32 ones, and the item ids of its columns.

    Users and items are in ascending order of their ids, so that the order of the rows changes nothing. Errors are those
    of :func:`read_clicks`.
    """
    clicks = read_clicks([frame], want)
    item_ids = whole_ids(clicks.item_ids)
    of_users, of_items = ascending(clicks.user_ids), ascending(item_ids)
    place_of_user, place_of_item = np.argsort(of_users), np.argsort(of_items)
    shape = len(of_users), len(of_items)
    matrix = clicked(place_of_user[clicks.user], place_of_item[clicks.item], shape)
    return matrix, [item_ids[i] for i in of_items.tolist()]


def clicked(
    rows: NDArray[np.integer], columns: NDArray[np.integer], shape: tuple[int, int], value: float = 1.0
) -> "csr_array":
    """Return a canonical CSR with ``value`` at the places that are named, however often each is; float32."""
    from scipy.sparse import csr_array

    matrix = csr_array((np.ones(len(rows), np.float32), (rows, columns)), shape=shape)
    matrix.sum_duplicates()
    matrix.data[:] = value
    return matrix


def lists_frame(
    clicks: FrameClicks, ids: NDArray[np.int32], scores: NDArray[np.float32], names: Sequence[str]
) -> Frame:
    """Return lists (n_users, k) as long rows of user, item, rank and score, in the kind of the frame of ``clicks``.

    Row u of ``ids`` and ``scores`` is the list of ``clicks.user_ids[u]``, padded with -1; ``names`` are the items' raw
    ids by column. Users, and items where the frame has them as numbers, keep the type of the frame's column. Raises
    :class:`InputError` where a listed item is not a number that the column can hold.
    """
    import pyarrow as pa

    (table,), want = clicks.tables, clicks.want
    arrow = table.columns(want.names())
    listed = ids >= 0
    users = np.nonzero(listed)[0]
    _, first = np.unique(clicks.user, return_index=True)  # codes are in order of first appearance
    texts = pa.array(np.asarray(names, dtype=np.object_)[ids[listed]], type=pa.large_string())
    made = {
        want.user: arrow[want.user].take(pa.array(first[users])),
        want.item: _as_in(arrow[want.item], texts, want.item),
        RANK: pa.array((np.nonzero(listed)[1] + 1).astype(np.int64)),
        SCORE: pa.array(scores[listed]),
    }
    return table.like(pa.table(made))


def refuse_result_names(want: Columns) -> None:
    """Raise :class:`InputError` where a column of a frame has the name of a column of the lists."""
    for name in (want.user, want.item):
        if name in (RANK, SCORE):
            raise InputError(f"The lists have a column '{name}' of their own. Rename the frame's column '{name}'.")


def _as_in(column: "pa.ChunkedArray", texts: "pa.Array", name: str) -> "pa.Array":
    """Return item ids in the type of a column of numbers, and as text beside any other column."""
    import pyarrow as pa

    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return texts
    try:
        numbers = texts.cast(kind)
        codes, back = texts_of(pa.chunked_array([numbers]), Origin("the lists"), name) if len(texts) else ([], texts)
        if back.take(pa.array(codes, type=pa.int32())).equals(texts):  # 007 is 7 as a number, which is another item
            return numbers
    except (pa.ArrowInvalid, DataError):
        pass
    found = texts.to_pylist()
    other = next((text for text in found if not CANONICAL_INTEGER.fullmatch(text)), found[0])
    raise InputError(
        f"A list has the item {other!r}, and column '{name}' of the frame holds numbers of type {kind}. Give the frame "
        "with items as text."
    )
