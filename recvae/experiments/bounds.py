"""Bounds on log p(x): the ELBO, and the importance-weighted bounds above it.

Burda, Grosse and Salakhutdinov 2016, arXiv 1509.00519, equation 8. With z_1 .. z_k drawn from q(z | x) and weights
w = p(x | z) p(z) / q(z | x), L_k = E[ log 1/k sum_i w_i ]. L_1 is the ELBO, L_k never falls in k and tends to log p(x),
and all of them lie below it. Samples are used up one by one: memory is a few numbers per user, however many there are.

Notation: B users, K latent dimensions, S samples.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recvae.nn.batches import Batch
from recvae.nn.network import Network
from recvae.nn.noise import Noise

Floats = NDArray[np.float64]
Draw = Callable[[], tuple[Tensor, Tensor]]
OfCode = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Evidence:
    """Estimates of log p(x) from S samples, one value per user, float64 (B,), in nats.

    ``bounds[k]`` estimates L_k without bias, by the mean over the S // k groups of k samples (a last group that is not
    full is left out); ``bounds[1]`` is the ELBO, ``bounds[S]`` the estimate of log p(x). ``variances[k]`` is the Monte
    Carlo variance of that mean: that of the groups over their number, or by the delta method, var(w) / (S mean(w)^2),
    where there is one group; NaN for a single sample. ``reconstruction`` and ``kl`` are the ELBO's parts,
    E_q[log p(x | z)] and E_q[log q(z | x) - log p(z)]; ``kl_per_dimension`` is (B, K), or (B, 1) where the prior does
    not factorise. ``effective`` is the effective sample size (sum w)^2 / sum w^2, between 1 and S.
    """

    samples: int
    bounds: dict[int, Floats]
    variances: dict[int, Floats]
    reconstruction: Floats
    kl: Floats
    kl_per_dimension: Floats
    effective: Floats

    @classmethod
    def joined(cls, parts: Sequence["Evidence"]) -> "Evidence":
        """Return the evidence of several batches, with the same number of samples, as one."""

        def join(values: Sequence[Floats]) -> Floats:
            return np.concatenate(values)

        samples = parts[0].samples
        return cls(
            samples=samples,
            bounds={k: join([part.bounds[k] for part in parts]) for k in ladder(samples)},
            variances={k: join([part.variances[k] for part in parts]) for k in ladder(samples)},
            reconstruction=join([part.reconstruction for part in parts]),
            kl=join([part.kl for part in parts]),
            kl_per_dimension=join([part.kl_per_dimension for part in parts]),
            effective=join([part.effective for part in parts]),
        )


def ladder(samples: int) -> list[int]:
    """Return the sizes k of the bounds that ``samples`` samples give: 1, 10, 100, ... and ``samples`` itself."""
    return [10**n for n in range(len(str(samples))) if 10**n < samples] + [samples]


@torch.no_grad()
def evidence(
    network: Network, batch: Batch, noise: Noise, samples: int, on_sample: Callable[[], None] | None = None
) -> Evidence:
    """Return the evidence of a batch's users under a network, z drawn from its posterior of the clean clicks.

    Memory is a few numbers per user and dimension, beside what one sample's likelihood takes. ``on_sample`` is called
    after each. Raises :class:`~recvae.errors.InputError` where the network has no posterior.
    """

    def log_likelihood(z: Tensor) -> Tensor:
        return network.log_likelihood(network.decode(z), batch)

    return importance_weighted(network.draws(batch, noise), network.prior(batch), log_likelihood, samples, on_sample)


def importance_weighted(
    draw: Draw,
    log_prior: OfCode,
    log_likelihood: OfCode,
    samples: int,
    on_sample: Callable[[], None] | None = None,
) -> Evidence:
    """Return the bounds on log p(x) that ``samples`` draws give.

    ``draw()`` returns z (B, K) and log q(z_k | x), (B, K), or (B, 1) where q does not factorise; ``log_prior(z)`` is
    (B, K), or (B, 1) where the prior does not; ``log_likelihood(z)`` is (B,). Sums are in float64. Raises
    :class:`ValueError` for ``samples`` < 1.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, and is {samples}.")
    levels = {k: _Level(k) for k in ladder(samples)}
    reconstruction: Floats = np.float64(0)  # type: ignore[assignment]  # the first sample gives it its shape
    kl, per_dimension, total, squares = reconstruction, reconstruction, np.float64(-np.inf), np.float64(-np.inf)
    for _ in range(samples):
        z, log_q = draw()
        log_p = log_prior(z)
        if log_q.shape != log_p.shape:
            log_q, log_p = log_q.sum(1, keepdim=True), log_p.sum(1, keepdim=True)
        gap = _float64(log_q - log_p)
        of_clicks, of_code = _float64(log_likelihood(z)), gap.sum(1)
        log_w = of_clicks - of_code
        reconstruction, kl, per_dimension = reconstruction + of_clicks, kl + of_code, per_dimension + gap
        total, squares = np.logaddexp(total, log_w), np.logaddexp(squares, 2 * log_w)
        for level in levels.values():
            level.add(log_w)
        if on_sample is not None:
            on_sample()
    effective = np.exp(2 * total - squares)
    variances = {k: level.variance() for k, level in levels.items()}
    if samples > 1:
        # Of log mean(w) by the delta method: the sample variance of w, over S mean(w)^2.
        variances[samples] = np.maximum(samples / effective - 1, 0.0) / (samples - 1)
    return Evidence(
        samples=samples,
        bounds={k: level.mean for k, level in levels.items()},
        variances=variances,
        reconstruction=reconstruction / samples,
        kl=kl / samples,
        kl_per_dimension=per_dimension / samples,
        effective=effective,
    )


class _Level:
    """Running mean and variance of log 1/k sum w over groups of k samples (Welford's recurrence)."""

    def __init__(self, k: int) -> None:
        self.k = k
        self.inside, self.groups = 0, 0
        self.log_sum: Floats = np.float64(-np.inf)  # type: ignore[assignment]  # of the group that is being filled
        self.mean: Floats = np.float64(0)  # type: ignore[assignment]  # as above, the first group gives it its shape
        self.squares: Floats = np.float64(0)  # type: ignore[assignment]  # the same

    def add(self, log_w: Floats) -> None:
        self.log_sum = np.logaddexp(self.log_sum, log_w)
        self.inside += 1
        if self.inside < self.k:
            return
        value = self.log_sum - math.log(self.k)
        self.inside, self.log_sum = 0, np.full_like(value, -np.inf)
        self.groups += 1
        step = value - self.mean
        self.mean = self.mean + step / self.groups
        self.squares = self.squares + step * (value - self.mean)

    def variance(self) -> Floats:
        """Return the variance of the mean over groups, NaN for a single group."""
        if self.groups < 2:
            return np.full_like(self.mean, np.nan)
        variance: Floats = self.squares / (self.groups - 1) / self.groups
        return variance


def _float64(values: Tensor) -> Floats:
    """Return values on the CPU, where every device's float64 is."""
    array: Floats = values.detach().cpu().double().numpy()
    return array
