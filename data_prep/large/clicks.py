"""Clicks sorted by user and row in flat files, the filters on them, and blocks of whole users in their final order."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from data_prep.choices import Choices
from data_prep.interactions import Codes, first_with_key, nothing_left
from data_prep.mapped import write_values
from recvae.matrices import release

if TYPE_CHECKING:
    import pyarrow as pa

Numbers = npt.NDArray[np.int64]
Times = npt.NDArray[np.int64] | npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Block:
    """All clicks of some users who follow one another in ascending order, by user and then by row.

    ``first``: the place of the first user among all. ``counts`` (u,): clicks of each user. ``items`` int32 (n,),
    ``numbers`` int64 (n,) the rows over all files, and ``times`` (n,) or None.
    """

    first: int
    counts: Numbers
    items: Codes
    numbers: Numbers
    times: Times | None

    @property
    def users(self) -> Numbers:
        """The place in the block of each click's user, int64 (n,)."""
        return np.repeat(np.arange(len(self.counts)), self.counts)


@dataclass(frozen=True, eq=False)
class Clicks:
    """Clicks in flat files: user u's are ``starts[u] .. starts[u + 1]`` of ``items``, ``numbers`` and ``times``.

    ``size`` is about the number of clicks that are looked at together.
    """

    starts: Numbers
    items: Codes
    numbers: Numbers
    times: Times | None
    n_items: int
    duplicates: int
    size: int

    def blocks(self, order: npt.NDArray[np.integer], items: npt.NDArray[np.bool_]) -> Iterator[Block]:
        """Yield the clicks of the users ``order``, in that order, on the ``items`` that are kept."""
        lengths = np.diff(self.starts)[order]
        ends = np.cumsum(lengths)
        first = 0
        while first < len(order):
            done = int(ends[first - 1]) if first else 0
            stop = max(first + 1, int(np.searchsorted(ends, done + self.size)))
            mine = lengths[first:stop]
            offsets = np.cumsum(mine) - mine
            where = np.repeat(self.starts[order[first:stop]] - offsets, mine) + np.arange(int(mine.sum()))
            chosen = self.items.take(where)
            kept = np.flatnonzero(items[chosen])
            users = np.repeat(np.arange(stop - first), mine)[kept]
            where = where[kept]
            times = None if self.times is None else self.times.take(where)
            counts = np.bincount(users, minlength=stop - first)
            yield Block(first, counts, chosen[kept], self.numbers.take(where), times)
            for array in (self.items, self.numbers, self.times):
                if array is not None:
                    release(array)
            first = stop


@dataclass(frozen=True, eq=False)
class Kept:
    """What the filters leave: masks of user and item codes, and the numbers of users, items and clicks."""

    users: npt.NDArray[np.bool_]
    items: npt.NDArray[np.bool_]
    n_clicks: int

    @property
    def counts(self) -> dict[str, int]:
        """Users, items and clicks before the split, for the manifest."""
        n_users, n_items = (int(np.count_nonzero(mask)) for mask in (self.users, self.items))
        return {"users": n_users, "items": n_items, "clicks": self.n_clicks}


def write_clicks(
    batches: "Iterator[pa.RecordBatch]",
    folder: Path,
    sizes: tuple[int, int],
    size: int,
    tell: Callable[[int], None],
) -> Clicks:
    """Write sorted batches of user, item, number and perhaps time to files, without repeated clicks, and map them.

    Of a user's clicks on one item the first stays. ``sizes``: the numbers of users and items; ``size``: as of
    :class:`Clicks`. ``tell`` is called with the bytes that are written.
    """
    n_users, n_items = sizes
    counts = np.zeros(n_users, np.int64)
    duplicates = written = 0
    names = ["item", "number", "time"]
    kinds: dict[str, np.dtype[np.generic]] = {}
    with ExitStack() as stack:
        files = {name: stack.enter_context((folder / name).open("wb")) for name in names}
        for users, *columns in _whole_users(batches):
            keep = first_with_key(users.astype(np.int64) * n_items + columns[0])
            if keep is not None:
                duplicates += len(users) - int(np.count_nonzero(keep))
                users, columns = users[keep], [column[keep] for column in columns]
            low = int(users[0])
            found = np.bincount(users - low)
            counts[low : low + len(found)] += found
            for name, column in zip(names, columns, strict=False):
                kinds[name] = column.dtype
                write_values(files[name], column)
                written += column.nbytes
            tell(written)
    items, numbers, times = (
        np.memmap(folder / name, kinds[name], "r").view(np.ndarray) if name in kinds else None for name in names
    )
    assert items is not None
    assert numbers is not None
    starts = np.concatenate(([0], np.cumsum(counts)))
    return Clicks(starts, items, numbers, times, n_items, duplicates, size)


def _whole_users(batches: "Iterator[pa.RecordBatch]") -> Iterator[list[npt.NDArray[np.int64]]]:
    """Yield the columns of sorted batches, users first, cut where a user ends; whatever type of number they have."""
    rest: list[npt.NDArray[np.int64]] = []
    for batch in batches:
        columns = [column.to_numpy() for column in batch.columns]
        if rest:
            columns = [np.concatenate(pair) for pair in zip(rest, columns, strict=True)]
        cut = int(np.searchsorted(columns[0], columns[0][-1]))  # the last user may go on in the next batch
        if cut:
            yield [column[:cut] for column in columns]
        rest = [column[cut:] for column in columns]
    if rest:
        yield rest


def filtered(clicks: Clicks, choices: Choices, label: str) -> Kept:
    """Return what the filters of ``choices`` leave, as :func:`data_prep.pipeline.filter_interactions` does.

    Raises :class:`DataError` naming the filter that leaves nothing.
    """
    per_user, per_item = choices.min_items_per_user, choices.min_users_per_item
    users = np.diff(clicks.starts) > 0
    items = np.ones(clicks.n_items, bool)
    of_users, of_items = np.diff(clicks.starts), np.zeros(0, np.int64)
    left = len(clicks.items)
    if choices.k_core or per_item > 1:
        of_users, of_items = _count(clicks, users, items)
    what = f"at least {per_user} items per user and {per_item} users per item, repeated to a core"
    while choices.k_core:
        enough_users, enough_items = users & (of_users >= per_user), items & (of_items >= per_item)
        if not (users & ~enough_users).any() and not (items & (of_items > 0) & ~enough_items).any():
            break
        users, items = enough_users, enough_items
        of_users, of_items = _count(clicks, users, items)
        left = _left(of_users, left, what, label)
    if not choices.k_core and per_item > 1:
        items = of_items >= per_item
        of_users, _ = _count(clicks, users, items)
        left = _left(of_users, left, f"at least {per_item} users per item", label)
    if not choices.k_core and per_user > 1:
        users = of_users >= per_user
        left = _left(np.where(users, of_users, 0), left, f"at least {per_user} items per user", label)
    users = users & (of_users > 0)
    _, of_items = _count(clicks, users, items)
    return Kept(users, items & (of_items > 0), left)


def _left(of_users: Numbers, before: int, what: str, label: str) -> int:
    """Return the clicks that a filter leaves; raise :class:`DataError` where it leaves none."""
    left = int(of_users.sum())
    if not left:
        raise nothing_left(what, label, before)
    return left


def _count(clicks: Clicks, users: npt.NDArray[np.bool_], items: npt.NDArray[np.bool_]) -> tuple[Numbers, Numbers]:
    """Return the clicks of each user and on each item, int64, among kept users and items; 0 for the others."""
    of_users, of_items = np.zeros(len(users), np.int64), np.zeros(len(items), np.int64)
    order = np.flatnonzero(users)
    for block in clicks.blocks(order, items):
        of_users[order[block.first : block.first + len(block.counts)]] = block.counts
        of_items += np.bincount(block.items, minlength=len(items))
    return of_users, of_items
