"""Log-likelihoods and KL terms, one value per user.

Notation: B users, I items, K latent dimensions; x a user's clicks, n_u their sum.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recvae.errors import InputError
from recvae.nn.batches import Batch
from recvae.nn.kernels import Context, GradientMemory, gathered_sum, product, rounding
from recvae.nn.softmax import all_digits, exponentials, softmax_sums
from recvae.options import option

# A log-likelihood with the decoder's last layer inside: (code, weight, bias, batch, memory) -> one value per user.
Likelihood = Callable[[Tensor, Tensor, Tensor, Batch, GradientMemory | None], Tensor]

# Scores in one tile: on a CPU few enough to stay in the cache between operations, elsewhere enough to keep a device
# busy.
TILE_SCORES = {"cpu": 1 << 18}
TILE_SCORES_ELSEWHERE = 1 << 28
# Up to this many exponentials are kept from the forward to the backward pass; more are computed twice.
KEPT_SCORES = {"cpu": 1 << 25}
KEPT_SCORES_ELSEWHERE = 1 << 30
LEAST_WIDTH = 256  # items in the smallest tile
LN_2 = math.log(2)


@dataclass(frozen=True, kw_only=True)
class LikelihoodOptions:
    """The choice of a network's likelihood."""

    likelihood: str = option(
        "multinomial",
        "Of the clicks given the logits: 'multinomial', 'bernoulli' (logistic) or 'gaussian'.",
        choices=lambda: LIKELIHOODS,
    )
    confidence: float = option(
        1.0, "Gaussian likelihood: weight of a click's squared error, where that of any other item is 1.", gt=0
    )


def likelihood(options: LikelihoodOptions, *, weighted: bool) -> Likelihood:
    """Return the log-likelihood that the options name.

    Raises :class:`InputError` where clicks are ``weighted`` and the likelihood is of binary clicks alone.
    """
    if weighted and options.likelihood in OF_CLICKS:
        raise InputError(
            f"The {options.likelihood.capitalize()} likelihood is of clicks, not of weights. Set weighted = false."
        )
    return LIKELIHOODS[options.likelihood](options)


def multinomial_log_likelihood(
    code: Tensor, weight: Tensor, bias: Tensor, batch: Batch, memory: GradientMemory | None = None
) -> Tensor:
    """Return sum_i x_ui log softmax(weight code_u + bias)_i, (B,); Liang et al. 2018, equation 2.

    ``code`` (B, K), ``weight`` (I, K), ``bias`` (I,): the decoder's last layer is part of the function, so that scores
    can be computed and used tile by tile of items. The softmax is exact, over all items. Not divided by the number of
    clicks; the multinomial coefficient, a constant, is left out. A user without clicks has likelihood 0. Large
    catalogues hold no (B, I) tensor at all. ``memory`` keeps the weight's gradient from step to step.
    """
    result: Tensor = _Multinomial.apply(_shared(code, batch), weight, bias, batch, memory or GradientMemory())  # type: ignore[no-untyped-call]  # torch ships it without types
    return result


class _Multinomial(torch.autograd.Function):
    """The likelihood and its gradient in one reading of the scores.

    With x_u the clicks, n_u their sum and S_u = sum_i exp(s_ui), the likelihood is code_u . V_u + sum_i x_ui bias_i -
    n_u log S_u where V_u = sum_i x_ui weight_i is one gathered sum, and its gradient to code_u is
    V_u - n_u / S_u sum_i exp(s_ui) weight_i. Both sums over i run over tiles: a tile's exponentials are multiplied with
    the weights while they are in the cache. On a CPU they are first made of the scores as they are. Where a sum is then
    far from 1, as of scores beyond float32's exponents, and on other devices, which would have to be waited for, they
    are relative to the maximum so far, in the manner of an online softmax.
    Powers of two stand in for exponentials (the code is scaled by log2 e): the same numbers, and far faster on CPUs.
    Of a part of the items, the positive term, the sum and the maximum are joined with those of the other parts.
    """

    @staticmethod
    def forward(
        ctx: Context, code: Tensor, weight: Tensor, bias: Tensor, batch: Batch, memory: GradientMemory
    ) -> Tensor:
        needs_code, needs_weight = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:3])
        ctx.rounded = rounding()
        make = partial(
            softmax_sums,
            *(code / LN_2, weight, bias / LN_2, list(_tiles(code, weight)), ctx.rounded),
            needs_mean=needs_code,
            keep=needs_weight and _few_enough_to_keep(code, weight),
        )
        sums = make(shifted=False) if _knows_at_once(code) else None
        ctx.shifted = sums is None or not all_digits(sums[1])
        highest, total, mean, ctx.kept = make(shifted=True) if sums is None or ctx.shifted else sums
        clicked = gathered_sum(weight, batch.columns, batch.offsets, batch.values)  # V, (B, K)
        positive = (code * clicked).sum(1) + batch.row_sum(batch.values.to(code.dtype) * bias[batch.columns])
        if batch.whole is not None:  # of a part of the items: from here on, sums over all of them
            shard = batch.whole.shard
            top = shard.largest(highest)
            shrink, highest = torch.exp2(highest - top), top
            total, positive = shard.sum(torch.stack((total.squeeze(1) * shrink.squeeze(1), positive))).unbind()
            total = total[:, None]
            mean = None if mean is None else mean.mul_(shrink)
        n = batch.totals.to(code.dtype)
        log_total = (highest + total.log2()).squeeze(1)
        ctx.batch, ctx.memory, ctx.n, ctx.log_total = batch, memory, n, log_total
        ctx.code_gradient = None if mean is None else clicked - mean * (n[:, None] / total)
        ctx.save_for_backward(code, weight, bias)
        return positive - n * LN_2 * log_total

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        code, weight, bias = ctx.saved_tensors
        code2, bias2 = code / LN_2, bias / LN_2
        factor = -grad * ctx.n * torch.exp2(-ctx.log_total)  # of every tile, unless each has a maximum of its own

        def share(tile: slice, kept: tuple[Tensor, Tensor | None] | None) -> tuple[Tensor, Tensor]:
            if kept is None:
                part, _, top = exponentials(code2, weight[tile], bias2[tile], ctx.rounded, ctx.shifted)
            else:
                part, top = kept
            return part, factor if top is None else -grad * ctx.n * torch.exp2(top.squeeze(1) - ctx.log_total)

        return (*_gradients(ctx, grad, share), None, None)


def bernoulli_log_likelihood(
    code: Tensor, weight: Tensor, bias: Tensor, batch: Batch, memory: GradientMemory | None = None
) -> Tensor:
    """Return sum_i x_ui log sigma(f_ui) + (1 - x_ui) log(1 - sigma(f_ui)), (B,), f = weight code_u + bias.

    Liang et al. 2018, equation 4, the logistic likelihood: a sum over all items, clicked or not. Arguments, exactness
    and memory as for :func:`multinomial_log_likelihood`. Of binary clicks: the values of ``batch`` are to be 1.
    """
    result: Tensor = _Bernoulli.apply(_shared(code, batch), weight, bias, batch, memory or GradientMemory())  # type: ignore[no-untyped-call]  # torch ships it without types
    return batch.joined(result)


class _Bernoulli(torch.autograd.Function):
    """The likelihood and its gradient in one reading of the scores.

    As log(1 - sigma(f)) = -softplus(f) and log sigma(f) = f - softplus(f), the likelihood is code_u . V_u +
    sum_i x_ui bias_i - sum_i softplus(f_ui) with V_u = sum_i x_ui weight_i, and its gradient to code_u is
    V_u - sum_i sigma(f_ui) weight_i. The sums over all i run over tiles.
    """

    @staticmethod
    def forward(
        ctx: Context, code: Tensor, weight: Tensor, bias: Tensor, batch: Batch, memory: GradientMemory
    ) -> Tensor:
        needs_code, needs_weight = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:3])
        ctx.batch, ctx.memory, ctx.rounded, ctx.kept = batch, memory, rounding(), []
        keep = needs_weight and _few_enough_to_keep(code, weight)
        total = code.new_zeros(len(code))  # sum of softplus(score)
        mean = torch.zeros_like(code) if needs_code else None  # sum of sigma(score) weight
        for tile in _tiles(code, weight):
            part = product(code, weight[tile], bias[tile], rounded=ctx.rounded)
            # From 40 on, softplus(s) is s to the last bit of float64; nearer to 0 it must be made in full.
            total += torch.nn.functional.softplus(part, threshold=40.0).sum(1)
            part.sigmoid_()
            if mean is not None:
                mean += product(part, weight[tile].T)
            if keep:
                ctx.kept.append((part,))
        clicked = gathered_sum(weight, batch.columns, batch.offsets, batch.values)  # V, (B, K)
        ctx.code_gradient = None if mean is None else clicked - mean
        ctx.save_for_backward(code, weight, bias)
        return (code * clicked).sum(1) + batch.row_sum(batch.values.to(code.dtype) * bias[batch.columns]) - total

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        code, weight, bias = ctx.saved_tensors
        factor = -grad

        def share(tile: slice, kept: tuple[Tensor] | None) -> tuple[Tensor, Tensor]:
            if kept is None:
                return product(code, weight[tile], bias[tile], rounded=ctx.rounded).sigmoid_(), factor
            return kept[0], factor

        return (*_gradients(ctx, grad, share), None, None)


def gaussian_log_likelihood(
    code: Tensor,
    weight: Tensor,
    bias: Tensor,
    batch: Batch,
    memory: GradientMemory | None = None,
    *,
    confidence: float = 1.0,
) -> Tensor:
    """Return -1/2 sum_i c_ui (x_ui - f_ui)^2, (B,), f = weight code_u + bias; Liang et al. 2018, equation 3.

    The weight c_ui is ``confidence`` for a click and 1 for every other item, as in Hu, Koren and Volinsky 2008; with 1
    for both the covariance is the identity. The constant, sum_i log(c_ui / 2 pi) / 2, is left out, as the multinomial
    coefficient is. Arguments as for :func:`multinomial_log_likelihood`; the values of ``batch`` may be any numbers.

    No score of an item that was not clicked is made: sum_i f_ui^2 = z'(W'W)z + 2 z'W'b + b'b. Time O(N K + (B + I) K^2)
    for N clicks, memory O(I K). The products are never rounded to bfloat16: their sums stand for all items at once.
    """
    result: Tensor = _Gaussian.apply(_shared(code, batch), weight, bias, batch, memory or GradientMemory(), confidence)  # type: ignore[no-untyped-call]  # torch ships it without types
    return batch.joined(result)


class _Gaussian(torch.autograd.Function):
    """All items as if not clicked, from sums over the items, and a correction at the clicks."""

    @staticmethod
    def forward(
        ctx: Context,
        code: Tensor,
        weight: Tensor,
        bias: Tensor,
        batch: Batch,
        memory: GradientMemory,
        confidence: float,
    ) -> Tensor:
        gram = product(weight.T, weight.T, rounded=False)  # W'W, (K, K)
        shift = bias @ weight  # W'b, (K,)
        of_all = product(code, gram, shift, rounded=False)  # sum_i f_ui weight_i, (B, K)
        squares = ((of_all + shift) * code).sum(1) + bias.square().sum()  # sum_i f_ui^2, (B,)
        scores = _scores_of_clicks(code, weight, bias, batch)
        errors = batch.values.to(code.dtype) - scores
        slope = confidence * errors + scores  # the share of a click in the likelihood's derivative by its score
        clicked = gathered_sum(weight, batch.columns, batch.offsets, slope) if ctx.needs_input_grad[0] else None
        ctx.code_gradient = None if clicked is None else clicked - of_all
        ctx.batch, ctx.memory = batch, memory
        ctx.save_for_backward(code, weight, bias, slope)
        return -0.5 * (squares + batch.row_sum(confidence * errors.square() - scores.square()))

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None, None]:
        code, weight, bias, slope = ctx.saved_tensors
        code_gradient = None if ctx.code_gradient is None else ctx.code_gradient * grad[:, None]
        if not any(ctx.needs_input_grad[1:3]):
            return code_gradient, None, None, None, None, None
        weighted = code * grad[:, None]
        moments = product(weighted.T, code.T, rounded=False)  # sum_u grad_u z_u z_u', (K, K)
        mean = weighted.sum(0)  # (K,)
        rows, values, offsets = replace(ctx.batch, values=slope * grad[ctx.batch.rows]).by_item
        bias_gradient = torch.segment_reduce(values, "sum", lengths=offsets.diff(), initial=0.0, unsafe=True)
        bias_gradient -= weight @ mean + bias * grad.sum()
        weight_gradient = ctx.memory.whole(weight)
        clicked = gathered_sum(code, rows, offsets, values)
        torch.sub(clicked, product(weight, moments, rounded=False), out=weight_gradient)
        weight_gradient.addr_(bias, mean, alpha=-1)
        return code_gradient, weight_gradient, bias_gradient, None, None, None


def scores_at(code: Tensor, weight: Tensor, bias: Tensor, batch: Batch) -> Tensor:
    """Return weight_i . code_u + bias_i of every click of a user u on an item i, (N,), with gradients; no others.

    ``code`` (B, K), ``weight`` (I, K), ``bias`` (I,). Time O(N K), memory that of a tile beside O(N) and the gradients.
    The gradients are summed in a fixed order: with any number of threads, the same ones again.
    """
    result: Tensor = _ScoresAt.apply(code, weight, bias, batch)  # type: ignore[no-untyped-call]  # torch ships it without types
    return result


class _ScoresAt(torch.autograd.Function):
    """Scores of clicks, with gradients in a fixed order: torch's gradient of indexing adds in an order that varies."""

    @staticmethod
    def forward(ctx: Context, code: Tensor, weight: Tensor, bias: Tensor, batch: Batch) -> Tensor:
        ctx.batch = batch
        ctx.save_for_backward(code, weight)
        return _scores_of_clicks(code, weight, bias, batch)

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        code, weight = ctx.saved_tensors
        batch: Batch = ctx.batch
        needs_code, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        code_gradient = gathered_sum(weight, batch.columns, batch.offsets, grad) if needs_code else None
        if not (needs_weight or needs_bias):
            return code_gradient, None, None, None
        rows, values, offsets = replace(batch, values=grad).by_item
        bias_gradient = torch.segment_reduce(values, "sum", lengths=offsets.diff(), initial=0.0, unsafe=True)
        return code_gradient, gathered_sum(code, rows, offsets, values), bias_gradient, None


def _scores_of_clicks(code: Tensor, weight: Tensor, bias: Tensor, batch: Batch) -> Tensor:
    """Return code_u . weight_i + bias_i of every click, (N,), gathering the rows of a tile's size at a time."""
    scores = bias[batch.columns]
    at_once = max(1, TILE_SCORES.get(code.device.type, TILE_SCORES_ELSEWHERE) // code.shape[1])
    for start in range(0, len(scores), at_once):
        clicks = slice(start, start + at_once)
        scores[clicks] += (code[batch.rows[clicks]] * weight[batch.columns[clicks]]).sum(1)
    return scores


def _shared(code: Tensor, batch: Batch) -> Tensor:
    """Return a code from which every process makes the scores of its own items, and gets its part of the gradient."""
    return code if batch.whole is None or not code.requires_grad else batch.whole.shard.shared(code)


def _gradients(
    ctx: Context, grad: Tensor, share: Callable[[slice, Any], tuple[Tensor, Tensor]]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients to code, weight and bias of a likelihood that is made tile by tile.

    Its derivative by a score is x_ui grad_u + part_ui factor_u: ``share`` returns part (B, T) and factor (B,) of a tile
    of items, from the values that the forward pass kept of the tile, or computed again where these are None.
    """
    code, weight, _ = ctx.saved_tensors
    batch: Batch = ctx.batch
    code_gradient = None if ctx.code_gradient is None else ctx.code_gradient * grad[:, None]
    if not any(ctx.needs_input_grad[1:3]):
        return code_gradient, None, None
    rows, values, offsets = batch.by_item
    values = values.to(code.dtype) * grad[rows]
    bias_gradient = torch.segment_reduce(values, "sum", lengths=offsets.diff(), initial=0.0, unsafe=True)
    tiles = list(_tiles(code, weight))
    if tile_by_tile := _knows_at_once(offsets):
        weight_gradient = ctx.memory.whole(weight)
        ends = [0, *offsets[[tile.stop for tile in tiles]].tolist()]  # where each tile's clicks begin and end
    else:  # reading the ends of tiles would wait for the device
        weight_gradient = gathered_sum(code, rows, offsets, values)  # (I, K)
    kept, ctx.kept = ctx.kept[::-1], []  # a second backward pass computes them again
    weighted, before = code, None
    for n, tile in enumerate(tiles):
        part, factor = share(tile, kept.pop() if kept else None)  # each tile's memory is freed after its use
        if factor is not before:
            weighted, before = (code * factor[:, None]).T.contiguous(), factor
        # The transposed product is the faster one; its (K, tile) result is small.
        expected = product(weighted, part.T, rounded=ctx.rounded).T
        if tile_by_tile:
            clicks = slice(ends[n], ends[n + 1])
            of_tile = offsets[tile.start : tile.stop + 1] - ends[n]
            clicked = gathered_sum(code, rows[clicks], of_tile, values[clicks])
            torch.add(clicked, expected, out=weight_gradient[tile])
        else:
            weight_gradient[tile] += expected
        bias_gradient[tile] += part.T @ factor
    return code_gradient, weight_gradient, bias_gradient


def _few_enough_to_keep(code: Tensor, weight: Tensor) -> bool:
    """Return whether the exponentials of the forward pass are kept for the backward pass."""
    return len(code) * len(weight) <= KEPT_SCORES.get(code.device.type, KEPT_SCORES_ELSEWHERE)


def _knows_at_once(values: Tensor) -> bool:
    """Return whether the values can be read without waiting for a device."""
    return values.device.type == "cpu"


def _tiles(code: Tensor, weight: Tensor) -> Iterator[slice]:
    """Yield the ranges of items whose scores for all of the batch make one tile."""
    scores = TILE_SCORES.get(code.device.type, TILE_SCORES_ELSEWHERE)
    width = max(LEAST_WIDTH, scores // max(1, len(code)))
    for start in range(0, len(weight), width):
        yield slice(start, min(start + width, len(weight)))


LIKELIHOODS: dict[str, Callable[[LikelihoodOptions], Likelihood]] = {
    "multinomial": lambda options: multinomial_log_likelihood,
    "bernoulli": lambda options: bernoulli_log_likelihood,
    "gaussian": lambda options: partial(gaussian_log_likelihood, confidence=options.confidence),
}
"""Each likelihood by its name, made of the options."""
OF_CLICKS = frozenset({"bernoulli"})
"""The names of likelihoods that are of binary clicks alone."""
