"""RecVAE: Shenbin, Alekseev, Tutubalina, Malykh and Nikolenko, WSDM 2020, arXiv 1912.11160.

An epoch trains the encoder for some passes against a frozen decoder, takes the encoder's posterior as the new prior
component, and trains the decoder for one pass. A user's old posterior does not change during the encoder passes, and
the decoder pass uses it too. So one pass over the users fills a table of old posteriors, and no second, frozen encoder
runs, except for more users than the table has room for.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from recvae import defaults
from recvae.models.neural import NeuralRecommender
from recvae.nn.batches import Batch, Clicks
from recvae.nn.densities import drawn, gaussian_log_density
from recvae.nn.implicit_slim import SlimOptions, replace_embeddings
from recvae.nn.layers import ClickLinear, Linear, init_fan_in, linear
from recvae.nn.likelihoods import LikelihoodOptions, likelihood
from recvae.nn.network import Loss, Network, Phase
from recvae.nn.noise import Noise
from recvae.nn.priors import PRIORS, PriorOptions
from recvae.options import DEEPEST, WIDEST, Between, OfEveryModel, OneOf, option, takes
from recvae.training.loop import TrainOptions


@dataclass(frozen=True, kw_only=True)
class RecVAEOptions(PriorOptions, LikelihoodOptions, SlimOptions):
    """Options of RecVAE; the defaults are the paper's for ML-20M, and the paper's code where later code differs."""

    hidden: int = option(600, "Width of the encoder's layers.", search=OneOf(150, 300, 600), ge=1, le=WIDEST)
    layers: int = option(5, "Number of the encoder's densely connected layers.", search=Between(1, 5), ge=1, le=DEEPEST)
    latent: int = option(200, "Number of latent dimensions.", search=OneOf(50, 100, 200, 400), ge=1, le=WIDEST)
    dropout: float = option(
        0.5, "Share of clicks dropped from the input in the encoder passes.", search=Between(0.2, 0.7), ge=0, lt=1
    )
    gamma: float = option(
        0.005, "Weight of the KL term per click of the user.", search=Between(0.002, 0.03, log=True), ge=0
    )
    beta: float | None = option(None, "Where given, a constant weight of the KL term that replaces gamma's.", ge=0)
    encoder_passes: int = option(3, "Passes over the users that train the encoder, per epoch.", ge=1)
    decoder_passes: int = option(1, "Passes over the users that train the decoder, per epoch.", ge=1)
    variant: Literal["paper", "released"] = option(
        "paper",
        "Where the paper's code and the authors' later release differ. 'paper': LayerNorm eps 1e-5, first prior from "
        "the fresh encoder. 'released': eps 1e-1, first prior from an unrelated random encoder.",
    )
    prior: str = option("composite", "Of the code: RecVAE's 'composite', 'standard' or 'vamp'.", choices=lambda: PRIORS)
    l2: float = option(0.0, "Lambda of lambda * sum of squared weights (biases and LayerNorms left out).", ge=0)
    weighted: bool = option(False, "Use the click matrix's values as click weights instead of 1.")


class RecVAEEncoder(nn.Module):
    """h_1 = LN(swish(W_1 x)), h_j = LN(swish(W_j h_{j-1} + h_1 + ... + h_{j-1})), and two linear heads."""

    def __init__(self, n_items: int, options: RecVAEOptions, g: torch.Generator) -> None:
        super().__init__()
        eps = 1e-5 if options.variant == "paper" else 1e-1
        width = options.hidden
        self.first = ClickLinear(n_items, width)
        init_fan_in(self.first.weight, self.first.bias, n_items, g)
        self.inner = nn.ModuleList(linear(width, width, init_fan_in, g) for _ in range(options.layers - 1))
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=eps) for _ in range(options.layers))
        self.mu = linear(width, options.latent, init_fan_in, g)
        self.logvar = linear(width, options.latent, init_fan_in, g)

    def forward(self, batch: Batch, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and log-variance, (B, K) each, from one input value per click (N,)."""
        h = self.last_hidden(batch, values)
        return self.mu(h), self.logvar(h)

    def encoded(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the posterior of clean clicks, (B, K) each."""
        mu, logvar = self(batch, batch.normalised())
        return mu, logvar

    def encoded_rows(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and log-variance of dense rows, (C, K) each."""
        h = self.after_first(self.first.of_rows(rows))
        return self.mu(h), self.logvar(h)

    def frozen(self) -> Callable[[Batch], tuple[Tensor, Tensor]]:
        """Return :meth:`encoded` of a copy."""
        other: RecVAEEncoder = copy.deepcopy(self).requires_grad_(False)
        return other.encoded

    def last_hidden(self, batch: Batch, values: Tensor) -> Tensor:
        """Return the input of both heads, (B, H)."""
        return self.after_first(self.first(batch, values))

    def after_first(self, h: Tensor) -> Tensor:
        """Return the input of both heads, (B, H), from the first layer before its non-linearity, (B, H)."""
        first, *later = self.norms
        h = first(nn.functional.silu(h))
        skips = h
        for layer, norm in zip(self.inner, later, strict=True):
            h = norm(nn.functional.silu(layer(h) + skips))
            skips = skips + h
        return h


class RecVAENetwork(Network):
    """Composite prior, KL weight per click, encoder and decoder trained in turn."""

    def __init__(self, n_items: int, options: RecVAEOptions, seed: int = 0) -> None:
        super().__init__()
        self.n_items, self.options, self._seed = n_items, options, seed
        g = torch.Generator().manual_seed(seed)
        self.encoder = RecVAEEncoder(n_items, options, g)
        self.decoder = linear(options.latent, n_items, init_fan_in, g)
        self.likelihood = likelihood(options, weighted=options.weighted)
        self.latent_prior = PRIORS[options.prior](self, n_items, options, g)

    def posterior(self, batch: Batch, noise: Noise | None = None) -> tuple[Tensor, Tensor]:
        """Return mu and log-variance, (B, K) each. Dropout needs ``noise``."""
        values = batch.normalised()
        if noise is not None:
            values = noise.dropout(values, self.options.dropout)
        mu, logvar = self.encoder(batch, values)
        return mu, logvar

    def encoded(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.encoder.encoded(batch)

    def encoded_rows(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return self.encoder.encoded_rows(rows)

    def frozen(self) -> Callable[[Batch], tuple[Tensor, Tensor]]:
        return self.encoder.frozen()

    @property
    def output(self) -> Linear:
        return self.decoder

    def code(self, batch: Batch) -> Tensor:
        mu: Tensor = self.encoder.mu(self.encoder.last_hidden(batch, batch.normalised()))
        return mu

    def phases(self) -> tuple[Phase, ...]:
        of_decoder = set(self.decoder.parameters())
        of_encoder = (value for value in self.parameters() if value not in of_decoder)  # a prior's own among them
        return (
            Phase("encoder", self.options.encoder_passes, tuple(of_encoder)),
            Phase("decoder", self.options.decoder_passes, tuple(self.decoder.parameters())),
        )

    @torch.no_grad()
    def begin_phase(self, phase: str, epoch: int, clicks: Clicks, batch_size: int) -> None:
        """Update the prior, and then, before the encoder passes of some epochs, let ImplicitSLIM replace embeddings.

        The prior comes first: the old posterior is that of the encoder before the replacement, as in the authors'
        program, and a resumed run, which computes it again, has that encoder too. Adam's moments of replaced embeddings
        are kept.
        """
        self._update_prior(phase, epoch, clicks, batch_size)
        if phase == "encoder":
            replace_embeddings(self.options, epoch, clicks, (self.encoder.first.weight, self.decoder.weight))

    def _update_prior(self, phase: str, epoch: int, clicks: Clicks, batch_size: int) -> None:
        """Keep the encoder's posterior as the old one, before the decoder's passes and before a run's first passes.

        The decoder's passes do not change the encoder, so that their old posterior also serves the next epoch's encoder
        passes, and a resumed run, which computes it again, gets the same bits.
        """
        encoder, first = self.encoder, phase == "encoder" and epoch == 0
        if first and self.options.variant == "released" and not self.started:
            other = torch.Generator().manual_seed(self._seed + 1)
            encoder = RecVAEEncoder(self.n_items, self.options, other).to(clicks.device)
        trained = phase == "encoder"
        self.latent_prior.update(encoder, clicks, batch_size, trained=trained, current=trained and not first)

    @torch.no_grad()
    def _frozen_posterior(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return mu and log-variance of clean clicks, (B, K) each, for the decoder's passes."""
        kept = self.latent_prior.kept_posterior(batch)
        return self.encoder.encoded(batch) if kept is None else kept

    def loss(self, phase: str, batch: Batch, beta: float, noise: Noise) -> Loss:
        if phase == "decoder":
            z, _ = drawn(*self._frozen_posterior(batch), noise)
            nll = -self.log_likelihood(z, batch).mean()
            return Loss(total=nll, nll=nll)
        mu, logvar = self.posterior(batch, noise)
        z, _ = drawn(mu, logvar, noise)
        nll = -self.log_likelihood(z, batch).mean()
        log_q = gaussian_log_density(z, mu, logvar).sum(1)  # (B,)
        kl = log_q - self.latent_prior.density(batch, self, noise)(z).sum(1)  # with the z that is decoded
        weight = self.options.gamma * batch.totals if self.options.beta is None else self.options.beta
        return Loss(total=nll + (weight * kl).mean(), nll=nll, kl=kl.mean())

    def l2(self) -> dict[str, float]:
        return self.l2_of_matrices(self.options.l2)


@dataclass(frozen=True, kw_only=True)
class RecVAEArguments(RecVAEOptions, TrainOptions, OfEveryModel):
    """The arguments of RecVAE: its options, those of training, seed and device."""


class RecVAE(NeuralRecommender):
    """Variational autoencoder with a composite prior, trained in turns; Shenbin et al. 2020."""

    name = "recvae"
    model_defaults = RecVAEOptions()
    train_defaults = TrainOptions(epochs=50, learning_rate=5e-4)
    follows: ClassVar[defaults.Rule] = defaults.RECVAE
    build = RecVAENetwork

    @takes(RecVAEArguments)
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
