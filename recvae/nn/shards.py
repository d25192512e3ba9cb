"""A catalogue in parts: each process has the rows of some items, and sums over all items are made of all parts' sums.

A layer on clicks is a sum over the clicked items, the multinomial likelihood needs a sum of exponentials over all
items, the others a sum of terms. So a process that has a part of the items computes a part of each sum, and
:meth:`Shard.sum` joins them. Between its first and its last layer a network is the same in all processes, and so is
everything computed from it. This module knows no way to talk to other processes: :mod:`recvae.training.distributed`
has one.

Notation: B users, I items in all, I' of them here.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from recvae.nn.portions import Portion

BLOCK = 1 << 22  # values of a whole table that are drawn at once, to keep the rows of this process


class Shard(ABC):
    """The items of this process. ``columns`` int64 (I',): the column in the catalogue of each row here, in any order.

    ``most``: the largest number of items that any process has. The functions that talk are called by all processes, in
    the same order.
    """

    def __init__(self, columns: Tensor, n_items: int, most: int) -> None:
        self.columns, self.n_items, self.most = columns, n_items, most

    def __len__(self) -> int:
        return len(self.columns)

    def __deepcopy__(self, memo: dict[int, object]) -> "Shard":
        return self  # a copied layer has the same items and the same other processes

    @cached_property
    def ascending(self) -> Tensor:
        """The rows here in the order of their columns in the catalogue, int64 (I',)."""
        return self.columns.argsort()

    @cached_property
    def sorted(self) -> Tensor:
        """The columns in order, int64 (I',)."""
        return self.columns[self.ascending]

    @cached_property
    def rows(self) -> Tensor:
        """The row here of each column of the catalogue, int64 (I,); -1 for an item of another process."""
        rows = torch.full((self.n_items,), -1)
        rows[self.columns] = torch.arange(len(self))
        return rows

    @torch.no_grad()
    def put(self, part: Tensor, rows: Tensor, start: int, dim: int | None) -> None:
        """Put some rows of all items' tensor, from row ``start`` on, where they belong in this process's ``part``."""
        stop = start + len(rows)
        if dim is None:
            part[start:stop] = rows.to(part.device)
        elif dim == 1:
            part[start:stop] = rows[:, self.columns].to(part.device)
        else:
            low, high = torch.searchsorted(self.sorted, torch.tensor([start, stop])).tolist()
            part[self.ascending[low:high]] = rows[self.sorted[low:high] - start].to(part.device)

    @abstractmethod
    def sum(self, part: Tensor) -> Tensor:
        """Return the sum of all processes' ``part``; the gradient of each part is the sum's."""

    @abstractmethod
    def shared(self, value: Tensor) -> Tensor:
        """Return ``value``, equal in all processes, with a gradient that is the sum of all processes' gradients."""

    @abstractmethod
    def largest(self, part: Tensor) -> Tensor:
        """Return the elementwise maximum of all processes' ``part``, without gradients."""

    @abstractmethod
    def beside(self, part: Tensor) -> Tensor:
        """Return all processes' ``part`` (B, n), side by side: (B, n T) for T processes."""


Items = int | Shard
"""A catalogue: a number of items that are all here, or a part of them."""


def all_items(items: Items) -> int:
    """Return the size of the catalogue."""
    return items if isinstance(items, int) else items.n_items


def items_here(items: Items) -> int:
    """Return the number of items whose rows are in this process."""
    return items if isinstance(items, int) else len(items)


def shard_of(items: Items) -> Shard | None:
    """Return the part, None where all items are here."""
    return None if isinstance(items, int) else items


@dataclass(frozen=True)
class Whole:
    """A batch of all processes' clicks, of which this process has those on its own items; B users, N clicks here.

    ``totals`` and ``norms`` float32 (B,): sum and Euclidean norm of all click weights of each user; None where they are
    still to be summed over the processes. ``n_clicks``: clicks of the batch in all processes, and ``places`` int64
    (N,): the place among them of each click here, so that all processes draw one noise. ``lengths`` int64 (B,): clicks
    of each user in all processes. ``portion``: where these are some users of a batch whose others are in other
    processes, the facts about them; the clicks that are counted and placed are those of all its users.
    """

    shard: Shard
    totals: Tensor | None
    norms: Tensor | None
    n_clicks: int
    places: Tensor
    lengths: Tensor
    portion: Portion | None = None

    def repeated(self, times: int) -> "Whole":
        """Return the batch repeated ``times`` times; it is for the likelihood, and no noise is drawn for it."""

        def more(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.repeat(times)

        return replace(self, totals=more(self.totals), norms=more(self.norms), lengths=self.lengths.repeat(times))


@torch.no_grad()
def draw(table: Tensor, fill: Callable[[Tensor], object], shard: Shard | None, *, dim: int = 0) -> None:
    """Fill ``table`` in place by ``fill``, or its part of the items by the values that the whole table would have.

    Items are along ``dim``, 0 or 1, of a table of at most two dimensions. The whole is drawn block by block, each a
    multiple of 16 rows, with which PyTorch's generators of uniform and normal numbers go on as in one piece.
    """
    if table.is_meta:
        return
    if shard is None:
        fill(table)
        return
    n_rows = shard.n_items if dim == 0 else len(table)
    shape = table.shape[1:] if dim == 0 else (shard.n_items,)
    width = max(1, shape.numel() if isinstance(shape, torch.Size) else shape[0])
    at_once = max(16, BLOCK // width // 16 * 16)
    starts = list(range(0, n_rows, at_once))
    if len(starts) > 1 and (n_rows - starts[-1]) * width < 16:  # a shorter piece is drawn in another way
        starts.pop()
    for start, stop in zip(starts, [*starts[1:], n_rows], strict=True):
        block = table.new_empty(stop - start, *shape)
        fill(block)
        shard.put(table, block, start, dim)
