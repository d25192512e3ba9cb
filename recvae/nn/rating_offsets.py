"""The damped-bias model of ratings, r_ui = mean + item offset + user offset, whose residuals a network learns.

Notation: B users, I items, N ratings of a batch; seen (N,) is 1 for an observed rating and 0 for a hidden one.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recvae.nn.batches import Batch

TURNS = 20  # alternations in which the offsets of items and of users are fitted


@dataclass(frozen=True)
class Offsets:
    """``mean`` () and ``of_items`` (I,), float32, which :meth:`fit` sets in place.

    ``damping``: so many ratings of 0 deviation are added to those of a user or an item.
    """

    mean: Tensor
    of_items: Tensor
    damping: float

    @torch.no_grad()
    def fit(self, batch: Batch) -> None:
        """Set mean and item offsets from one batch of all training ratings.

        The offsets minimise the squared error plus ``damping`` times their squares, items and users by turns.
        """
        counts = torch.bincount(batch.columns, minlength=len(self.of_items)) + self.damping
        every = torch.ones_like(batch.values)
        self.mean.copy_(batch.values.mean())
        self.of_items.zero_()
        for _ in range(TURNS):
            left = self.residuals(batch, every) + self.of_items[batch.columns]
            _, left, ends = replace(batch, values=left).by_item  # summed in a fixed order
            sums = torch.segment_reduce(left, "sum", lengths=ends.diff(), initial=0.0, unsafe=True)
            self.of_items.copy_(sums / counts)

    def of_users(self, batch: Batch, seen: Tensor | None = None) -> Tensor:
        """Return the damped mean of the observed ratings less mean and item offset, (B,); without ``seen``, of all."""
        seen = torch.ones_like(batch.values) if seen is None else seen
        left = batch.values - self.mean - self.of_items[batch.columns]
        return batch.row_sum(seen * left) / (batch.row_sum(seen) + self.damping)

    def at(self, rows: Tensor, columns: Tensor, of_users: Tensor) -> Tensor:
        """Return mean + item offset + user offset of M entries, (M,); ``rows`` and ``columns`` int64 (M,)."""
        return self.mean + self.of_items[columns] + of_users[rows]

    def residuals(self, batch: Batch, seen: Tensor) -> Tensor:
        """Return the residuals of all ratings, (N,); a user's offset is of the observed ratings alone."""
        return batch.values - self.at(batch.rows, batch.columns, self.of_users(batch, seen))
