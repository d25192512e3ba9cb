"""VampPrior VAE: Kim and Suh, RecSys 2019, arXiv 1911.00936: flexible priors and gates for collaborative filtering.

Its parts combine: the VampPrior of Tomczak and Welling, AISTATS 2018, arXiv 1705.07120; their hierarchy of two codes;
and the gated linear units of Dauphin, Fan, Auli and Grangier, ICML 2017, arXiv 1612.08083. All of them together are
the paper's H+Vamp (Gated), the default; without the hierarchy and the gates it is their Vamp, and with the standard
prior as well, Mult-VAE with a sampled KL.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from recvae import defaults
from recvae.errors import InputError
from recvae.models.neural import NeuralRecommender
from recvae.nn.batches import Batch, Clicks
from recvae.nn.densities import drawn, gaussian_log_density, log_density_of_draw
from recvae.nn.layers import ALL_HERE, ClickLinear, Linear, Parts, click_linear, linear
from recvae.nn.likelihoods import LikelihoodOptions, likelihood
from recvae.nn.network import Loss, Network, Phase
from recvae.nn.noise import Noise
from recvae.nn.priors import PRIORS, Density, Prior, PriorOptions
from recvae.nn.schedules import RAMPS, RampOptions, annealed_beta
from recvae.nn.shards import draw
from recvae.options import DEEPEST, WIDEST, Between, OfEveryModel, OneOf, option, takes
from recvae.training.loop import TrainOptions

# As in the authors' program: bounds of every log-variance.
LEAST_LOGVAR, MOST_LOGVAR = -12.0, 4.0


Sampler = Callable[[], tuple[Tensor, Tensor]]  # draws z and returns it with log q(z | x)


@dataclass(frozen=True, kw_only=True)
class VampVAEOptions(RampOptions, PriorOptions, LikelihoodOptions):
    """Options of the VampPrior VAE; the defaults are the paper's and its program's (docs/differences.md)."""

    prior: str = option(
        "vamp",
        "Of the code, or of a hierarchy's upper one: 'vamp', 'standard', N(0, 1), or RecVAE's 'composite'.",
        choices=lambda: PRIORS,
    )
    pseudo_inputs: int = option(
        1000, "Number of the VampPrior's pseudo-inputs.", search=OneOf(100, 300, 1000), ge=1, le=WIDEST
    )
    hierarchical: bool = option(True, "Two codes, z2 and below it z1, instead of one.")
    gated: bool = option(True, "Hidden layers are gated linear units instead of tanh.")
    hidden: int = option(600, "Width of every hidden layer.", search=OneOf(150, 300, 600), ge=1, le=WIDEST)
    layers: int = option(
        2, "Hidden layers of every network, encoders and decoders.", search=Between(1, 3), ge=1, le=DEEPEST
    )
    latent: int = option(200, "Number of dimensions of each code.", search=OneOf(50, 100, 200), ge=1, le=WIDEST)
    dropout: float = option(
        0.5, "Share of clicks dropped from each encoder's input in training.", search=Between(0.2, 0.7), ge=0, lt=1
    )
    beta_cap: float = option(0.3, "Largest weight of the KL term.", search=Between(0.02, 1.0, log=True), ge=0)
    anneal: str = option("share", "How beta grows, as Mult-VAE has it.", choices=lambda: RAMPS)
    anneal_share: float = option(0.25, "Share of the run in which 'share' reaches the cap.", ge=0, le=1)
    l2: float = option(
        0.0,
        "Lambda of lambda * sum of squared weights (biases and pseudo-inputs left out).",
        search=Between(1e-6, 1e-2, log=True),
        ge=0,
    )
    weighted: bool = option(False, "Use the click matrix's values as click weights instead of 1.")


class Tower(nn.Module):
    """Hidden layers on one input or two, and a linear head.

    A hidden layer is (W h + b) * sigmoid(V h + c) where ``gated``, W and V one table; tanh(W h + b) otherwise. Two
    inputs have a first layer each, and the next layer sees both results side by side; where there is no next one, they
    are added before the non-linearity, which is one layer on both inputs side by side. Callers apply the first layers
    themselves, since clicks, dense rows and codes are inputs of different kinds.
    """

    def __init__(self, firsts: Sequence[nn.Module], outputs: int, options: VampVAEOptions, g: torch.Generator) -> None:
        super().__init__()
        self.gated = options.gated
        self.firsts = nn.ModuleList(firsts)
        inputs = [len(firsts) * options.hidden] + [options.hidden] * (options.layers - 2)
        self.inner = nn.ModuleList(linear(n, _width(options), init_he, g) for n in inputs[: options.layers - 1])
        self.head = linear(options.hidden, outputs, init_he, g)

    def hidden(self, *firsts: Tensor) -> Tensor:
        """Return the input of the head, (B, H), from the output of each first layer, (B, H) or, gated, (B, 2 H)."""
        if not self.inner:
            return self._activated(sum(firsts[1:], firsts[0]))
        h = torch.cat([self._activated(first) for first in firsts], dim=1)
        for layer in self.inner:
            h = self._activated(layer(h))
        return h

    def gaussian(self, *firsts: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance, (B, K) each, from a head of 2 K outputs."""
        mu, logvar = self.head(self.hidden(*firsts)).chunk(2, dim=1)
        return mu, logvar.clamp(LEAST_LOGVAR, MOST_LOGVAR)

    def _activated(self, h: Tensor) -> Tensor:
        return nn.functional.glu(h, dim=1) if self.gated else torch.tanh(h)


class VampVAENetwork(Network):
    """q(z | x), p(x | z) and p(z) = 1/C sum_c q(z | u_c), or with a hierarchy of two codes:

    q(z2 | x) q(z1 | x, z2),  p(x | z1, z2) p(z1 | z2) p(z2),  p(z2) = 1/C sum_c q(z2 | u_c).

    The C pseudo-inputs u_c, C x I parameters within [0, 1], go through the encoder as dense rows in every update; as
    the authors' program has it, not normalised, but with dropout in training (:class:`recvae.nn.priors.VampPrior`). At
    ML-20M's shape, I = 20,108 with C = 1000, H = 600 and gates, that is 145 GFLOP an update, whatever the batch, ten
    times what a batch of 200 costs in the last layer: large batches share it. The gradient, Adam's moments and the
    copies of a step make 80 MB of parameters about 600 MB of memory. Predicting needs no pseudo-inputs.
    """

    def __init__(self, n_items: int, options: VampVAEOptions, seed: int = 0) -> None:
        super().__init__()
        self.n_items, self.options = n_items, options
        self.likelihood = likelihood(options, weighted=options.weighted)
        g = torch.Generator().manual_seed(seed)
        width, k = _width(options), options.latent

        def clicks() -> ClickLinear:
            return click_linear(n_items, width, init_he, g)

        def code() -> Linear:
            return linear(k, width, init_he, g)

        self.encoder = Tower([clicks()], 2 * k, options, g)  # q(z | x), or q(z2 | x)
        if options.hierarchical:
            self.lower_encoder = Tower([clicks(), code()], 2 * k, options, g)  # q(z1 | x, z2)
            self.lower_prior = Tower([code()], 2 * k, options, g)  # p(z1 | z2)
            self.decoder = Tower([code(), code()], n_items, options, g)  # p(x | z1, z2)
        else:
            self.decoder = Tower([code()], n_items, options, g)  # p(x | z)
        self.latent_prior = PRIORS[options.prior](self, n_items, options, g)

    @property
    def output(self) -> Linear:
        return self.decoder.head

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("all", 1, tuple(self.parameters())),)

    def beta(self, step: int, total: int) -> float:
        return annealed_beta(self.options, step, total)

    def l2(self) -> dict[str, float]:
        return self.l2_of_matrices(self.options.l2)

    def code(self, batch: Batch) -> Tensor:
        return self.decode(self.sampler(batch)()[0])

    def decode(self, z: Tensor) -> Tensor:
        """Return the input of the last layer, (B, H), from z (B, K), or from z2 and z1 side by side (B, 2 K)."""
        firsts = self.decoder.firsts
        codes = z.chunk(len(firsts), dim=1)
        return self.decoder.hidden(*(first(code) for first, code in zip(firsts, codes, strict=True)))

    def sampler(self, batch: Batch, noise: Noise | None = None, dropout: Noise | None = None) -> Sampler:
        """Return a function that draws z from q(z | x), for z and log q(z | x), (B,); without ``noise``, the mean.

        z is (B, K), or z2 and z1 side by side (B, 2 K): log q is log q(z2 | x) + log q(z1 | x, z2). The clicks are
        encoded once, whatever the number of draws.
        """
        upper = self.encoder.gaussian(self._of_clicks(self.encoder, batch, dropout))
        if not self.options.hierarchical:
            return lambda: _drawn(*upper, noise)
        lower = self.lower_encoder
        of_clicks = self._of_clicks(lower, batch, dropout)

        def draw() -> tuple[Tensor, Tensor]:
            z2, log_q2 = _drawn(*upper, noise)
            z1, log_q1 = _drawn(*lower.gaussian(of_clicks, lower.firsts[1](z2)), noise)
            return torch.cat((z2, z1), dim=1), log_q2 + log_q1

        return draw

    def encoded(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the posterior, from clean clicks, of the code under the prior: the upper one of a hierarchy."""
        return self.encoder.gaussian(self._of_clicks(self.encoder, batch, None))

    def encoded_rows(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        first = self.encoder.firsts[0]
        assert isinstance(first, ClickLinear)
        return self.encoder.gaussian(first.of_rows(rows))

    def begin_phase(self, phase: str, epoch: int, clicks: Clicks, batch_size: int) -> None:
        self.latent_prior.update(self, clicks, batch_size, trained=True, current=False)

    def log_prior(self, z: Tensor, upper: Density) -> Tensor:
        """Return log p(z), (B,), of z as :meth:`sampler` draws it, from the prior's density of the upper code."""
        k = self.options.latent
        z2, z1 = z[:, :k], z[:, k:]
        log_p = upper(z2).sum(1)
        if not self.options.hierarchical:
            return log_p
        mu, logvar = self.lower_prior.gaussian(self.lower_prior.firsts[0](z2))
        return log_p + gaussian_log_density(z1, mu, logvar).sum(1)

    def loss(self, phase: str, batch: Batch, beta: float, noise: Noise) -> Loss:
        z, log_q = self.sampler(batch, noise, dropout=noise)()
        nll = -self.log_likelihood(self.decode(z), batch).mean()
        kl = (
            log_q - self.log_prior(z, self.latent_prior.density(batch, self, noise))
        ).mean()  # one sample: the z that is decoded
        return Loss(total=nll + beta * kl, nll=nll, kl=kl, beta=beta)

    # --- for diagnosis; z of a hierarchy is z2 and z1 side by side ----------------------------------------------------

    @property
    def has_standard_prior(self) -> bool:
        return self.latent_prior.standard and not self.options.hierarchical

    @property
    def about(self) -> str:
        return Prior.about if self.options.hierarchical else super().about

    def posterior(self, batch: Batch, noise: Noise | None = None) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of q(z | x), (B, K) each.

        Raises :class:`InputError` for a hierarchy.
        """
        if self.options.hierarchical:
            raise InputError("The posterior of a hierarchy is not one Gaussian: that of z1 depends on the z2 drawn.")
        return self.encoder.gaussian(self._of_clicks(self.encoder, batch, noise))

    def draws(self, batch: Batch, noise: Noise) -> Sampler:
        if not self.options.hierarchical:
            return super().draws(batch, noise)
        sampler = self.sampler(batch, noise)

        def draw() -> tuple[Tensor, Tensor]:
            z, log_q = sampler()
            return z, log_q[:, None]

        return draw

    def prior(self, batch: Batch) -> Density:
        upper = super().prior(batch)
        if not self.options.hierarchical:
            return upper
        return lambda z: self.log_prior(z, upper)[:, None]

    def _of_clicks(self, encoder: Tower, batch: Batch, noise: Noise | None) -> Tensor:
        """Return the output of an encoder's first layer for the clicks; each encoder draws its own dropout."""
        values = batch.normalised()
        if noise is not None:
            values = noise.dropout(values, self.options.dropout)
        out: Tensor = encoder.firsts[0](batch, values)
        return out


@torch.no_grad()
def init_he(weight: Tensor, bias: Tensor, fan_in: int, g: torch.Generator, parts: Parts = ALL_HERE) -> None:
    """Weights normal with variance 2 / fan_in, biases uniform in +-1 / sqrt(fan_in) (Kim and Suh's program)."""
    deviation, bound = math.sqrt(2 / fan_in), fan_in**-0.5
    draw(weight, lambda whole: whole.normal_(0.0, deviation, generator=g), parts.of_weight)
    draw(bias, lambda whole: whole.uniform_(-bound, bound, generator=g), parts.of_bias)


def _width(options: VampVAEOptions) -> int:
    """Return the number of values that a hidden layer makes before its non-linearity."""
    return 2 * options.hidden if options.gated else options.hidden


def _drawn(mu: Tensor, logvar: Tensor, noise: Noise | None) -> tuple[Tensor, Tensor]:
    """Return z (B, K) of N(mu, exp(logvar)) and its log density (B,); without noise the mean."""
    z, eps = drawn(mu, logvar, noise)
    return z, log_density_of_draw(eps, logvar).sum(1)


@dataclass(frozen=True, kw_only=True)
class VampVAEArguments(VampVAEOptions, TrainOptions, OfEveryModel):
    """The arguments of VampVAE: its options, those of training, seed and device."""


class VampVAE(NeuralRecommender):
    """Variational autoencoder with a VampPrior, a hierarchy of two codes and gates; Kim and Suh 2019."""

    name = "vamp-vae"
    contends = False  # it takes hours where the others take minutes
    model_defaults = VampVAEOptions()
    train_defaults = TrainOptions(epochs=400, batch_size=200, learning_rate=5e-4, patience=50)
    follows: ClassVar[defaults.Rule] = defaults.VAMP
    build = VampVAENetwork

    @takes(VampVAEArguments)
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
