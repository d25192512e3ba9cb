"""The conditional VAE in float64 NumPy: Mult-VAE's equations (Liang et al. 2018) with c beside x and beside z.

Sohn et al. 2015: q(z | x, c) and p(x | z, c). Carraro et al. 2020: the encoder's input is [x, c]; what is to be
reconstructed is the clicks of the items that have the wanted tag, all clicks where there is none.
"""

import numpy as np
from oracles import kl_to_standard_normal, mlp, multinomial_nll, normalise


def posterior(x, mask, c, encoder, e):
    """mu and log-variance; [x, c] times [W, E'] is x W + c E."""
    (w, b), *rest = encoder
    stacked = np.concatenate((normalise(x) * mask, c), axis=1)
    out = mlp(stacked, [(np.concatenate((w, e.T), axis=1), b), *rest])
    k = out.shape[1] // 2
    return out[:, :k], out[:, k:]


def logits(z, c, decoder, v):
    """The last layer on [h, c]."""
    *before, (w, b) = decoder
    h = np.tanh(mlp(z, before)) if before else z
    return np.concatenate((h, c), axis=1) @ np.concatenate((w, v), axis=1).T + b


def wanted(x, tags, chosen):
    """Clicks of items with the tag ``chosen`` of each user, all of them where that is -1; ``tags`` (I, T)."""
    return np.array([row if t < 0 else row * tags[:, t] for row, t in zip(x, chosen, strict=True)])


def loss(x, mask, c, target, eps, encoder, e, decoder, v, beta):
    mu, logvar = posterior(x, mask, c, encoder, e)
    nll = multinomial_nll(logits(mu + eps * np.exp(logvar / 2), c, decoder, v), target)
    kl = kl_to_standard_normal(mu, logvar)
    return (nll + beta * kl).mean(), nll.mean(), kl.mean()
