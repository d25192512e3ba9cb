"""Priors p(z) of the code: objects, chosen by their names in PRIORS, that work with any variational network here.

A prior computes log p(z) of a batch's users, for the KL term and for diagnosis. Some priors need the network's
encoder: RecVAE's composite prior uses the posterior at its last update, the VampPrior the posterior of pseudo-inputs.
They call it through :class:`Encoder` and :class:`RowEncoder`, and use nothing else of the network.

Notation: B users, I items, K latent dimensions, C pseudo-inputs.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from recvae.nn.batches import Batch, Clicks
from recvae.nn.densities import LOG_2PI, composite_log_density, gaussian_log_density
from recvae.nn.kernels import has_float64
from recvae.nn.noise import Noise
from recvae.nn.shards import Items, Shard, draw, items_here, shard_of
from recvae.options import WIDEST, option

TABLE_VALUES = 1 << 29  # a table of old posteriors has at most this many: 2 GiB
# As in the program of Kim and Suh 2019: mean and deviation of the first pseudo-inputs.
PSEUDO_MEAN, PSEUDO_DEVIATION = 0.05, 0.01

Gaussian = tuple[Tensor, Tensor]  # mean and log-variance, (B, K) each
Density = Callable[[Tensor], Tensor]
"""Log p of z (S B, K), S draws of the users in turn: (S B, K), or the sum (S B, 1) where p does not factorise."""


class Encoder(Protocol):
    """The part of a variational network whose posterior a prior may keep."""

    def encoded(self, batch: Batch) -> Gaussian:
        """Return the posterior of the users' clean clicks, without dropout."""

    def frozen(self) -> "FrozenEncoder":
        """Return the encoder with its present weights, which later training does not change."""


class FrozenEncoder(Encoder, Protocol):
    """A copy of an encoder, whose tensors a state keeps."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors by name."""

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> object:
        """Take back tensors that :meth:`state_dict` returned."""


class RowEncoder(Encoder, Protocol):
    """An encoder that also takes dense rows; ``pseudo_inputs`` (C, I) are a VampPrior's."""

    pseudo_inputs: nn.Parameter

    def encoded_rows(self, rows: Tensor) -> Gaussian:
        """Return the posterior of dense rows (C, I), which are not normalised, with gradients."""


class Prior(ABC):
    """p(z) of one network; ``about`` is a sentence for a diagnosis."""

    standard: ClassVar[bool] = False  # N(0, 1) in each dimension, so that KL(q || p) has its closed form
    about: ClassVar[str] = "The prior is the model's own; its KL is sampled."

    @abstractmethod
    def density(self, batch: Batch, encoder: RowEncoder, noise: Noise | None = None) -> Density:
        """Return log p(z) of the batch's users as a function; with ``noise``, as in training."""

    def update(self, encoder: Encoder, clicks: Clicks, batch_size: int, *, trained: bool, current: bool) -> None:
        """Keep the state of the encoder that the prior needs; called before each phase.

        ``trained``: the phase changes the encoder; ``current``: the encoder has not changed since the last update.
        """
        del encoder, clicks, batch_size, trained, current

    def state(self, encoder: Encoder) -> dict[str, Tensor]:
        """Return the tensors that :meth:`update` has kept of ``encoder``, by name, beside the encoder's own."""
        del encoder
        return {}

    def restore(self, encoder: Encoder, tensors: Mapping[str, Tensor]) -> None:
        """Take back the tensors that :meth:`state` returned."""
        del encoder, tensors

    def kept_posterior(self, batch: Batch) -> Gaussian | None:
        """Return the users' posterior at the last update if the prior keeps it, else None."""
        del batch
        return None

    def release(self) -> None:
        """Free the memory that only training needs (none by default)."""
        return


class StandardNormal(Prior):
    """N(0, 1) in each dimension."""

    standard = True
    about = "The prior is N(0, 1) in each dimension."

    def density(self, batch: Batch, encoder: RowEncoder, noise: Noise | None = None) -> Density:
        """Return log N(z_k; 0, 1), per dimension."""
        del batch, encoder, noise
        return lambda z: gaussian_log_density(z, 0.0, 0.0)


class Composite(Prior):
    """RecVAE's: per dimension a mixture of N(0, 1), the user's posterior at the last update, and a wide Gaussian.

    Shenbin et al. 2020; :func:`recvae.nn.densities.composite_log_density` has the equation. The old posteriors of all
    users are a table (n_users, 2 K), mu then log-variance; for more users than the table has room for, a copy of the
    encoder is kept instead and runs again: nothing is rounded. Outside of training the old posterior is the present
    one, which the next update would keep.
    """

    about = (
        "RecVAE's composite prior depends on the user: log p(x) here is under the prior that the encoder's own "
        "posterior of these clicks makes (training's last one is not kept with a run). The KL is then at most "
        "0.29 nats a dimension, whatever it was in training, and log p(x) can be compared between RecVAE runs, not "
        "with a model whose prior has not seen x."
    )

    def __init__(self, latent: int) -> None:
        self.latent = latent
        self.table: Tensor | None = None
        self.old_encoder: Encoder | None = None
        self.copied: FrozenEncoder | None = None  # the old encoder where it is a copy, and not the encoder itself

    def density(self, batch: Batch, encoder: RowEncoder, noise: Noise | None = None) -> Density:
        """Return log p(z_k | x), per dimension."""
        mu, logvar = encoder.encoded(batch) if noise is None else self.kept_posterior(batch)

        def log_p(z: Tensor) -> Tensor:
            draws = len(z) // len(mu)
            old = (mu, logvar) if draws == 1 else (mu.repeat(draws, 1), logvar.repeat(draws, 1))
            return composite_log_density(z, *old)

        return log_p

    @torch.no_grad()
    def update(self, encoder: Encoder, clicks: Clicks, batch_size: int, *, trained: bool, current: bool) -> None:
        """Keep the encoder's posterior as the old one.

        After a phase that does not change the encoder the table is still right, and a resumed run, which computes it
        again, gets the same bits.
        """
        if len(clicks) * 2 * self.latent > TABLE_VALUES:
            self.table = None
            self.copied = encoder.frozen() if trained else None
            self.old_encoder = encoder if self.copied is None else self.copied
            return
        if current and self.table is not None:
            return
        for batch in clicks.in_order(batch_size):
            found = torch.cat(encoder.encoded(batch), dim=1)
            if self.table is None or len(self.table) != len(clicks) or self.table.device != found.device:
                self.table = found.new_empty(len(clicks), found.shape[1])
            self.table[batch.users] = found

    @torch.no_grad()
    def kept_posterior(self, batch: Batch) -> Gaussian:
        """Return mu and log-variance at the last update; raise RuntimeError before the first one."""
        if self.table is not None:
            mu, logvar = self.table[batch.users].chunk(2, dim=1)
            return mu, logvar
        if self.old_encoder is None:
            raise RuntimeError("begin_phase must come before the first loss: it takes the old posterior.")
        return self.old_encoder.encoded(batch)

    def state(self, encoder: Encoder) -> dict[str, Tensor]:
        """Return the table, or the copy of the encoder."""
        if self.table is not None:
            return {"table": self.table}
        if self.copied is None:
            return {}
        return {f"old.{name}": value for name, value in self.copied.state_dict().items()}

    def restore(self, encoder: Encoder, tensors: Mapping[str, Tensor]) -> None:
        """Take back the table, or make the copy of the encoder again."""
        self.table, self.old_encoder, self.copied = tensors.get("table"), None, None
        if self.table is None and tensors:
            self.old_encoder = self.copied = encoder.frozen()
            self.copied.load_state_dict({name.removeprefix("old."): value for name, value in tensors.items()})
        elif self.table is None:
            self.old_encoder = encoder

    def release(self) -> None:
        """Free the old posterior."""
        self.table = self.old_encoder = self.copied = None


class VampPrior(Prior):
    """The mean of the encoder's posteriors of C pseudo-inputs, p(z) = 1/C sum_c q(z | u_c).

    Tomczak and Welling, AISTATS 2018, arXiv 1705.07120. The pseudo-inputs are a parameter (C, I) of the network,
    clamped to [0, 1] where they are used, and trained with the encoder. In training they go through the dropout of
    ``rate``, as in the program of Kim and Suh 2019: the prior is then the mean of that mixture over all dropouts, and
    one draw bounds its log from below, by Jensen's inequality; the loss remains a bound.
    """

    def __init__(self, rate: float, shard: Shard | None = None) -> None:
        self.rate, self.shard = rate, shard

    def components(self, encoder: RowEncoder, noise: Noise | None = None) -> Gaussian:
        """Return mean and log-variance of the components q(z | u_c), (C, K) each."""
        rows = encoder.pseudo_inputs.clamp(0.0, 1.0)
        return encoder.encoded_rows(rows if noise is None else self._dropped(rows, noise))

    def _dropped(self, rows: Tensor, noise: Noise) -> Tensor:
        """Return the pseudo-inputs after dropout; a part of the items has its columns of the noise of all items."""
        if self.shard is None or self.rate == 0:
            return noise.dropout(rows, self.rate)
        of_all = rows.new_empty(self.shard.n_items)
        columns = self.shard.columns.to(rows.device)
        kept = torch.stack([noise.kept(of_all, self.rate)[columns] for _ in rows])
        return rows * kept / (1 - self.rate)

    def density(self, batch: Batch, encoder: RowEncoder, noise: Noise | None = None) -> Density:
        """Return log p(z), (B, 1): the mixture does not factorise over dimensions."""
        del batch
        components = self.components(encoder, noise)
        return lambda z: mixture_log_density(z, *components)[:, None]


def mixture_log_density(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """Return log 1/C sum_c N(z; mu_c, diag exp(logvar_c)), (B,), from (B, K), (C, K) and (C, K).

    The squared distances of all B x C pairs are three matrix products, (z - mu)^2 = z^2 - 2 z mu + mu^2, so that there
    is no (B, C, K) tensor. They are in float64, since float32 loses the difference where a component is narrow, and on
    the CPU where the device has no float64.
    """
    dtype, device = z.dtype, z.device
    if not has_float64(device):
        z, mu, logvar = z.cpu(), mu.cpu(), logvar.cpu()
    z, mu, logvar = z.double(), mu.double(), logvar.double()
    precision = torch.exp(-logvar)
    squares = z.square() @ precision.T - 2 * z @ (mu * precision).T + (mu.square() * precision).sum(1)  # (B, C)
    log_densities = -0.5 * (squares + (logvar + LOG_2PI).sum(1))
    return (torch.logsumexp(log_densities, dim=1) - math.log(len(mu))).to(dtype).to(device)


# --- by name ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PriorOptions:
    """The choice of a variational network's prior; each model has its own default."""

    prior: str = option("standard", "Of the code.", choices=lambda: PRIORS)
    pseudo_inputs: int = option(1000, "Number of the VampPrior's pseudo-inputs.", ge=1, le=WIDEST)


def vamp_prior(network: nn.Module, items: Items, options: Any, g: torch.Generator) -> VampPrior:
    """Add the parameter ``pseudo_inputs`` to the network, and return the prior that uses it."""
    pseudo = torch.empty(options.pseudo_inputs, items_here(items))
    draw(pseudo, lambda whole: whole.normal_(PSEUDO_MEAN, PSEUDO_DEVIATION, generator=g), shard_of(items), dim=1)
    network.pseudo_inputs = nn.Parameter(pseudo)
    return VampPrior(options.dropout, shard_of(items))


Made = Callable[[nn.Module, Items, Any, torch.Generator], Prior]
"""Makes a prior from a network, the items or the part of them that is here, options, and a generator."""

PRIORS: dict[str, Made] = {
    "standard": lambda network, items, options, g: StandardNormal(),
    "composite": lambda network, items, options, g: Composite(options.latent),
    "vamp": vamp_prior,
}
"""Each prior by its name: 'standard' is N(0, 1), 'composite' RecVAE's, 'vamp' the VampPrior."""
