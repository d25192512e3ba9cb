"""Ragged histories as a graph computes them: operations that have an ONNX form, for any number of users and clicks.

The results are those of :class:`~recvae.nn.batches.Batch` and of SciPy's sparse products, to rounding.
"""

from typing import cast

import torch
from torch import Tensor

from recvae.nn.batches import Batch


class TracedBatch(Batch):
    """A batch whose sums are scattered additions, which have an ONNX form; its sizes may be symbols."""

    @classmethod
    def ragged(
        cls,
        lengths: Tensor,
        rows: Tensor,
        columns: Tensor,
        values: Tensor,
        n_items: int,
        conditions: Tensor | None = None,
    ) -> "TracedBatch":
        """Return the batch of users whose numbers of clicks are ``lengths`` (B,), and of their clicks in order."""
        offsets = torch.cat((lengths.new_zeros(1), lengths.cumsum(0)))
        users = torch.arange(lengths.shape[0])
        return cls(users, offsets, rows, columns, values, n_items, conditions=conditions)

    def row_sum(self, per_click: Tensor) -> Tensor:
        """Sum one value per click (N,) into one per user (B,)."""
        return per_click.new_zeros(self.users.shape[0]).index_add(0, self.rows, per_click)

    def row_sums(self, table: Tensor, values: Tensor) -> Tensor:
        """Sum the rows of a table (n_items, H) that belong to the clicked items: (B, H)."""
        each = table.index_select(0, self.columns) * values[:, None]  # (N, H)
        return table.new_zeros(self.users.shape[0], table.shape[1]).index_add(0, self.rows, each)


def entries_of_rows(offsets: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the entries of some rows of a CSR, one row after the other.

    ``offsets`` (n + 1,) and ``rows`` (N,), int64. For each entry: the place of its row in ``rows``, and its own place
    among the entries of the CSR, int64 both.
    """
    starts = offsets.index_select(0, rows)
    lengths = offsets.index_select(0, rows + 1) - starts
    ends = lengths.cumsum(0)
    total = cast(int, lengths.sum().item())  # where it is traced, a symbol: int() would make it a number
    torch._check(total >= 0)  # type: ignore[no-untyped-call]  # torch ships it without types; its exporter asks
    marks = lengths.new_zeros(total + 1).index_add(0, ends, torch.ones_like(ends))
    of_row = marks.cumsum(0)[:total]  # rows that end at or before a place
    places = torch.arange(total) + (starts - (ends - lengths)).index_select(0, of_row)
    return of_row, places
