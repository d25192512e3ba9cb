"""The VampPrior VAE in float64 NumPy, from the papers' equations.

Kim and Suh 2019 (arXiv 1911.00936), Tomczak and Welling 2018 (arXiv 1705.07120), Dauphin et al. 2017 (arXiv
1612.08083). A hidden layer is (W, b), or gated (W, b, V, c); a tower is a dict of ``firsts`` (one layer for each of its
inputs), ``inner`` (layers above) and ``head`` (W, b).
"""

import numpy as np
from oracles import affine, normal_log_density, normalise
from scipy.special import expit, logsumexp


def hidden_layer(h, layer):
    """Dauphin et al., equation 1: (h W + b) * sigma(h V + c); or tanh."""
    if len(layer) == 2:
        return np.tanh(affine(h, layer))
    w, b, v, c = layer
    return affine(h, (w, b)) * expit(affine(h, (v, c)))


def tower_hidden(inputs, tower):
    firsts = tower["firsts"]
    if not tower["inner"]:  # one layer on everything side by side
        weights = [np.concatenate(ws, 1) for ws in zip(*(layer[0::2] for layer in firsts), strict=True)]
        biases = [sum(bs) for bs in zip(*(layer[1::2] for layer in firsts), strict=True)]
        joined = [part for pair in zip(weights, biases, strict=True) for part in pair]
        return hidden_layer(np.concatenate(inputs, 1), joined)
    h = np.concatenate([hidden_layer(x, layer) for x, layer in zip(inputs, firsts, strict=True)], 1)
    for layer in tower["inner"]:
        h = hidden_layer(h, layer)
    return h


def logits(codes, tower):
    return affine(tower_hidden(codes, tower), tower["head"])


def gaussian(inputs, tower):
    """Mean and log-variance; the authors' program keeps the latter within -12 and 4."""
    out = affine(tower_hidden(inputs, tower), tower["head"])
    k = out.shape[1] // 2
    return out[:, :k], np.clip(out[:, k:], -12, 4)


def log_normal(z, mu, logvar):
    return normal_log_density(z, mu, np.exp(logvar)).sum(1)


def vamp_log_prior(z, pseudo_inputs, encoder):
    """log 1/C sum_c q(z | u_c), u_c kept within 0 and 1 before ``pseudo_inputs`` is multiplied by a dropout mask."""
    mu, logvar = gaussian([pseudo_inputs], encoder)
    components = [log_normal(z, mu[c], logvar[c]) for c in range(len(mu))]
    return logsumexp(components, axis=0) - np.log(len(mu))


def mean_logits(x, p):
    """What ranks: no dropout, z2 = mu2(x), z1 = mu1(x, z2)."""
    z = gaussian([normalise(x)], p["encoder"])[0]
    if "lower_encoder" not in p:
        return logits([z], p["decoder"])
    return logits([z, gaussian([normalise(x), z], p["lower_encoder"])[0]], p["decoder"])


def loss(x, p, masks, draws, beta, nll):
    """Mean over users of nll + beta (log q - log p), of one z, and the means of nll and of the rest.

    ``p``: the towers by name and ``pseudo_inputs``, each where the model has it. ``masks``: of the encoder's input, of
    the lower encoder's, where there is one, and of the pseudo-inputs, in this order; ``draws``: of z (or z2) and of z1.
    """
    masks, draws = list(masks), list(draws)
    mu, logvar = gaussian([normalise(x) * masks.pop(0)], p["encoder"])
    z = mu + draws.pop(0) * np.exp(logvar / 2)
    codes, kl = [z], log_normal(z, mu, logvar)
    if "lower_encoder" in p:
        mu1, logvar1 = gaussian([normalise(x) * masks.pop(0), z], p["lower_encoder"])
        z1 = mu1 + draws.pop(0) * np.exp(logvar1 / 2)
        codes.append(z1)
        kl += log_normal(z1, mu1, logvar1) - log_normal(z1, *gaussian([z], p["lower_prior"]))
    if "pseudo_inputs" in p:
        kl -= vamp_log_prior(z, np.clip(p["pseudo_inputs"], 0, 1) * masks.pop(0), p["encoder"])
    else:
        kl -= log_normal(z, 0.0, np.zeros_like(z))
    nlls = nll(logits(codes, p["decoder"]), x)
    return (nlls + beta * kl).mean(), nlls.mean(), kl.mean()


def kl_between_gaussians(mu, logvar, mu_p, logvar_p):
    """KL(N(mu, e^logvar) || N(mu_p, e^logvar_p)), summed over dimensions."""
    ratio = np.exp(logvar - logvar_p)
    return 0.5 * (ratio + (mu - mu_p) ** 2 / np.exp(logvar_p) - 1 - (logvar - logvar_p)).sum(1)
