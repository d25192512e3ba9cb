"""Annealing of the KL weight: pure functions of the update number, counted from 0."""


def linear_beta(step: int, *, cap: float, updates: int) -> float:
    """Return min(cap, step / updates): the ramp of Liang et al. 2018, as in the authors' program.

    The slope is 1 / ``updates``, so the cap is reached at ``cap * updates``.
    """
    return min(cap, step / updates)


def share_beta(step: int, *, cap: float, share: float, total: int) -> float:
    """Return a linear ramp that reaches ``cap`` after ``share`` of the run's ``total`` updates."""
    ramp = share * total
    return cap if step >= ramp else cap * step / ramp
