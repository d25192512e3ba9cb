"""The VAE with arbitrary conditioning in float64 NumPy, from the paper (Ivanov et al. 2019, arXiv 1806.02382).

Dense and literal. x (B, I) holds clicks, weights or ratings, 0 where nothing is known; b (B, I) is 1 where an entry is
unobserved, which is everywhere that nothing is known. Layers are (W, b); a first layer's W is (I, H).
"""

import numpy as np
from oracles import affine, multinomial_nll, normal_log_density
from oracles_vamp import kl_between_gaussians


def damped_offsets(x, damping):
    """Mean of the known ratings, and the items' part of the damped-bias model: ridge regression on who and what."""
    known = x > 0
    mean = x[known].mean()
    rows, columns = known.nonzero()
    design = np.concatenate((np.eye(len(x))[rows], np.eye(x.shape[1])[columns]), 1)
    offsets = np.linalg.solve(design.T @ design + damping * np.eye(design.shape[1]), design.T @ (x[known] - mean))
    return mean, offsets[len(x) :]


def damped_user_offset(x, observed, mean, item_offset, damping):
    left = (x - mean - item_offset) * observed
    return left.sum(1) / (observed.sum(1) + damping)


def bias_model(x, observed, mean, item_offset, damping):
    """What the damped-bias model expects of every entry, from the observed ones."""
    return mean + item_offset + damped_user_offset(x, observed, mean, item_offset, damping)[:, None]


def first_layers(inputs, layers, counts):
    scale = np.sqrt(np.maximum(counts, 1))[:, None]
    return np.tanh(sum(x / scale @ w + b for x, (w, b) in zip(inputs, layers, strict=True)))


def gaussian(h, head):
    out = affine(h, head)
    k = out.shape[1] // 2
    return out[:, :k], out[:, k:]


def prior(values, observed, p):
    """The hidden layer, and mean and log-variance of p_psi(z | x_1-b, b); ``values`` (B, I) or None."""
    inputs = [observed] if values is None else [observed, observed * values]
    h = first_layers(inputs, p["prior_inputs"], observed.sum(1))
    return (h, *gaussian(h, p["prior_head"]))


def proposal(values, known, observed, p):
    """Mean and log-variance of q_phi(z | x, b)."""
    inputs = [known, known - observed] + ([] if values is None else [known * values])
    return gaussian(first_layers(inputs, p["proposal_inputs"], known.sum(1)), p["proposal_head"])


def decode(z, h, p):
    """What the last layer gives, (B, I), of z and the prior network's hidden layer."""
    return affine(np.tanh(affine(z, p["of_code"]) + affine(h, p["of_observed"])), p["last"])


def bound(x, b, eps, p, *, likelihood="multinomial", ratings=False, weighted=False, liked_from=4.0, damping=10.0):
    """(nll, KL, log hyperprior), each (B,), of one mask and one draw."""
    known = (x > 0).astype(float)
    observed = known * (1 - b)
    hidden = known * b
    values = x if weighted else None
    if ratings:
        base = bias_model(x, observed, p["mean"], p["item_offset"], damping)
        values = known * (x - base)
    h, mu_p, logvar_p = prior(values, observed, p)
    mu, logvar = proposal(values, known, observed, p)
    out = decode(mu + eps * np.exp(logvar / 2), h, p)
    if likelihood == "gaussian":
        nll = -(hidden * normal_log_density(x, base + out, np.exp(p["log_noise"]))).sum(1)
    else:
        target = (x >= liked_from) if ratings else (x if weighted else known)
        nll = multinomial_nll(out, hidden * target)
    sigma = np.exp(logvar_p / 2)
    hyperprior = (-(mu_p**2) / (2 * 1e4**2) + 1e-4 * (np.log(sigma) - sigma)).sum(1)
    return nll, kl_between_gaussians(mu, logvar, mu_p, logvar_p), hyperprior
