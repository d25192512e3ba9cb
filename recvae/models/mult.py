"""Mult-DAE and Mult-VAE: Liang, Krishnan, Hoffman and Jebara, WWW 2018, arXiv 1802.05814."""

import copy
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from recvae import defaults
from recvae.models.neural import NeuralRecommender
from recvae.nn.batches import Batch, Clicks
from recvae.nn.corruption import CORRUPTIONS, corrupted
from recvae.nn.densities import drawn, gaussian_log_density, kl_standard_normal
from recvae.nn.implicit_slim import SlimOptions, replace_embeddings
from recvae.nn.layers import Linear, click_linear, init_xavier, linear
from recvae.nn.likelihoods import LikelihoodOptions, likelihood
from recvae.nn.network import Loss, Network, Phase
from recvae.nn.noise import Noise
from recvae.nn.priors import PRIORS, FrozenEncoder, PriorOptions
from recvae.nn.schedules import RampOptions, annealed_beta
from recvae.nn.shards import Items, all_items
from recvae.options import DEEPEST, WIDEST, Between, OfEveryModel, OneOf, option, takes
from recvae.training.loop import TrainOptions


@dataclass(frozen=True, kw_only=True)
class MultOptions(LikelihoodOptions):
    """Options that Mult-DAE and Mult-VAE share."""

    hidden: tuple[int, ...] = option(
        (600,),
        "Widths of the encoder's hidden layers; mirrored in the decoder.",
        search=OneOf((), (600,)),
        ge=1,
        le=WIDEST,
        max_length=DEEPEST,
    )
    latent: int = option(200, "Number of latent dimensions.", search=OneOf(50, 100, 200, 400), ge=1, le=WIDEST)
    dropout: float = option(
        0.5, "Share of clicks dropped from the input in training.", search=Between(0.1, 0.8), ge=0, lt=1
    )
    corruption: str = option(
        "dropout",
        "What else happens to the input: 'dropout' scales the clicks that stay by 1 / (1 - dropout), 'subset' gives "
        "them norm 1 as any history has, 'flips' adds about as many random clicks as it drops and does the same.",
        choices=lambda: CORRUPTIONS,
    )
    l2: float = option(
        0.0,
        "Lambda of lambda * sum of squared weights (biases left out).",
        search=Between(1e-6, 1e-2, log=True),
        ge=0,
    )
    weighted: bool = option(False, "Use the click matrix's values as click weights instead of 1.")


@dataclass(frozen=True, kw_only=True)
class MultDAEOptions(MultOptions):
    """Options of Mult-DAE; the defaults are the paper's."""

    hidden: tuple[int, ...] = option(
        (),
        "Widths of the layers between clicks and code; mirrored in the decoder.",
        search=OneOf((), (600,)),
        ge=1,
        le=WIDEST,
        max_length=DEEPEST,
    )
    l2: float = option(
        0.01 / 500,
        "Lambda of lambda * sum of squared weights (biases left out).",
        search=Between(1e-6, 1e-2, log=True),
        ge=0,
    )


@dataclass(frozen=True, kw_only=True)
class MultVAEOptions(RampOptions, PriorOptions, SlimOptions, MultOptions):
    """Options of Mult-VAE; the defaults are the paper's for ML-20M.

    The plain ELBO is ``anneal = "constant"`` with ``beta_cap = 1``; another cap makes it a beta-VAE.
    """

    gamma: float | None = option(
        None, "Where given, the weight of the KL term per click of the user (RecVAE's), which replaces beta.", ge=0
    )
    kl: Literal["analytic", "sampled"] = option(
        "analytic",
        "KL term: 'analytic' where the prior is N(0, 1), or 'sampled', log q(z|x) - log p(z) of the z that is decoded, "
        "which the other priors have in any case.",
    )
    samples: int = option(1, "Samples of z per user and update.", ge=1, le=10_000)


class _Mult(Network):
    """The layers of both networks: a sparse first one, tanh between layers, a linear last one, Xavier weights."""

    def __init__(self, n_items: Items, code: int, options: MultOptions, seed: int) -> None:
        # clicks -> widths[0] -> ... -> widths[-1] -> ... -> clicks; the encoder's last layer gives `code` values
        super().__init__()
        self.n_items, self.options = all_items(n_items), options
        self.likelihood = likelihood(options, weighted=options.weighted)
        widths = (*options.hidden, options.latent)
        g = torch.Generator().manual_seed(seed)
        outputs = (*widths[:-1], code)
        self.first = click_linear(n_items, outputs[0], init_xavier, g)
        self.encoder = nn.ModuleList(linear(a, b, init_xavier, g) for a, b in pairwise(outputs))
        back = tuple(reversed(widths))
        layers = [linear(a, b, init_xavier, g) for a, b in pairwise(back)]
        self.decoder = nn.ModuleList([*layers, linear(back[-1], n_items, init_xavier, g)])

    def encode(self, batch: Batch, noise: Noise | None = None) -> Tensor:
        """Return the encoder's last layer, before any non-linearity: (B, code). Corruption needs ``noise``."""
        return self.after_first(self.first_layer(batch, noise))

    def after_first(self, h: Tensor) -> Tensor:
        """Return the encoder's last layer, (B, code), from its first, (B, width)."""
        for layer in self.encoder:
            h = layer(torch.tanh(h))
        return h

    def first_layer(self, batch: Batch, noise: Noise | None = None) -> Tensor:
        """Return the encoder's first layer, before any non-linearity: (B, width)."""
        if noise is None:
            values = batch.normalised()
        else:
            batch, values = corrupted(batch, self.options.corruption, self.options.dropout, noise)
        h: Tensor = self.first(batch, values)
        return h

    @property
    def output(self) -> Linear:
        last = self.decoder[-1]
        assert isinstance(last, Linear)
        return last

    def decode(self, z: Tensor) -> Tensor:
        """Return the input of the last layer, (B, H), from a code (B, K)."""
        for layer in self.decoder[:-1]:
            z = torch.tanh(layer(z))
        return z

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("all", 1, tuple(self.parameters())),)

    def l2(self) -> dict[str, float]:
        return self.l2_of_matrices(self.options.l2)


class MultDAENetwork(_Mult):
    """Denoising autoencoder: code = tanh(W x' + b), logits linear in it; no latent noise and no KL."""

    def __init__(self, n_items: Items, options: MultDAEOptions, seed: int = 0) -> None:
        super().__init__(n_items, options.latent, options, seed)

    def code(self, batch: Batch) -> Tensor:
        return self.decode(torch.tanh(self.encode(batch)))

    def loss(self, phase: str, batch: Batch, beta: float, noise: Noise) -> Loss:
        nll = -self.log_likelihood(self.decode(torch.tanh(self.encode(batch, noise))), batch).mean()
        return Loss(total=nll, nll=nll)


class MultVAENetwork(_Mult):
    """Variational autoencoder: q(z|x) = N(mu, exp(logvar)), p(z) = N(0, 1), and a multinomial or other likelihood."""

    options: MultVAEOptions

    def __init__(self, n_items: Items, options: MultVAEOptions, seed: int = 0) -> None:
        super().__init__(n_items, 2 * options.latent, options, seed)
        g = torch.Generator().manual_seed(seed + 1)
        self.latent_prior = PRIORS[options.prior](self, n_items, options, g)

    def posterior(self, batch: Batch, noise: Noise | None = None) -> tuple[Tensor, Tensor]:
        """Return mu and log-variance, (B, K) each."""
        mu, logvar = self.encode(batch, noise).chunk(2, dim=1)
        return mu, logvar

    def encoded_rows(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        mu, logvar = self.after_first(self.first.of_rows(rows)).chunk(2, dim=1)
        return mu, logvar

    def frozen(self) -> FrozenEncoder:
        kept = (self.latent_prior, *self.decoder.parameters())  # shared: of the copy only the encoder runs
        other = copy.deepcopy(self, {id(value): value for value in kept})
        for value in (*other.first.parameters(), *other.encoder.parameters()):
            value.requires_grad_(False)
        return other

    def code(self, batch: Batch) -> Tensor:
        return self.decode(self.posterior(batch)[0])

    def begin_phase(self, phase: str, epoch: int, clicks: Clicks, batch_size: int) -> None:
        """Update the prior, then let ImplicitSLIM replace embeddings, as in RecVAE; Adam's moments stay."""
        self.latent_prior.update(self, clicks, batch_size, trained=True, current=False)
        replace_embeddings(self.options, epoch, clicks, (self.first.weight, self.output.weight))

    def beta(self, step: int, total: int) -> float:
        return annealed_beta(self.options, step, total)

    def loss(self, phase: str, batch: Batch, beta: float, noise: Noise) -> Loss:
        return self.bound(batch, batch, beta, noise)

    def bound(self, given: Batch, target: Batch, beta: float, noise: Noise) -> Loss:
        """Return the loss of predicting ``target``, the users' clicks or some, from the corrupted ``given``."""
        o = self.options
        mu, logvar = self.posterior(given, noise)
        if o.samples > 1:  # several samples of z from one corrupted input
            mu, logvar, target = mu.repeat(o.samples, 1), logvar.repeat(o.samples, 1), target.repeated(o.samples)
        z, _ = drawn(mu, logvar, noise)
        nll = -self.log_likelihood(self.decode(z), target).mean()
        if o.kl == "analytic" and self.has_standard_prior:
            of_users = kl_standard_normal(mu, logvar)  # (B,)
        else:
            log_q = gaussian_log_density(z, mu, logvar).sum(1)
            of_users = log_q - self.latent_prior.density(given, self, noise)(z).sum(1)
        kl = of_users.mean()
        if o.gamma is None:
            return Loss(total=nll + beta * kl, nll=nll, kl=kl, beta=beta)
        return Loss(total=nll + o.gamma * (target.totals * of_users).mean(), nll=nll, kl=kl)


@dataclass(frozen=True, kw_only=True)
class MultDAEArguments(MultDAEOptions, TrainOptions, OfEveryModel):
    """The arguments of MultDAE: its options, those of training, seed and device."""


class MultDAE(NeuralRecommender):
    """Denoising autoencoder with a multinomial likelihood; Liang et al. 2018."""

    name = "mult-dae"
    in_parts = True
    model_defaults = MultDAEOptions()
    train_defaults = TrainOptions(epochs=200, learning_rate=1e-3)
    follows: ClassVar[defaults.Rule] = defaults.MULT
    build = MultDAENetwork

    @takes(MultDAEArguments)
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)


@dataclass(frozen=True, kw_only=True)
class MultVAEArguments(MultVAEOptions, TrainOptions, OfEveryModel):
    """The arguments of MultVAE: its options, those of training, seed and device."""


class MultVAE(NeuralRecommender):
    """Variational autoencoder with a multinomial likelihood and an annealed KL; Liang et al. 2018."""

    name = "mult-vae"
    in_parts = True
    introduced = True
    model_defaults = MultVAEOptions()
    train_defaults = TrainOptions(epochs=200, learning_rate=1e-3)
    follows: ClassVar[defaults.Rule] = defaults.MULT
    build = MultVAENetwork

    @takes(MultVAEArguments)
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
