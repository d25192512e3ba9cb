"""The sums of a softmax over all items, tile by tile of items; scores and maxima are base 2 logarithms.

Notation: B users, T items of a tile, K latent dimensions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from recvae.nn.kernels import product

# Sums of exponentials between these keep all digits: the largest term is far from float32's least and largest numbers.
LEAST_TOTAL, MOST_TOTAL = 2.0**-60, 2.0**100


def softmax_sums(
    code: Tensor,
    weight: Tensor,
    bias: Tensor,
    tiles: Sequence[slice],
    rounded: bool,
    *,
    needs_mean: bool,
    keep: bool,
    shifted: bool,
) -> tuple[Tensor, Tensor, Tensor | None, list[tuple[Tensor, Tensor | None]]]:
    """Return highest, total, mean and the tiles that are kept, with the base 2 logarithm for all scores.

    The sum of 2^score is total 2^highest, (B, 1) each, and that of 2^score weight is mean 2^highest, (B, K).
    ``highest`` is the highest score with ``shifted``, else 0.
    """
    highest = code.new_full((len(code), 1), -torch.inf if shifted else 0.0)
    total, kept = torch.zeros_like(highest), []
    mean = torch.zeros_like(code) if needs_mean else None
    for tile in tiles:
        part, of_tile, top = exponentials(code, weight[tile], bias[tile], rounded, shifted)
        if top is not None:
            new = torch.maximum(highest, top)
            shrink, factor = torch.exp2(highest - new), torch.exp2(top - new)
            highest, of_tile = new, of_tile * factor
            total *= shrink
            mean = None if mean is None else mean.mul_(shrink)
        total += of_tile
        if mean is not None:
            of_mean = product(part, weight[tile].T)
            mean += of_mean if top is None else of_mean.mul_(factor)
        if keep:
            kept.append((part, top))
    return highest, total, mean, kept


def all_digits(total: Tensor) -> bool:
    """Return whether sums of exponentials that are not shifted are as exact as shifted ones; waits for the device."""
    return bool(((total > LEAST_TOTAL) & (total < MOST_TOTAL)).all())


def exponentials(
    code: Tensor, weight: Tensor, bias: Tensor, rounded: bool, shifted: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return 2^(score - top) (B, T), its sum (B, 1) and top (B, 1), the highest score or None for 0, of one tile."""
    part, top = product(code, weight, bias, rounded=rounded), None
    if shifted:
        top = part.amax(1, keepdim=True).clamp_(min=torch.finfo(part.dtype).min)  # a tile may hold nothing but -inf
        part.sub_(top)
    part.exp2_()
    return part, part.sum(1, keepdim=True), top
