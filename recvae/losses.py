"""Log-likelihoods and KL terms, one value per user.

Notation: B users, I items, K latent dimensions; x a user's clicks, n_u their sum.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recvae.batches import Batch

LOG_2PI = math.log(2 * math.pi)


def multinomial_log_likelihood(logits: Tensor, batch: Batch) -> Tensor:
    """Return sum_i x_ui log softmax(logits_u)_i, float32 (B,); Liang et al. 2018, equation 2.

    ``logits`` (B, I). Positives are gathered, so no dense target is made. Not divided by the number of clicks; the
    multinomial coefficient, a constant, is left out. A user without clicks has likelihood 0.
    """
    result: Tensor = _Multinomial.apply(logits, batch)  # type: ignore[no-untyped-call]  # torch ships it without types
    return result


class _Multinomial(torch.autograd.Function):
    """The likelihood with its gradient written into the one buffer that the forward pass kept."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, batch: Batch) -> Tensor:
        log_p = torch.log_softmax(logits, dim=1)  # (B, I)
        ctx.log_p, ctx.batch = log_p, batch
        return batch.row_sum(batch.values * log_p.view(-1)[batch.cells])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        # d/dlogits = x - n_u softmax(logits), written over log softmax.
        if ctx.log_p is None:
            raise RuntimeError("The multinomial likelihood's gradient can be taken once: its buffer is used in place.")
        batch, buffer = ctx.batch, ctx.log_p
        ctx.log_p = None
        buffer.exp_().mul_((-grad * batch.totals)[:, None])
        flat = buffer.view(-1)
        flat.index_put_((batch.cells,), flat[batch.cells] + batch.values * grad[batch.rows])
        return buffer, None


def gaussian_log_density(z: Tensor, mu: Tensor | float, logvar: Tensor | float) -> Tensor:
    """Return log N(z; mu, exp(logvar)) per dimension, broadcast over the arguments."""
    # A number stays a number: as a tensor it would have to be copied to the device.
    precision = math.exp(-logvar) if isinstance(logvar, float) else torch.exp(-logvar)
    return -0.5 * ((z - mu).square() * precision + (logvar + LOG_2PI))


def kl_standard_normal(mu: Tensor, logvar: Tensor) -> Tensor:
    """Return KL(N(mu, exp(logvar)) || N(0, 1)) summed over dimensions, (B,), from (B, K)."""
    return 0.5 * (logvar.exp() + mu.square() - 1 - logvar).sum(1)


# RecVAE's composite prior: weight of each component (Shenbin et al. 2020, as in the authors' program).
COMPOSITE_WEIGHTS = (3 / 20, 3 / 4, 1 / 10)
WIDE_LOGVAR = 10.0


def composite_log_prior(z: Tensor, mu_old: Tensor, logvar_old: Tensor) -> Tensor:
    """Return RecVAE's log p(z | x), summed over dimensions, (B,), from (B, K); Shenbin et al. 2020.

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
    return torch.logsumexp(components, dim=0).sum(1)
