"""Annealing of the KL weight and of the learning rate: pure functions of the update number, counted from 0."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from recvae.options import Between, OneOf, option


@dataclass(frozen=True, kw_only=True)
class RampOptions:
    """The growth of the KL term's weight. The defaults are Mult-VAE's; a model may have others."""

    beta_cap: float = option(0.2, "Largest weight of the KL term.", search=Between(0.02, 1.0, log=True), ge=0)
    anneal: str = option(
        "paper",
        "How beta grows: 'paper', min(cap, step / anneal_updates), 'share', to the cap over a share of the run, "
        "'constant', not at all, or 'cyclical', from 0 to the cap over a share of each of several cycles.",
        search=OneOf("paper", "share"),  # with few updates 'paper' never reaches beta_cap
        choices=lambda: RAMPS,
    )
    anneal_updates: int = option(200_000, "Updates in which 'paper' would reach 1.", ge=1)
    anneal_share: float = option(
        0.5, "Share of the run in which 'share' reaches the cap, and of a cycle in which 'cyclical' does.", ge=0, le=1
    )
    cycles: int = option(4, "Number of cycles of 'cyclical' in the run.", ge=1)


def annealed_beta(options: RampOptions, step: int, total: int) -> float:
    """Return the KL weight at update ``step`` of ``total``: by the ramp of :data:`RAMPS` that the options name."""
    return RAMPS[options.anneal](options, step, total)


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


RAMPS: dict[str, Callable[[RampOptions, int, int], float]] = {
    "paper": lambda o, step, total: linear_beta(step, cap=o.beta_cap, updates=o.anneal_updates),
    "share": lambda o, step, total: share_beta(step, cap=o.beta_cap, share=o.anneal_share, total=total),
    "constant": lambda o, step, total: o.beta_cap,
    "cyclical": lambda o, step, total: cyclical_beta(
        step, cap=o.beta_cap, cycles=o.cycles, share=o.anneal_share, total=total
    ),
}
"""Each ramp of the KL weight by its name: its value at update ``step`` (from 0) of ``total``."""
