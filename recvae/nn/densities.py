"""Densities of Gaussian codes, their Kullback-Leibler divergences, and draws from them.

Notation: B users, K latent dimensions; variances are passed as logarithms.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from recvae.nn.noise import Noise

LOG_2PI = math.log(2 * math.pi)


def gaussian_log_density(z: Tensor, mu: Tensor | float, logvar: Tensor | float) -> Tensor:
    """Return log N(z; mu, exp(logvar)) per dimension, broadcast over the arguments."""
    # A number stays a number: as a tensor it would have to be copied to the device.
    precision = math.exp(-logvar) if isinstance(logvar, float) else torch.exp(-logvar)
    return -0.5 * ((z - mu).square() * precision + (logvar + LOG_2PI))


def kl_standard_normal(mu: Tensor, logvar: Tensor) -> Tensor:
    """Return KL(N(mu, exp(logvar)) || N(0, 1)) summed over dimensions, (B,), from (B, K)."""
    return 0.5 * (logvar.exp() + mu.square() - 1 - logvar).sum(1)


def kl_gaussians(mu: Tensor, logvar: Tensor, mu_p: Tensor, logvar_p: Tensor) -> Tensor:
    """Return KL(N(mu, exp(logvar)) || N(mu_p, exp(logvar_p))) summed over dimensions, (B,), from (B, K) each."""
    difference = logvar - logvar_p
    return 0.5 * (difference.exp() + (mu - mu_p).square() * torch.exp(-logvar_p) - 1 - difference).sum(1)


# RecVAE's composite prior: weight of each component (Shenbin et al. 2020, as in the authors' program).
COMPOSITE_WEIGHTS = (3 / 20, 3 / 4, 1 / 10)
WIDE_LOGVAR = 10.0


def composite_log_prior(z: Tensor, mu_old: Tensor, logvar_old: Tensor) -> Tensor:
    """Return RecVAE's log p(z | x), summed over dimensions, (B,), from (B, K); see :func:`composite_log_density`."""
    return composite_log_density(z, mu_old, logvar_old).sum(1)


def composite_log_density(z: Tensor, mu_old: Tensor, logvar_old: Tensor) -> Tensor:
    """Return RecVAE's log p(z_k | x) of each dimension, (B, K); Shenbin et al. 2020.

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
    return torch.logsumexp(components, dim=0)


def drawn(mu: Tensor, logvar: Tensor, noise: Noise | None) -> tuple[Tensor, Tensor]:
    """Return z = mu + eps exp(logvar / 2) of N(mu, exp(logvar)) and its eps, (B, K) each; without noise z = mu."""
    eps = torch.zeros_like(mu) if noise is None else noise.normal(mu)
    return mu + eps * torch.exp(0.5 * logvar), eps


def log_density_of_draw(eps: Tensor, logvar: Tensor) -> Tensor:
    """Return log N(z; mu, exp(logvar)) per dimension, (B, K), of z = mu + eps exp(logvar / 2).

    Computed from eps, since z - mu is rounded: the value and the gradient along the path of z are the same.
    """
    return -0.5 * (eps.square() + logvar + LOG_2PI)


def gaussian_draws(mu: Tensor, logvar: Tensor, noise: Noise) -> Callable[[], tuple[Tensor, Tensor]]:
    """Return a function that draws z from N(mu, exp(logvar)): z and its log density per dimension, (B, K) each."""

    def draw() -> tuple[Tensor, Tensor]:
        z, eps = drawn(mu, logvar, noise)
        return z, log_density_of_draw(eps, logvar)

    return draw


SIGMA_MU, SIGMA_SIGMA = 1e4, 1e-4
"""The weak prior on the output of VAEAC's prior network (Ivanov et al. 2019, section 4.3): Normal(0, SIGMA_MU^2) on
every mean and Gamma(shape SIGMA_SIGMA + 1, rate SIGMA_SIGMA) on every deviation, which keep both finite."""


def log_hyperprior(mu: Tensor, logvar: Tensor) -> Tensor:
    """Return -mu^2 / (2 SIGMA_MU^2) + SIGMA_SIGMA (log sigma - sigma), summed over dimensions, (B,).

    Ivanov et al. 2019, section 4.3.
    """
    log_sigma = 0.5 * logvar
    return (SIGMA_SIGMA * (log_sigma - log_sigma.exp()) - mu.square() / (2 * SIGMA_MU**2)).sum(1)
