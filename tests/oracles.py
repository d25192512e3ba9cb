"""The papers' equations in float64 NumPy, written from the papers and not from the code under test.

Liang et al. 2018 (arXiv 1802.05814) and Shenbin et al. 2020 (arXiv 1912.11160). Everything is dense and literal.
Matrices: x (B, I) clicks; W (out, in); layers are lists of (W, b).
"""

import numpy as np


def fixed(*shape, scale=1.0, phase=0.0):
    """Numbers that look irregular and need no random generator."""
    n = int(np.prod(shape))
    i = np.arange(n, dtype=np.float64)
    return (scale * np.sin(1.7 * i + 0.3 * np.sqrt(i) + phase)).reshape(shape)


def fixed_clicks(users=7, items=11, every=3):
    """A 0/1 click matrix with uneven rows and one empty row (the last)."""
    u, i = np.indices((users, items))
    x = ((u * u + 3 * i + u * i) % every == 0).astype(np.float64)
    x[-1] = 0
    return x


def normalise(x):
    """x / ||x||_2 per row; an empty row stays empty."""
    norm = np.sqrt((x**2).sum(1, keepdims=True))
    return np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)


def affine(h, layer):
    weight, bias = layer
    return h @ weight.T + bias


def mlp(h, layers):
    """tanh between layers and none after the last."""
    for n, layer in enumerate(layers):
        h = affine(h, layer)
        if n < len(layers) - 1:
            h = np.tanh(h)
    return h


def log_softmax(a):
    a = a - a.max(1, keepdims=True)
    return a - np.log(np.exp(a).sum(1, keepdims=True))


def multinomial_nll(logits, x):
    """-sum_i x_ui log pi_ui, one value per user; not divided by the number of clicks."""
    return -(x * log_softmax(logits)).sum(1)


def kl_to_standard_normal(mu, logvar):
    """KL(q || N(0, 1)), summed over the latent dimensions."""
    variance = np.exp(logvar)
    return 0.5 * (variance + mu**2 - 1 - np.log(variance)).sum(1)


def normal_log_density(z, mu, variance):
    return -0.5 * np.log(2 * np.pi * variance) - (z - mu) ** 2 / (2 * variance)


def swish(a):
    return a / (1 + np.exp(-a))


def layer_norm(h, gain, bias, eps):
    mean = h.mean(1, keepdims=True)
    variance = ((h - mean) ** 2).mean(1, keepdims=True)
    return (h - mean) / np.sqrt(variance + eps) * gain + bias


# --- Mult-DAE, Mult-VAE ------------------------------------------------------------------------------------------


def mult_dae_logits(x, mask, layers):
    """``mask`` (B, I): the inverted dropout's factors (ones when predicting)."""
    return mlp(normalise(x) * mask, layers)


def mult_vae_posterior(x, mask, encoder):
    """The first half of the encoder's output is mu, the second log sigma^2."""
    out = mlp(normalise(x) * mask, encoder)
    k = out.shape[1] // 2
    return out[:, :k], out[:, k:]


def mult_vae_loss(x, mask, noise, encoder, decoder, beta):
    """Mean over users of nll + beta KL; also the two means."""
    mu, logvar = mult_vae_posterior(x, mask, encoder)
    z = mu + noise * np.sqrt(np.exp(logvar))
    nll = multinomial_nll(mlp(z, decoder), x).mean()
    kl = kl_to_standard_normal(mu, logvar).mean()
    return nll + beta * kl, nll, kl


def mult_vae_beta(update, cap=0.2, total=200_000):
    """As the authors' program: counted in updates, slope 1 / total, held at the cap."""
    return min(cap, update / total)


# --- RecVAE ------------------------------------------------------------------------------------------------------


def recvae_posterior(x, mask, parameters, eps):
    """Five (or fewer) densely connected layers; ``parameters`` has layers, norms (gain, bias), mu and logvar."""
    previous = []
    h = normalise(x) * mask
    for layer, (gain, bias) in zip(parameters["layers"], parameters["norms"], strict=True):
        skips = sum(previous) if previous else 0.0
        h = layer_norm(swish(affine(h, layer) + skips), gain, bias, eps)
        previous.append(h)
    return affine(h, parameters["mu"]), affine(h, parameters["logvar"])


def recvae_log_prior(z, mu_old, logvar_old):
    """The composite prior: a mixture in each latent dimension; the log densities are then summed."""
    density = (
        3 / 20 * np.exp(normal_log_density(z, 0, 1))
        + 3 / 4 * np.exp(normal_log_density(z, mu_old, np.exp(logvar_old)))
        + 1 / 10 * np.exp(normal_log_density(z, 0, np.exp(10)))
    )
    return np.log(density).sum(1)


def recvae_encoder_loss(x, mask, noise, parameters, old, decoder, gamma, eps):
    """Mean over users of nll + gamma n_u (log q(z|x) - log p(z|x)), one z for both; ``old`` the previous encoder."""
    mu, logvar = recvae_posterior(x, mask, parameters, eps)
    z = mu + noise * np.sqrt(np.exp(logvar))
    mu_old, logvar_old = recvae_posterior(x, np.ones_like(x), old, eps)
    log_q = normal_log_density(z, mu, np.exp(logvar)).sum(1)
    kl = log_q - recvae_log_prior(z, mu_old, logvar_old)
    nll = multinomial_nll(affine(z, decoder), x)
    return (nll + gamma * x.sum(1) * kl).mean(), nll.mean(), kl.mean()


def recvae_decoder_loss(x, noise, parameters, decoder, eps):
    """No dropout, z sampled, likelihood only."""
    mu, logvar = recvae_posterior(x, np.ones_like(x), parameters, eps)
    z = mu + noise * np.sqrt(np.exp(logvar))
    return multinomial_nll(affine(z, decoder), x).mean()


# --- baselines and ranking -----------------------------------------------------------------------------------------


def ease(x, l2):
    """B = I - P diag(1 / diag P), the diagonal zero."""
    p = np.linalg.inv(x.T @ x + l2 * np.eye(x.shape[1]))
    b = np.eye(x.shape[1]) - p / np.diag(p)
    np.fill_diagonal(b, 0)
    return b


def ranking(scores, k, allowed):
    """A stable sort, best first, of the allowed items of one user: (ids, scores), padded with -1 and -inf."""
    items = [i for i in range(len(scores)) if allowed[i]]
    items.sort(key=lambda i: -scores[i])  # Python's sort is stable: equal scores keep the lower index first
    ids = (items + [-1] * k)[:k]
    return ids, [scores[i] if i >= 0 else -np.inf for i in ids]
