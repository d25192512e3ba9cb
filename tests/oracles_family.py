"""Likelihoods, objectives, corruptions and quadrature for the family of models, in float64 NumPy from the papers.

Liang et al. 2018 (arXiv 1802.05814), Fu et al. 2019 (arXiv 1903.10145), Im et al. 2017 (arXiv 1511.06406).
"""

from itertools import product
from math import ceil, comb

import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from oracles import kl_to_standard_normal, mlp, multinomial_nll, normal_log_density
from scipy.special import gammaln, logsumexp


def bernoulli_nll(logits, x):
    """-sum_i x log sigma(f) + (1 - x) log(1 - sigma(f)); log sigma(f) = -log(1 + exp(-f))."""
    log_on, log_off = -np.logaddexp(0, -logits), -np.logaddexp(0, logits)
    return -(x * log_on + (1 - x) * log_off).sum(1)


def gaussian_nll(logits, x, confidence=1.0):
    """sum_i c/2 (x - f)^2, c = confidence where there is a click and 1 elsewhere; no constant."""
    c = np.where(x > 0, confidence, 1.0)
    return (c / 2 * (x - logits) ** 2).sum(1)


NLL = {"multinomial": multinomial_nll, "bernoulli": bernoulli_nll, "gaussian": gaussian_nll}


def log_coefficient(x):
    """log n! / prod x_i!, what the multinomial likelihood leaves out."""
    return gammaln(x.sum(1) + 1) - gammaln(x + 1).sum(1)


def cyclical(t, updates, cycles, share):
    """Fu et al. 2019, equations 6 and 7, linear; ``t`` counts from 1."""
    tau = ((t - 1) % ceil(updates / cycles)) / (updates / cycles)
    return tau / share if tau <= share and share else 1.0


def objective(x, inputs, draws, encoder, decoder, *, nll, weight, kl="analytic"):
    """Mean over users and samples of nll + weight KL, and the two means; ``draws`` (L, B, K), ``weight`` (B,)."""
    out = mlp(inputs, encoder)
    k = out.shape[1] // 2
    mu, logvar = out[:, :k], out[:, k:]
    nlls, kls = [], []
    for eps in draws:
        z = mu + eps * np.exp(logvar / 2)
        nlls.append(nll(mlp(z, decoder), x))
        if kl == "analytic":
            kls.append(kl_to_standard_normal(mu, logvar))
        else:
            density = normal_log_density(z, mu, np.exp(logvar)) - normal_log_density(z, 0, 1)
            kls.append(density.sum(1))
    nlls, kls = np.mean(nlls, axis=0), np.mean(kls, axis=0)
    return (nlls + weight * kls).mean(), nlls.mean(), kls.mean()


# --- one latent dimension: everything by quadrature ------------------------------------------------------------------

GRID = np.linspace(-14, 14, 8001)
STEP = GRID[1] - GRID[0]
NODES, WEIGHTS = hermegauss(80)  # for expectations over a standard normal
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def log_joint(x, decoder, nll):
    """log p(x, z) on the grid, for one history x (I,); the multinomial with its coefficient."""
    every = np.broadcast_to(x, (len(GRID), len(x)))
    constant = log_coefficient(x[None])[0] if nll is multinomial_nll else 0.0
    return constant - nll(mlp(GRID[:, None], decoder), every) + normal_log_density(GRID, 0, 1)


def log_evidence(x, decoder, nll):
    """log p(x), the integral over z."""
    return logsumexp(log_joint(x, decoder, nll)) + np.log(STEP)


def bound_and_gap(x, densities, chances, decoder, nll):
    """For q = the mixture of ``densities`` (M, grid) with ``chances`` (M,), on the grid:

    E_q log p(x, z) / q(z), and KL(q || p(z | x)).
    """
    log_p = log_joint(x, decoder, nll)
    q = chances @ np.exp(densities)
    log_q = logsumexp(densities, axis=0, b=chances[:, None])
    posterior = log_p - log_evidence(x, decoder, nll)
    return (q * (log_p - log_q)).sum() * STEP, (q * (log_q - posterior)).sum() * STEP


def log_posterior(inputs, encoder):
    """log q(z | x~) on the grid, of one input (I,)."""
    mu, logvar = mlp(inputs[None], encoder)[0]
    return normal_log_density(GRID, mu, np.exp(logvar))


# --- corruptions, all of them with their chances ---------------------------------------------------------------------


def histories(items):
    """All 0/1 rows."""
    return [np.array(row, float) for row in product((0, 1), repeat=items)]


def counted_histories(items, clicks):
    """All rows of counts with this sum; there are comb(items + clicks - 1, clicks)."""
    rows = [np.array(row, float) for row in product(range(clicks + 1), repeat=items) if sum(row) == clicks]
    assert len(rows) == comb(items + clicks - 1, clicks)
    return rows


def corruptions(x, kind, p):
    """Yield each corrupted row (I,) that has a chance, and its chance."""
    n, items = x.sum(), len(x)
    rate = p * n / (items - n) if kind == "flips" else 0.0
    for row in histories(items):
        dropped, added = ((x == 1) & (row == 0)).sum(), ((x == 0) & (row == 1)).sum()
        stayed, absent = n - dropped, items - n - added
        chance = p**dropped * (1 - p) ** stayed * rate**added * (1 - rate) ** absent
        if chance:
            yield row, chance
