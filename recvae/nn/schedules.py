"""Annealing of the KL weight and of the learning rate: pure functions of the update number, counted from 0."""

import math
from typing import Literal

Anneal = Literal["paper", "share", "constant", "cyclical"]


def annealed_beta(
    kind: Anneal, step: int, total: int, *, cap: float, updates: int, share: float, cycles: int = 1
) -> float:
    """Return the KL weight at update ``step`` of ``total``: the options of the models that anneal, by their names."""
    if kind == "paper":
        return linear_beta(step, cap=cap, updates=updates)
    if kind == "share":
        return share_beta(step, cap=cap, share=share, total=total)
    if kind == "cyclical":
        return cyclical_beta(step, cap=cap, cycles=cycles, share=share, total=total)
    return cap


def linear_beta(step: int, *, cap: float, updates: int) -> float:
    """Return min(cap, step / updates): the ramp of Liang et al. 2018, as in the authors' program.

    The slope is 1 / ``updates``, so the cap is reached at ``cap * updates``.
    """
    return min(cap, step / updates)


def share_beta(step: int, *, cap: float, share: float, total: float) -> float:
    """Return a linear ramp that reaches ``cap`` after ``share`` of the run's ``total`` updates."""
    ramp = share * total
    return cap if step >= ramp else cap * step / ramp


def cyclical_beta(step: int, *, cap: float, cycles: int, share: float, total: int) -> float:
    """Return a ramp to ``cap`` over ``share`` of each of ``cycles`` cycles, and ``cap`` for the rest of the cycle.

    Fu et al. 2019, arXiv 1903.10145, equations 6 and 7: f(tau) = tau / R with tau = mod(t - 1, ceil(T / M)) / (T / M),
    for t from 1, M cycles, share R and T updates, times the cap; the paper has R = 0.5, M = 4 and a cap of 1.
    """
    return share_beta(step % math.ceil(total / cycles), cap=cap, share=share, total=total / cycles)


def cosine_rate(step: int, *, total: int) -> float:
    """Return the share of the learning rate at update ``step``: 1 at first, towards 0 at ``total``, half a cosine.

    Loshchilov and Hutter 2017, arXiv 1608.03983, equation 5, without restarts.
    """
    return 0.5 * (1 + math.cos(math.pi * step / total))
