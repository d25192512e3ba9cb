"""ImplicitSLIM: Shenbin and Nikolenko, ICLR 2024, arXiv 2406.00198. Item embeddings that know an item-item model.

With X the clicks (users x items), W the embeddings (width x items), G = X'X + l2 I and D = diag(1 / diag G):

- SLIM without its diagonal in closed form is B = I - G^-1 diag(G^-1)^-1 (EASE). ImplicitSLIM takes D for the diagonal
  of G^-1, so that I - B = G^-1 D^-1.
- Locally linear embedding seeks V whose columns are near V B, sums of the other columns, and near W's:
  V = argmin |V - V B|^2 + alpha |(V - W) A'|^2, where A is W with the columns of rarely clicked items set to zero.
- Its gradient vanishes at V = alpha W A'A (S^-1 + alpha A'A)^-1 with S = G D D G. By Woodbury's identity that is
  V = alpha W A' (I + alpha A S A')^-1 A S, which inverts a matrix of the width only.

The paper writes C for A S, P for C A', and C - P (I / alpha + P)^-1 C, a difference of nearly equal numbers, for
(I + alpha P)^-1 C. P is made as H H' with H = A G D, and G never: its products multiply by X and X' in turn.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from recvae.errors import InputError, WorkError
from recvae.nn.batches import Clicks
from recvae.nn.kernels import gathered_sum, has_float64
from recvae.options import option

USERS_AT_ONCE = 1 << 14  # users in one step of a product with X'X


@dataclass(frozen=True, kw_only=True)
class SlimOptions:
    """Options of ImplicitSLIM, off by default; the other defaults but the threshold are the paper's for ML-20M."""

    slim_every: int = option(
        0,
        "Epochs between two replacements of the item embeddings by ImplicitSLIM's; 0 never (the paper: 10).",
        ge=0,
    )
    slim_l2: float = option(500.0, "ImplicitSLIM: lambda of the item-item regression, as in EASE.", gt=0)
    slim_alpha: float = option(1.0, "ImplicitSLIM: weight of staying near the embeddings that are replaced.", gt=0)
    slim_threshold: int = option(
        0, "ImplicitSLIM: an item with fewer clicks is placed by the others alone (the paper, ML-20M: 1000).", ge=0
    )


def replace_embeddings(options: SlimOptions, epoch: int, clicks: Clicks, tables: Iterable[Tensor]) -> None:
    """Replace each (I, K) table in place before the first update of every ``slim_every``-th epoch.

    ``epoch`` is counted from 0: tables are replaced in epochs slim_every - 1, 2 slim_every - 1 and so on. Raises
    :class:`InputError`, in epoch 0 already, where no item has ``slim_threshold`` clicks.
    """
    if not options.slim_every:
        return
    if not has_float64(clicks.device):
        clicks = clicks.to("cpu")
    if epoch == 0:
        _refuse_threshold(options.slim_threshold, _item_sums(clicks)[0], clicks)
    if (epoch + 1) % options.slim_every == 0:
        for table in tables:
            new = implicit_slim(
                table.to(clicks.device),
                clicks,
                l2=options.slim_l2,
                alpha=options.slim_alpha,
                threshold=options.slim_threshold,
            )
            with torch.no_grad():
                table.copy_(new)


@torch.no_grad()
def implicit_slim(embeddings: Tensor, clicks: Clicks, *, l2: float, alpha: float, threshold: int) -> Tensor:
    """Return the embeddings (I, K) that ImplicitSLIM makes of ``embeddings`` (I, K) and the training clicks.

    Items with fewer than ``threshold`` clicks are zero in A. Everything is in float64, whatever the precision of
    training: the condition number of I + alpha P is 1e4 to 1e8 for trained embeddings of ML-1M, and with float32
    products by X'X only three digits of the result are right. The result has ``embeddings``' dtype and device. Time
    O(clicks K + I K^2); memory, besides the result, four matrices (I, K) and one (USERS_AT_ONCE, K) in float64, and
    the clicks of USERS_AT_ONCE users. Embeddings and clicks are on one device, which has float64.

    Raises :class:`InputError` where no item has ``threshold`` clicks and :class:`WorkError` where the embeddings are
    not finite.
    """
    counts, squares = _item_sums(clicks)
    _refuse_threshold(threshold, counts, clicks)
    d = (squares + l2).reciprocal_()[:, None]  # (I, 1)
    a = embeddings.double()
    kept = a.masked_fill((counts < threshold)[:, None], 0.0)
    inner = _joined(kept.T @ a, clicks)  # (K, K)
    h = _gram_product(clicks, kept).add_(kept, alpha=l2).mul_(d)  # H' = D G A'
    del a, kept
    p = _joined(h.T @ h, clicks)
    c = _gram_product(clicks, h.mul_(d)).add_(h, alpha=l2)  # C' = G D D G A'
    p = p.mul_(alpha).add_(torch.eye(len(p), dtype=p.dtype, device=p.device))
    factor, failed = torch.linalg.cholesky_ex(p)
    if failed:
        raise WorkError(
            "ImplicitSLIM's matrix cannot be factored: the item embeddings are no longer finite numbers. "
            "Train again with a smaller train.learning_rate or a smaller model.slim_alpha."
        )
    return (c @ torch.cholesky_solve(inner, factor).mul_(alpha)).to(embeddings.dtype)


def _gram_product(clicks: Clicks, table: Tensor) -> Tensor:
    """Return X'X times ``table``, (I, K) in float64, from sums in a fixed order."""
    out = torch.zeros_like(table)
    for batch in clicks.in_order(USERS_AT_ONCE):
        of_users = batch.joined(gathered_sum(table, batch.columns, batch.offsets, batch.values))  # (B, K)
        rows, values, offsets = batch.by_item
        out += gathered_sum(of_users, rows, offsets, values)
    return out


def _item_sums(clicks: Clicks) -> tuple[Tensor, Tensor]:
    """Return of each item the number of clicks, int64 (I,), and the diagonal of X'X, float64 (I,)."""
    counts = torch.zeros(clicks.n_items, dtype=torch.int64, device=clicks.device)
    squares = torch.zeros(clicks.n_items, dtype=torch.float64, device=clicks.device)
    for batch in clicks.in_order(USERS_AT_ONCE):
        _, values, offsets = batch.by_item
        counts += offsets.diff()
        squares += torch.segment_reduce(values.double().square_(), "sum", lengths=offsets.diff(), initial=0.0)
    return counts, squares


def _joined(part: Tensor, clicks: Clicks) -> Tensor:
    """Return a sum over all items from the sum over the items here."""
    return part if clicks.shard is None else clicks.shard.sum(part)


def _refuse_threshold(threshold: int, counts: Tensor, clicks: Clicks) -> None:
    """Raise :class:`InputError` where no item has ``threshold`` clicks: all embeddings would become zero."""
    highest = counts.max()
    most = int(highest if clicks.shard is None else clicks.shard.largest(highest))
    if most < threshold:
        raise InputError(
            f"No item has slim_threshold={threshold} clicks; the most clicked has {most}. "
            "Use a smaller model.slim_threshold."
        )
