"""Annealing of the KL weight and of the learning rate: pure functions of the update number, counted from 0."""

import math


def linear_beta(step: int, *, cap: float, updates: int) -> float:
    """Return min(cap, step / updates): the ramp of Liang et al. 2018, as in the authors' program.

    The slope is 1 / ``updates``, so the cap is reached at ``cap * updates``.
    """
    return min(cap, step / updates)


def share_beta(step: int, *, cap: float, share: float, total: int) -> float:
    """Return a linear ramp that reaches ``cap`` after ``share`` of the run's ``total`` updates."""
    ramp = share * total
    return cap if step >= ramp else cap * step / ramp


def cosine_rate(step: int, *, total: int) -> float:
    """Return the share of the learning rate at update ``step``: 1 at first, towards 0 at ``total``, half a cosine.

    Loshchilov and Hutter 2017, arXiv 1608.03983, equation 5, without restarts.
    """
    return 0.5 * (1 + math.cos(math.pi * step / total))
