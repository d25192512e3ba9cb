"""The clicks on one process's items, with all that a process needs to know of the clicks on others' items.

That is, for each user, the number of clicks, the sum of their weights and their norm, and for each click here its place
among all of the user's clicks. So x / ||x|| and the likelihood are those of all items, and every process draws the same
noise for all clicks and takes its own part of it.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from recvae.matrices import Matrix, canonical
from recvae.nn.batches import Batch, Clicks, PerClick, number_of_batches
from recvae.nn.noise import Noise
from recvae.nn.portions import Portion, Replicas, counts_between
from recvae.nn.shards import Shard, Whole

CLICKS_AT_ONCE = 1 << 22  # of the whole matrix, while the clicks here are taken out of it


def held_batch(matrix: csr_array, shard: Shard, device: torch.device | str = "cpu", *, weighted: bool = False) -> Batch:
    """Return the clicks of all rows of a canonical CSR (B, I) on the items here as one batch."""
    every = Batch.of(matrix, "cpu", weighted=weighted)
    rows = shard.rows[every.columns]
    places = (rows >= 0).nonzero().squeeze(1)
    whole = Whole(
        shard=shard,
        totals=every.totals.to(device),
        norms=every.row_sum(every.values.square()).sqrt().to(device),
        n_clicks=len(rows),
        places=places.to(device),
        lengths=every.lengths.to(device),
    )
    return Batch(
        users=every.users.to(device),
        offsets=torch.searchsorted(places, every.offsets).to(device),
        rows=every.rows[places].to(device),
        columns=rows[places].to(device),
        values=every.values[places].to(device),
        n_items=len(shard),
        whole=whole,
    )


class HeldClicks(Clicks):
    """The columns of a users x items click matrix whose items are in ``shard``; other arguments as for Clicks.

    The matrix may be mapped from a file: it is read once, some rows at a time. ``replicas``: the processes that have
    the same items, where each trains on some users of every batch.
    """

    def __init__(
        self,
        matrix: Matrix,
        shard: Shard,
        device: torch.device | str = "cpu",
        *,
        weighted: bool = False,
        replicas: Replicas | None = None,
    ) -> None:
        csr = canonical(matrix)
        self.shard: Shard = shard
        self.replicas = replicas
        self.n_users, self.n_items = csr.shape[0], len(shard)
        parts = [_part_of(piece, shard, weighted=weighted) for piece in _pieces(csr)]
        lengths, indices, weights, in_row, totals, norms = (
            torch.cat(of_parts) for of_parts in zip(*parts, strict=True)
        )
        self.indptr = torch.cat((lengths.new_zeros(1), lengths.cumsum(0))).to(device)
        self.device = self.indptr.device
        self.columns = PerClick(indices.numpy(), np.int32).to(self.device)
        self.weights = PerClick(weights.numpy(), np.float32).to(self.device) if weighted else None
        self.in_row = in_row.to(self.device)  # the place of each click among all of the user's
        self.totals, self.norms = totals.to(self.device), norms.to(self.device)
        self.lengths = torch.from_numpy(np.diff(csr.indptr).astype(np.int64)).to(self.device)

    def shuffled(self, batch_size: int, noise: Noise, *, drop_last: bool = False) -> Iterator[Batch]:
        """Yield batches as :meth:`Clicks.shuffled` does, of the clicks here, and of a replica's users alone."""
        return self._batches(noise.permutation(len(self)), batch_size, self.replicas, drop_last=drop_last)

    def batches(self, order: Tensor, batch_size: int, *, drop_last: bool) -> Iterator[Batch]:
        """Yield batches as :meth:`Clicks.batches` does, of the clicks here."""
        return self._batches(order, batch_size, None, drop_last=drop_last)

    def take(self, users: Tensor, n_clicks: int) -> Batch:
        """Return the rows ``users``, with ``n_clicks`` clicks here; this waits for the device."""
        return self._take(users, 0, len(users), n_clicks, int(self.lengths[users].sum()))

    def _batches(
        self, order: Tensor, batch_size: int, replicas: Replicas | None, *, drop_last: bool
    ) -> Iterator[Batch]:
        n_batches = number_of_batches(len(order), batch_size, drop_last=drop_last)
        ends = [(b * batch_size, min((b + 1) * batch_size, len(order))) for b in range(n_batches)]
        of_batches = [(0, stop - start) if replicas is None else replicas.bounds(stop - start) for start, stop in ends]
        taken = [(start + first, start + last) for (start, _), (first, last) in zip(ends, of_batches, strict=True)]
        here = counts_between(self.indptr.diff(), order, taken)
        everywhere = counts_between(self.lengths, order, ends)
        for (start, stop), (first, last), n_clicks, n_all in zip(ends, of_batches, here, everywhere, strict=True):
            yield self._take(order[start:stop], first, last, n_clicks, n_all, replicas)

    def _take(
        self, users: Tensor, first: int, last: int, n_clicks: int, n_all: int, replicas: Replicas | None = None
    ) -> Batch:
        """Return the rows ``users[first:last]`` of a batch of the rows ``users``.

        ``n_clicks``: the clicks of the former on the items here; ``n_all``: those of the latter on all items.
        """
        lengths = self.lengths[users]
        portion = None if replicas is None else Portion(replicas, first, last, lengths)
        starts = (torch.cumsum(lengths, 0) - lengths)[first:last]
        users, lengths = users[first:last], lengths[first:last]
        batch = super().take(users, n_clicks)
        where = (self.indptr[users] - batch.offsets[:-1])[batch.rows] + torch.arange(n_clicks, device=self.device)
        places = starts[batch.rows] + self.in_row[where]
        whole = Whole(self.shard, self.totals[users], self.norms[users], n_all, places, lengths, portion)
        return replace(batch, whole=whole)


def _part_of(piece: csr_array, shard: Shard, *, weighted: bool) -> tuple[Tensor, ...]:
    """Return for some users: lengths, columns and weights here, places in a row, totals and norms."""
    batch = held_batch(piece, shard, weighted=weighted)
    whole = batch.whole
    assert whole is not None
    assert whole.totals is not None
    assert whole.norms is not None
    starts = torch.cumsum(whole.lengths, 0) - whole.lengths
    in_row = (whole.places - starts[batch.rows]).int()
    weights = batch.values if weighted else batch.values[:0]
    return batch.lengths, batch.columns.int(), weights, in_row, whole.totals, whole.norms


def _pieces(matrix: csr_array) -> Iterator[csr_array]:
    """Yield the rows of a matrix, so many at a time that their clicks need little memory."""
    start, n_users = 0, matrix.shape[0]
    while start < n_users or start == 0:
        stop = int(np.searchsorted(matrix.indptr, matrix.indptr[start] + CLICKS_AT_ONCE, side="right")) - 1
        stop = min(max(stop, start + 1), n_users)
        yield matrix[start:stop]
        if stop == n_users:
            return
        start = stop
