"""Log-likelihoods and KL terms, one value per user.

Notation: B users, I items, K latent dimensions; x a user's clicks, n_u their sum.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recvae.batches import Batch
from recvae.products import GradientMemory, gathered_sum, product, rounding

LOG_2PI = math.log(2 * math.pi)


# One tile of a step's scores is small enough to stay in the cache between the operations on it (on a CPU), and no
# smaller than keeps a device busy (elsewhere).
TILE_SCORES = {"cpu": 1 << 18}
TILE_SCORES_ELSEWHERE = 1 << 28
# Exponentials are kept from the forward to the backward pass up to this many of them; beyond it they are made again.
KEPT_SCORES = {"cpu": 1 << 25}
KEPT_SCORES_ELSEWHERE = 1 << 30
LEAST_WIDTH = 256  # of a tile, in items
LN_2 = math.log(2)


def multinomial_log_likelihood(
    code: Tensor, weight: Tensor, bias: Tensor, batch: Batch, memory: GradientMemory | None = None
) -> Tensor:
    """Return sum_i x_ui log softmax(weight code_u + bias)_i, (B,); Liang et al. 2018, equation 2.

    ``code`` (B, K), ``weight`` (I, K), ``bias`` (I,): the decoder's last layer is part of it, so that its scores can be
    made and used up tile by tile of items. The softmax is exact, over all items. Not divided by the number of clicks;
    the multinomial coefficient, a constant, is left out. A user without clicks has likelihood 0. Large catalogues hold
    no (B, I) tensor at all. ``memory`` keeps the weight's gradient from step to step.
    """
    result: Tensor = _Multinomial.apply(code, weight, bias, batch, memory or GradientMemory())  # type: ignore[no-untyped-call]  # torch ships it without types
    return result


class _Multinomial(torch.autograd.Function):
    """The likelihood and its gradient in one reading of the scores.

    With x_u the clicks, n_u their sum and S_u = sum_i exp(s_ui), the likelihood is code_u . V_u + sum_i x_ui bias_i -
    n_u log S_u where V_u = sum_i x_ui weight_i is one gathered sum, and its gradient to code_u is
    V_u - n_u / S_u sum_i exp(s_ui) weight_i. Both sums over i run over tiles, relative to the maximum so far, in the
    manner of an online softmax: a tile's exponentials are multiplied with the weights while they are in the cache.
    Powers of two stand in for exponentials (the code is scaled by log2 e): the same numbers, and far faster on CPUs.
    """

    @staticmethod
    def forward(ctx: Any, code: Tensor, weight: Tensor, bias: Tensor, batch: Batch, memory: GradientMemory) -> Tensor:
        needs_code, needs_weight = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:3])
        ctx.rounded = rounding()
        code2, bias2 = code / LN_2, bias / LN_2
        kept = needs_weight and len(code) * len(weight) <= KEPT_SCORES.get(code.device.type, KEPT_SCORES_ELSEWHERE)
        exponentials: list[tuple[Tensor, Tensor]] = []
        highest = code.new_full((len(code), 1), -torch.inf)  # base 2 logarithm, like all scores here
        total = torch.zeros_like(highest)  # sum of 2^(score - highest)
        mean = torch.zeros_like(code) if needs_code else None  # of the weights, under the softmax, times total
        for tile in _tiles(code, weight):
            part, of_tile, top = _exponentials(code2, weight[tile], bias2[tile], ctx.rounded)
            new = torch.maximum(highest, top)
            shrink, factor = torch.exp2(highest - new), torch.exp2(top - new)
            total.mul_(shrink).addcmul_(of_tile, factor)
            if mean is not None:
                mean.mul_(shrink).addcmul_(product(part, weight[tile].T), factor)
            highest = new
            if kept:
                exponentials.append((part, top))
        clicked = gathered_sum(weight, batch.columns, batch.offsets, batch.values)  # V, (B, K)
        n = batch.totals.to(code.dtype)
        log_total = (highest + total.log2()).squeeze(1)
        ctx.batch, ctx.memory, ctx.n, ctx.log_total, ctx.exponentials = batch, memory, n, log_total, exponentials
        ctx.code_gradient = None if mean is None else clicked - mean * (n[:, None] / total)
        ctx.save_for_backward(code, weight, bias)
        positive = (code * clicked).sum(1) + batch.row_sum(batch.values.to(code.dtype) * bias[batch.columns])
        return positive - n * LN_2 * log_total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        code, weight, bias = ctx.saved_tensors
        batch: Batch = ctx.batch
        code_gradient = None if ctx.code_gradient is None else ctx.code_gradient * grad[:, None]
        if not any(ctx.needs_input_grad[1:3]):
            return code_gradient, None, None, None, None
        rows, values, offsets = batch.by_item
        values = values.to(code.dtype) * grad[rows]
        bias_gradient = torch.segment_reduce(values, "sum", lengths=offsets.diff(), initial=0.0, unsafe=True)
        tiles = list(_tiles(code, weight))
        if tile_by_tile := _knows_at_once(offsets):
            weight_gradient = ctx.memory.whole(weight)
            ends = [0, *offsets[[tile.stop for tile in tiles]].tolist()]  # where each tile's clicks begin and end
        else:  # to ask where they do would be to wait for the device
            weight_gradient = gathered_sum(code, rows, offsets, values)  # (I, K)
        code2, bias2 = code / LN_2, bias / LN_2
        exponentials, ctx.exponentials = ctx.exponentials[::-1], []  # another time, they are made again
        for n, tile in enumerate(tiles):
            if exponentials:
                part, top = exponentials.pop()  # let go of one by one
            else:
                part, _, top = _exponentials(code2, weight[tile], bias2[tile], ctx.rounded)
            factor = -grad * ctx.n * torch.exp2(top.squeeze(1) - ctx.log_total)
            # The transposed product is the faster one; its (K, tile) result is small.
            expected = product((code * factor[:, None]).T, part.T, rounded=ctx.rounded).T
            if tile_by_tile:
                clicks = slice(ends[n], ends[n + 1])
                of_tile = offsets[tile.start : tile.stop + 1] - ends[n]
                clicked = gathered_sum(code, rows[clicks], of_tile, values[clicks])
                torch.add(clicked, expected, out=weight_gradient[tile])
            else:
                weight_gradient[tile] += expected
            bias_gradient[tile] += part.T @ factor
        return code_gradient, weight_gradient, bias_gradient, None, None


def _knows_at_once(values: Tensor) -> bool:
    """Return whether reading values does not wait for a device."""
    return values.device.type == "cpu"


def _tiles(code: Tensor, weight: Tensor) -> Iterator[slice]:
    """Yield the ranges of items whose scores for all of the batch make one tile."""
    scores = TILE_SCORES.get(code.device.type, TILE_SCORES_ELSEWHERE)
    width = max(LEAST_WIDTH, scores // max(1, len(code)))
    for start in range(0, len(weight), width):
        yield slice(start, min(start + width, len(weight)))


def _exponentials(code: Tensor, weight: Tensor, bias: Tensor, rounded: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return 2^(score - top) (B, T), its sum (B, 1) and top (B, 1), the highest score, for one tile of items."""
    part = product(code, weight, bias, rounded=rounded)
    top = part.amax(1, keepdim=True).clamp_(min=torch.finfo(part.dtype).min)  # a tile may hold nothing but -inf
    part.sub_(top).exp2_()
    return part, part.sum(1, keepdim=True), top


def gaussian_log_density(z: Tensor, mu: Tensor | float, logvar: Tensor | float) -> Tensor:
    """Return log N(z; mu, exp(logvar)) per dimension, broadcast over the arguments."""
    # A number stays a number: as a tensor it would have to be copied to the device.
    precision = math.exp(-logvar) if isinstance(logvar, float) else torch.exp(-logvar)
    return -0.5 * ((z - mu).square() * precision + (logvar + LOG_2PI))


def kl_standard_normal(mu: Tensor, logvar: Tensor) -> Tensor:
    """Return KL(N(mu, exp(logvar)) || N(0, 1)) summed over dimensions, (B,), from (B, K)."""
    return 0.5 * (logvar.exp() + mu.square() - 1 - logvar).sum(1)


# RecVAE's composite prior: weight of each component (Shenbin et al. 2020, as in the authors' program).
COMPOSITE_WEIGHTS = (3 / 20, 3 / 4, 1 / 10)
WIDE_LOGVAR = 10.0


def composite_log_prior(z: Tensor, mu_old: Tensor, logvar_old: Tensor) -> Tensor:
    """Return RecVAE's log p(z | x), summed over dimensions, (B,), from (B, K); Shenbin et al. 2020.

    A mixture per latent dimension of N(0, 1), the previous epoch's posterior N(mu_old, exp(logvar_old)) and the wide
    N(0, e^10), with weights 3/20, 3/4 and 1/10.
    """
    standard, previous, wide = (math.log(w) for w in COMPOSITE_WEIGHTS)
    components = torch.stack(
        (
            standard + gaussian_log_density(z, 0.0, 0.0),
            previous + gaussian_log_density(z, mu_old, logvar_old),
            wide + gaussian_log_density(z, 0.0, WIDE_LOGVAR),
        )
    )
    return torch.logsumexp(components, dim=0).sum(1)
