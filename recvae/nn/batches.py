"""Sparse click matrices on the device, and batches of their rows.

The CSR lives on the device once, or stays in the mapped files of a dataset folder, of which a batch copies its rows
alone. A pass over the users is a permutation made on the device; a batch is gathered rows, kept sparse for a sparse
first layer or scattered into a dense buffer that is reused. Nothing of size users x items is ever made, and no step
waits for the device: the number of clicks in every batch is read once a pass.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from recvae.matrices import Matrix, canonical, mapping_of, pieces_of, refuse_weights, release
from recvae.nn.kernels import gathered_sum
from recvae.nn.noise import Noise
from recvae.nn.portions import Portion
from recvae.nn.shards import Shard, Whole


@dataclass(frozen=True)
class Batch:
    """Some users' clicks, as parallel arrays on one device; B users, N clicks, I items.

    ``users`` (B,) int64: row of each user in the matrix the batch was taken from.
    ``offsets`` (B + 1,) int64: user b's clicks are ``offsets[b] .. offsets[b + 1]``.
    ``rows`` (N,) int64: position in the batch of each click's user. ``columns`` (N,) int64: item of each click.
    ``values`` (N,) float32: weight of each click, 1 where binarised.
    ``repeats``: whether a user may have an item more than once, all but one of them with value 0.
    ``shared``: the items (U,) that the users have, ascending, and the place among them of each click's (N,), where most
    users have most of them; None elsewhere.
    ``conditions`` (B, C) float32, 0 or 1: the conditions of a ranking, for a model that has conditions, or None.
    ``whole``: where these are the clicks on one process's items alone, the facts about the clicks on all items; I and
    the columns are those of the items here, and sums over a user's clicks are those over all items. None elsewhere.
    ``of_norm_1`` (N,) float32: the result of :meth:`normalised` where it is known already.
    """

    users: Tensor
    offsets: Tensor
    rows: Tensor
    columns: Tensor
    values: Tensor
    n_items: int
    repeats: bool = False
    shared: tuple[Tensor, Tensor] | None = None
    conditions: Tensor | None = None
    whole: Whole | None = None
    of_norm_1: Tensor | None = None

    def __len__(self) -> int:
        return len(self.users)

    @classmethod
    def of(cls, matrix: csr_array, device: torch.device | str = "cpu", *, weighted: bool = False) -> "Batch":
        """Return all rows of a canonical CSR (B, n_items) as one batch; ``weighted`` as for :class:`Clicks`."""
        n_users, n_items = matrix.shape
        users, lengths = np.arange(n_users), np.diff(matrix.indptr)
        on_cpu = torch.device(device).type == "cpu"

        def there(array: NDArray[np.generic]) -> Tensor:
            tensor = torch.from_numpy(array)
            return tensor if on_cpu else tensor.to(device)

        return cls(
            users=there(users),
            offsets=there(matrix.indptr.astype(np.int64)),
            rows=there(np.repeat(users, lengths)),
            columns=there(matrix.indices.astype(np.int64)),
            values=there(_float32_weights(matrix) if weighted else np.ones(len(matrix.indices), np.float32)),
            n_items=n_items,
            of_norm_1=None if weighted else there(1 / np.repeat(np.sqrt(lengths, dtype=np.float32), lengths)),
        )

    @cached_property
    def lengths(self) -> Tensor:
        """Number of clicks of each user, int64 (B,)."""
        return self.offsets[1:] - self.offsets[:-1]  # diff takes five times as long for a few users

    @cached_property
    def cells(self) -> Tensor:
        """Position of each click in the flattened dense (B, I) matrix, int64 (N,)."""
        return self.rows * self.n_items + self.columns

    @cached_property
    def totals(self) -> Tensor:
        """Sum of the click weights of each user, n_u in the papers, float32 (B,)."""
        if self.whole is not None and self.whole.totals is not None:
            return self.whole.totals
        return self.joined(self.row_sum(self.values))

    @cached_property
    def by_item(self) -> tuple[Tensor, Tensor, Tensor]:
        """The clicks sorted by item: ``rows`` and ``values`` (N,), and ``offsets`` (I + 1,) of each item's clicks."""
        order = self.columns.argsort(stable=True)
        offsets = torch.zeros(self.n_items + 1, dtype=torch.int64, device=self.columns.device)
        offsets.scatter_add_(0, self.columns + 1, torch.ones_like(self.columns))
        return self.rows[order], self.values[order], offsets.cumsum_(0)

    def row_sum(self, per_click: Tensor) -> Tensor:
        """Sum one value per click (N,) into one per user (B,); a user without clicks gets 0."""
        return torch.segment_reduce(per_click, "sum", lengths=self.lengths, initial=0.0, unsafe=True)

    def row_sums(self, table: Tensor, values: Tensor) -> Tensor:
        """Sum, for each user, the rows of a table (n_items, H) that belong to the clicked items: (B, H).

        Each row is multiplied with the click's value, (N,). Not differentiable in the table.
        """
        return gathered_sum(table, self.columns, self.offsets, values)

    def normalised(self) -> Tensor:
        """Click values of x / ||x||_2, float32 (N,). A user without clicks has none, so there is no 0 / 0."""
        if self.of_norm_1 is not None and self.whole is None:
            return self.of_norm_1
        if self.whole is not None and self.whole.norms is not None:
            norms = self.whole.norms
        else:
            norms = self.joined(self.row_sum(self.values * self.values)).sqrt()  # (B,)
        return self.values / norms[self.rows]

    @property
    def portion(self) -> Portion | None:
        """The facts about the batch of which these are some users; None where they are all."""
        return None if self.whole is None else self.whole.portion

    def joined(self, part: Tensor) -> Tensor:
        """Return a sum over all items from the sum over the items here, in all processes at once."""
        return part if self.whole is None else self.whole.shard.sum(part)

    def with_values(self, values: Tensor) -> "Batch":
        """Return the batch with other click values (N,)."""
        whole = None if self.whole is None else replace(self.whole, totals=None, norms=None)
        return replace(self, values=values, whole=whole, of_norm_1=None)

    def dropped(self, values: Tensor, rate: float, noise: Noise) -> Tensor:
        """Return one value per click, (N,), after inverted dropout, as :meth:`Noise.dropout` has it."""
        if self.whole is None:
            return noise.dropout(values, rate)
        return values if rate == 0 else values * self.kept(rate, noise) / (1 - rate)

    def kept(self, rate: float, noise: Noise) -> Tensor:
        """Return a mask of the clicks, (N,), each entry False with probability ``rate``, of one noise for all items."""
        if self.whole is None:
            return noise.kept(self.values, rate)
        return noise.kept(self.values.new_empty(self.whole.n_clicks), rate)[self.whole.places]

    def dense(self, values: Tensor, out: Tensor | None = None) -> Tensor:
        """Scatter one value per click (N,) into a zeroed (B, I) matrix, in the memory ``out`` if there is one."""
        if out is None:
            out = values.new_zeros(len(self), self.n_items)
        else:
            out.zero_()
        if self.repeats:
            out.view(-1).scatter_reduce_(0, self.cells, values, "amax")  # in any order; values are not negative
        else:
            out.view(-1).index_put_((self.cells,), values)  # cells are distinct, so the order does not matter
        return out

    def sharing(self) -> "Batch":
        """Return the batch with its users' items in :attr:`shared`, if its clicks fill a quarter of users x items.

        A first layer then multiplies a dense matrix of these users and items, which for many users of nearly the same
        long history takes a small part of the time that gathering takes.
        """
        has = torch.zeros(self.n_items, dtype=torch.bool, device=self.columns.device)
        has[self.columns] = True
        items = has.nonzero().squeeze(1)
        if len(self) < 2 or len(self) * len(items) > 4 * len(self.columns):
            return self
        if 2 * len(items) > self.n_items:  # the rows of a first layer are not worth a copy
            return replace(self, shared=(torch.arange(self.n_items, device=items.device), self.columns))
        return replace(self, shared=(items, (has.cumsum(0) - 1)[self.columns]))

    def under(self, conditions: csr_array) -> "Batch":
        """Return the batch under conditions, a sparse matrix (B, C) of 0 and 1."""
        dense = torch.from_numpy(conditions.toarray().astype(np.float32))
        return replace(self, conditions=dense.to(self.values.device))

    def of_ones(self) -> "Batch":
        """Return the same clicks, each with the value 1."""
        return replace(self, values=torch.ones_like(self.values))

    def repeated(self, times: int) -> "Batch":
        """Return the batch repeated ``times`` times, one copy after the other."""
        n_users, n_clicks = len(self), len(self.columns)
        copy = torch.arange(times, device=self.users.device)[:, None]
        return Batch(
            users=self.users.repeat(times),
            offsets=torch.cat(((copy * n_clicks + self.offsets[:-1]).flatten(), copy.new_full((1,), times * n_clicks))),
            rows=(copy * n_users + self.rows).flatten(),
            columns=self.columns.repeat(times),
            values=self.values.repeat(times),
            n_items=self.n_items,
            repeats=self.repeats,
            conditions=None if self.conditions is None else self.conditions.repeat(times, 1),
            whole=None if self.whole is None else self.whole.repeated(times),
        )


class Clicks:
    """A users x items click matrix on a device.

    ``matrix``: scipy CSR (n_users, n_items), canonical. Every stored entry is a click; with ``weighted`` its value is
    the click's weight, otherwise it counts as 1. Raises :class:`DataError` where a weight is negative, NaN or infinite.
    """

    shard: Shard | None = None  # where these are the clicks on one process's items alone

    def __init__(self, matrix: Matrix, device: torch.device | str = "cpu", *, weighted: bool = False) -> None:
        csr = canonical(matrix)
        self.n_users, self.n_items = csr.shape
        self.indptr = torch.from_numpy(csr.indptr.astype(np.int64)).to(device)
        self.device = self.indptr.device  # with its index, so that it equals the tensors' device
        self.columns = PerClick(csr.indices, np.int32).to(self.device)
        self.weights = None
        if weighted:
            _check_weights(csr)
            self.weights = PerClick(csr.data, np.float32).to(self.device)

    def __len__(self) -> int:
        return int(self.n_users)

    def to(self, device: torch.device | str) -> "Clicks":
        """Return the same clicks on another device."""
        moved = copy.copy(self)
        moved.indptr, moved.columns = self.indptr.to(device), self.columns.to(device)
        moved.weights = None if self.weights is None else self.weights.to(device)
        moved.device = moved.indptr.device
        return moved

    def take(self, users: Tensor, n_clicks: int) -> Batch:
        """Return the rows ``users`` (B,) int64, whose number of clicks ``n_clicks`` is passed so that nothing waits."""
        starts = self.indptr[users]
        lengths = self.indptr[users + 1] - starts
        offsets = torch.zeros(len(users) + 1, dtype=torch.int64, device=self.device)
        torch.cumsum(lengths, 0, out=offsets[1:])
        position = torch.arange(len(users), device=self.device)
        rows = torch.repeat_interleave(position, lengths, output_size=n_clicks)
        where = (starts - offsets[:-1])[rows] + torch.arange(n_clicks, device=self.device)
        columns = self.columns.at(where).long()
        values = torch.ones(n_clicks, device=self.device) if self.weights is None else self.weights.at(where)
        return Batch(users, offsets, rows, columns, values, self.n_items)

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Yield all users in order, ``batch_size`` at a time."""
        return self.batches(torch.arange(len(self), device=self.device), batch_size, drop_last=False)

    def shuffled(self, batch_size: int, noise: Noise, *, drop_last: bool = False) -> Iterator[Batch]:
        """Yield all users in a fresh random order, ``batch_size`` at a time.

        ``drop_last`` leaves out a last batch that is not full, unless it is the only one.
        """
        return self.batches(noise.permutation(len(self)), batch_size, drop_last=drop_last)

    def batches(self, order: Tensor, batch_size: int, *, drop_last: bool) -> Iterator[Batch]:
        """Yield the users in this ``order``, int64, ``batch_size`` at a time; ``drop_last`` as in :meth:`shuffled`."""
        counts = batch_counts(self.indptr.diff(), order, batch_size, drop_last=drop_last)
        for b, n_clicks in enumerate(counts):
            yield self.take(order[b * batch_size : (b + 1) * batch_size], n_clicks)


def batch_counts(lengths: Tensor, order: Tensor, batch_size: int, *, drop_last: bool) -> list[int]:
    """Return the number of clicks in each batch of users in this ``order``, whose clicks ``lengths`` counts.

    It is the only wait for the device in a pass.
    """
    ends = torch.cumsum(lengths[order], 0)
    n_batches = number_of_batches(len(order), batch_size, drop_last=drop_last)
    last = torch.arange(1, n_batches + 1).mul_(batch_size).clamp_(max=len(order)).sub_(1)
    counts: list[int] = ends[last.to(lengths.device)].diff(prepend=ends.new_zeros(1)).tolist()
    return counts


class PerClick:
    """One value of each click, in memory as ``kind``, or in a mapped file, which is left there for the CPU."""

    def __init__(self, array: NDArray[np.generic], kind: type[np.generic]) -> None:
        self.kind = kind
        self.file = None if mapping_of(array) is None else array
        self.tensor = torch.from_numpy(array.astype(kind)) if self.file is None else None

    def to(self, device: torch.device | str) -> "PerClick":
        """Return the same values on another device."""
        moved = copy.copy(self)
        if self.tensor is not None:
            moved.tensor = self.tensor.to(device)
        elif torch.device(device).type != "cpu":
            assert self.file is not None
            parts = [torch.from_numpy(self.file[piece].astype(self.kind)).to(device) for piece in pieces_of(self.file)]
            moved.file, moved.tensor = None, torch.cat(parts)
        return moved

    def at(self, where: Tensor) -> Tensor:
        """Return the values at places (N,) int64."""
        if self.tensor is not None:
            return self.tensor[where]
        assert self.file is not None
        values = torch.from_numpy(self.file.take(where.numpy()).astype(self.kind, copy=False))
        release(self.file)
        return values


def number_of_batches(n_users: int, batch_size: int, *, drop_last: bool = False) -> int:
    """Return how many batches one pass over ``n_users`` makes."""
    full, rest = divmod(n_users, batch_size)
    return full + (1 if rest and not (drop_last and full) else 0)


def _float32_weights(matrix: csr_array) -> NDArray[np.float32]:
    """Return the click weights as float32; errors as :func:`_check_weights`."""
    _check_weights(matrix)
    weights: NDArray[np.float32] = matrix.data.astype(np.float32)
    return weights


def _check_weights(matrix: csr_array) -> None:
    """Raise :class:`DataError` for a weight whose square float32 cannot hold."""
    if any(((part < 1e-18) | (part > 1e18)).any() for part in (matrix.data[piece] for piece in pieces_of(matrix.data))):
        refuse_weights(matrix, (matrix.data < 1e-18) | (matrix.data > 1e18))
