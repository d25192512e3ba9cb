"""VAE with arbitrary conditioning: Ivanov, Figurnov and Vetrov, ICLR 2019, arXiv 1806.02382.

A mask b says which entries of x are unobserved. All conditionals p(x_b | x_1-b, b) are one model,

    p(x_b | x_1-b, b) = E_{p_psi(z | x_1-b, b)} p_theta(x_b | z, x_1-b, b),

trained on masks drawn anew for every user and update, by the lower bound (section 4.2)

    E_{q_phi(z | x, b)} log p_theta(x_b | z, x_1-b, b) - KL(q_phi(z | x, b) || p_psi(z | x_1-b, b)).

Missing entries (section 4.3), for a recommender nearly all, are always unobserved and never part of the likelihood.
With ratings an entry may mean "seen and disliked".
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn

from recvae import defaults
from recvae.arguments import whole_number
from recvae.capabilities import Part, Prepared
from recvae.config import RunConfig
from recvae.errors import InputError
from recvae.files import JsonObject
from recvae.matrices import Matrix, canonical, entries_of
from recvae.models.neural import NeuralRecommender
from recvae.nn.batches import Batch
from recvae.nn.densities import LOG_2PI, drawn, gaussian_log_density, kl_gaussians, log_hyperprior
from recvae.nn.layers import Linear, click_linear, init_xavier, linear
from recvae.nn.likelihoods import multinomial_log_likelihood, scores_at
from recvae.nn.network import Loss, Network, Phase
from recvae.nn.noise import Noise
from recvae.nn.rating_offsets import Offsets
from recvae.options import WIDEST, Between, OfEveryModel, OneOf, option, takes
from recvae.training.loop import TrainOptions


@dataclass(frozen=True, kw_only=True)
class VAEACOptions:
    """Options of the VAE with arbitrary conditioning."""

    likelihood: Literal["multinomial", "gaussian"] = option(
        "multinomial",
        "Of the hidden entries: 'multinomial', which of all items the liked ones are, or 'gaussian', their ratings.",
    )
    ratings: bool = option(False, "Use the dataset's ratings instead of its clicks.")
    liked_from: float = option(4.0, "Ratings: the least that counts as liked.", gt=0)
    damping: float = option(
        2.0, "Ratings: how many ratings of 0 deviation are added to those of a user or an item for its offset.", gt=0
    )
    hidden: int = option(
        600, "Width of the hidden layer of each of the three networks.", search=OneOf(100, 200, 600), ge=1, le=WIDEST
    )
    latent: int = option(200, "Number of latent dimensions.", search=OneOf(25, 50, 100, 200), ge=1, le=WIDEST)
    mask_least: float = option(0.0, "Least share of a user's entries that a mask hides.", ge=0, le=1)
    mask_most: float = option(1.0, "Largest share of a user's entries that a mask hides.", gt=0, le=1)
    beta: float = option(1.0, "Weight of the KL term; the bound has 1.", search=Between(0.05, 1.0, log=True), ge=0)
    l2: float = option(
        0.0,
        "Lambda of lambda * sum of squared weights (biases left out).",
        search=Between(1e-6, 1e-2, log=True),
        ge=0,
    )
    weighted: bool = option(False, "Use the click matrix's values as click weights instead of 1.")


class VAEACNetwork(Network):
    """Prior network, proposal network and decoder, each with one hidden tanh layer.

    The mask hides some of a user's entries. The inputs of the prior network are the observed entries and, where there
    are ratings or weights, their values; the inputs of the proposal network are the known entries, the hidden ones
    among them, and all values. The first layer of each is a sum of gathered rows. The inputs of the decoder are z and
    the prior network's hidden layer: so the paper passes x_1-b and b on to it (its skip connections).

    Inputs and predictions are residuals of the ratings after mean + item offset + user offset, the damped-bias model.
    Mean and item offsets come from the training ratings (buffers, set by :meth:`set_offsets`), a user's offset from the
    user's observed ratings alone. The decoder of the Gaussian starts at 0, so training starts at the damped-bias model.
    """

    mean: Tensor
    item_offset: Tensor

    def __init__(self, n_items: int, options: VAEACOptions, seed: int = 0) -> None:
        super().__init__()
        check(options)
        self.n_items, self.options = n_items, options
        self.has_values = options.ratings or options.weighted
        g = torch.Generator().manual_seed(seed)
        width, k = options.hidden, options.latent

        def entries(number: int) -> nn.ModuleList:
            return nn.ModuleList(click_linear(n_items, width, init_xavier, g) for _ in range(number))

        self.prior_inputs = entries(1 + self.has_values)
        self.prior_head = linear(width, 2 * k, init_xavier, g)
        self.proposal_inputs = entries(2 + self.has_values)
        self.proposal_head = linear(width, 2 * k, init_xavier, g)
        self.of_code = linear(k, width, init_xavier, g)
        self.of_observed = linear(width, width, init_xavier, g)
        self.last = linear(width, n_items, init_xavier, g)
        if options.ratings:
            self.register_buffer("mean", torch.zeros(()))
            self.register_buffer("item_offset", torch.zeros(n_items))
        if options.likelihood == "gaussian":
            nn.init.zeros_(self.last.weight)
            nn.init.zeros_(self.last.bias)
            self.log_noise = nn.Parameter(torch.zeros(()))  # log variance of a rating around its expectation

    @property
    def output(self) -> Linear:
        return self.last

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("all", 1, tuple(self.parameters())),)

    def beta(self, step: int, total: int) -> float:
        return self.options.beta

    def l2(self) -> dict[str, float]:
        return self.l2_of_matrices(self.options.l2)

    @property
    def offsets(self) -> Offsets:
        return Offsets(self.mean, self.item_offset, self.options.damping)

    @torch.no_grad()
    def set_offsets(self, batch: Batch) -> None:
        """Set mean, item offsets and the noise's first variance from one batch of all training ratings."""
        self.offsets.fit(batch)
        if self.options.likelihood == "gaussian":
            left = self.offsets.residuals(batch, torch.ones_like(batch.values))
            self.log_noise.copy_(left.square().mean().clamp(min=1e-4).log())

    # --- inputs from a batch; seen (N,) is 1 for an observed entry and 0 for a hidden one -----------------------------

    def values(self, batch: Batch, seen: Tensor) -> Tensor:
        """Return the values that are inputs of the networks, (N,)."""
        return self.offsets.residuals(batch, seen) if self.options.ratings else batch.values

    def observed(self, batch: Batch, seen: Tensor) -> Tensor:
        """Return the prior network's hidden layer, (B, H), from the observed entries."""
        inputs = [seen, seen * self.values(batch, seen)] if self.has_values else [seen]
        return _hidden(self.prior_inputs, batch, inputs, batch.row_sum(seen))

    def prior_of(self, observed: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of p_psi(z | x_1-b, b), (B, K) each, from :meth:`observed`."""
        mu, logvar = self.prior_head(observed).chunk(2, dim=1)
        return mu, logvar

    def proposal(self, batch: Batch, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of q_phi(z | x, b), (B, K) each."""
        inputs = [torch.ones_like(seen), 1 - seen]
        if self.has_values:
            inputs.append(self.values(batch, seen))
        h = _hidden(self.proposal_inputs, batch, inputs, batch.lengths)
        mu, logvar = self.proposal_head(h).chunk(2, dim=1)
        return mu, logvar

    def decoded(self, z: Tensor, observed: Tensor) -> Tensor:
        """Return the input of the last layer, (B, H), from z (B, K) and :meth:`observed`, (B, H) or (1, H)."""
        return torch.tanh(self.of_code(z) + self.of_observed(observed))

    def hidden_log_likelihood(self, code: Tensor, batch: Batch, seen: Tensor) -> Tensor:
        """Return log p_theta(x_b | z, x_1-b, b) of the known entries that are hidden, (B,)."""
        o, last, hidden = self.options, self.last, 1 - seen
        if o.likelihood == "multinomial":
            liked = (batch.values >= o.liked_from).to(hidden) if o.ratings else batch.values
            target = replace(batch, values=hidden * liked)
            return multinomial_log_likelihood(code, last.weight, last.bias, target, last.memory)
        errors = self.offsets.residuals(batch, seen) - scores_at(code, last.weight, last.bias, batch)
        log_densities = -0.5 * (errors.square() * torch.exp(-self.log_noise) + self.log_noise + LOG_2PI)
        return batch.row_sum(hidden * log_densities)

    def loss(self, phase: str, batch: Batch, beta: float, noise: Noise) -> Loss:
        """Return the negative bound for one mask per user, with a uniform share of hidden entries.

        ``total`` includes the weak prior on the prior network's output.
        """
        o = self.options
        shares = o.mask_least + (o.mask_most - o.mask_least) * noise.uniform(batch.totals)  # (B,)
        seen = (noise.uniform(batch.values) >= shares[batch.rows]).to(batch.values)  # (N,)
        observed = self.observed(batch, seen)
        prior, (mu, logvar) = self.prior_of(observed), self.proposal(batch, seen)
        z, _ = drawn(mu, logvar, noise)
        nll = -self.hidden_log_likelihood(self.decoded(z, observed), batch, seen).mean()
        kl = kl_gaussians(mu, logvar, *prior).mean()
        return Loss(total=nll + beta * kl - log_hyperprior(*prior).mean(), nll=nll, kl=kl, beta=beta)

    # --- predicting: everything known is observed, and z is the prior's mean -----------------------------------------

    def code(self, batch: Batch) -> Tensor:
        return self.coder(batch)()

    def coder(self, batch: Batch, noise: Noise | None = None) -> Callable[[], Tensor]:
        """Return a function for the last layer's input, (B, H), from the prior's mean or, with noise, a draw of z."""
        observed = self.observed(batch, torch.ones_like(batch.values))
        mu, logvar = self.prior_of(observed)
        return lambda: self.decoded(drawn(mu, logvar, noise)[0], observed)

    def logits(self, batch: Batch) -> Tensor:
        """Return the (B, I) scores to rank by: the Gaussian's are expected ratings."""
        return self._rated(super().logits(batch), batch, slice(None))

    def logits_at(self, batch: Batch, items: Tensor) -> Tensor:
        return self._rated(super().logits_at(batch, items), batch, items)

    def _rated(self, logits: Tensor, batch: Batch, items: Tensor | slice) -> Tensor:
        if self.options.likelihood == "multinomial":
            return logits
        return logits + (self.mean + self.item_offset[items]) + self.offsets.of_users(batch)[:, None]

    def item_vectors(self) -> Tensor:
        """Return the last layer's weights and biases, and of ratings a 1 for the user's offset."""
        if self.options.likelihood == "multinomial":
            return super().item_vectors()
        offset = self.last.bias + self.mean + self.item_offset
        return torch.cat((self.last.weight, offset[:, None], torch.ones_like(offset)[:, None]), dim=1)

    def user_vectors(self, batch: Batch) -> Tensor:
        own = super().user_vectors(batch)
        if self.options.likelihood == "multinomial":
            return own
        return torch.cat((own, self.offsets.of_users(batch)[:, None]), dim=1)

    def expected(self, batch: Batch, where: Batch, code: Tensor) -> Tensor:
        """Return the expected ratings, (M,), of the entries of ``where``, the same users, from ``code`` (B, H)."""
        left = scores_at(code, self.last.weight, self.last.bias, where)
        return self.offsets.at(where.rows, where.columns, self.offsets.of_users(batch)) + left

    # --- for diagnosis: the model with nothing observed, whose prior is the same for all users ------------------------

    def _nothing(self) -> Tensor:
        """Return :meth:`observed` of a user without observed entries, (1, H)."""
        return torch.tanh(sum(layer.bias for layer in self.prior_inputs)[None])  # type: ignore[index, misc]  # each layer has a bias, and there is at least one

    def posterior(self, batch: Batch, noise: Noise | None = None) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of q_phi(z | x, b), (B, K) each, with everything hidden."""
        del noise
        return self.proposal(batch, torch.zeros_like(batch.values))

    @property
    def has_standard_prior(self) -> bool:
        return False

    @property
    def about(self) -> str:
        return (
            "All of this is of the model with nothing observed: its prior network then knows nobody, and the proposal "
            "network sees everything. Its KL is sampled."
        )

    def prior(self, batch: Batch) -> Callable[[Tensor], Tensor]:
        mu, logvar = self.prior_of(self._nothing())
        return lambda z: gaussian_log_density(z, mu, logvar)

    def decode(self, z: Tensor) -> Tensor:
        """Return the input of the last layer, (B, H), from z (B, K) with nothing observed."""
        return self.decoded(z, self._nothing())

    def log_likelihood(self, code: Tensor, batch: Batch) -> Tensor:
        """Return the log-likelihood of all entries, (B,), nothing being observed."""
        return self.hidden_log_likelihood(code, batch, torch.zeros_like(batch.values))


def check(options: VAEACOptions) -> None:
    """Raise :class:`InputError` for options that do not go together."""
    if options.likelihood == "gaussian" and not options.ratings:
        raise InputError("The Gaussian likelihood is of ratings, not of clicks. Set ratings = true.")
    if options.mask_least > options.mask_most:
        raise InputError(f"mask_least, {options.mask_least}, must not be above mask_most, {options.mask_most}.")


def _hidden(layers: nn.ModuleList, batch: Batch, inputs: list[Tensor], counts: Tensor) -> Tensor:
    """Return tanh of the sum of first layers, (B, H), each of one input per entry (N,).

    Inputs are divided by the root of the user's number of entries, ``counts`` (B,), like Mult-VAE's x / ||x||.
    """
    scale = counts.clamp(min=1).to(batch.values).rsqrt()[batch.rows]
    return torch.tanh(sum(layer(batch, scale * values) for layer, values in zip(layers, inputs, strict=True)))


_USERS_AT_ONCE = 1024
MOST_SAMPLES = 10_000  # draws of z for a rating: the error of their mean is a hundredth of one draw's


@dataclass(frozen=True, kw_only=True)
class VAEACArguments(VAEACOptions, TrainOptions, OfEveryModel):
    """The arguments of VAEAC: its options, those of training, seed and device."""


class VAEAC(NeuralRecommender):
    """Variational autoencoder with arbitrary conditioning; Ivanov et al. 2019.

    With ``ratings=True`` every matrix, in training and in prediction, holds ratings above 0 in place of clicks.
    """

    name = "vaeac"
    contends = False  # its business is ratings
    task = ("model.ratings", "model.likelihood")
    model_defaults = VAEACOptions()
    train_defaults = TrainOptions(epochs=200, learning_rate=1e-3)
    follows: ClassVar[defaults.Rule] = defaults.MULT
    build = VAEACNetwork
    network: VAEACNetwork

    @takes(VAEACArguments)
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)

    def _configure(self, config: RunConfig, device: str) -> None:
        options = config.options(VAEACOptions)
        check(options)
        if options.ratings:  # ratings are values, and are always used
            config = replace(config, model=replace(options, weighted=True))
        super()._configure(config, device)

    @classmethod
    def reads(cls, options: Any) -> tuple[Part, ...]:
        return ("ratings",) if options.ratings else ()

    @property
    def predicts_ratings(self) -> bool:
        return self.of_ratings and self.config.options(VAEACOptions).likelihood == "gaussian"

    @property
    def named_value(self) -> float:
        """The value, in a history, of an item that is only named: of ratings the least that counts as liked."""
        return self.config.options(VAEACOptions).liked_from if self.of_ratings else 1.0

    def training_inputs(self, data: Prepared, *, refit: bool = False) -> JsonObject:
        """Return the arguments of :meth:`fit`, the ratings in place of the clicks where the model is of ratings.

        Raises :class:`InputError` where other ratings count as liked than those that are the dataset's clicks.
        """
        least = data.manifest.get("filters", {}).get("min_rating")
        if self.of_ratings and least is not None and least > 0 and least != self.named_value:
            raise InputError(
                f"The clicks of {data.path or data.name} are ratings from {least} on, and this model calls those from "
                f"{self.named_value} on liked: set model.liked_from={least}."
            )
        return super().training_inputs(data, refit=refit)

    def _prepare(self, matrix: csr_array) -> None:
        o = self.config.options(VAEACOptions)
        if o.ratings:
            if o.likelihood == "multinomial" and not (matrix.data >= o.liked_from).any():
                raise InputError(
                    f"There is nothing to learn: none of the training ratings is {o.liked_from} or more, the least "
                    "that counts as liked. Set model.liked_from to a rating of this scale."
                )
            self.network.set_offsets(self.batch(matrix))

    @torch.no_grad()
    def predict_ratings(self, histories: csr_array, where: Matrix, *, samples: int = 0) -> csr_array:
        """Return the ratings expected of users, CSR float32 (n, n_items), at the entries that ``where`` stores.

        ``histories``: CSR (n, n_items), the ratings that are known of each user; ``where``: CSR of the same shape, its
        values ignored, zeros and NaN too. z is the prior network's mean; with ``samples`` the result is the mean over
        that many draws of z, which the seed determines. Raises :class:`InputError` where the model does not predict
        ratings or shapes do not fit.
        """
        self._need_fit()
        if self.config.options(VAEACOptions).likelihood != "gaussian":
            raise InputError("This model ranks items and predicts no ratings; train it with likelihood = gaussian.")
        samples = whole_number("samples", samples, least=0, most=MOST_SAMPLES)
        histories, where = canonical(histories), entries_of(where)
        if histories.shape != where.shape or where.shape[1] != self.n_items:
            raise InputError(
                f"The histories are {histories.shape} and the entries to predict {where.shape}; both must be "
                f"(users, {self.n_items})."
            )
        noise = Noise(self.config.seed, self.device) if samples else None
        parts: list[Tensor] = []
        for start in range(0, where.shape[0], _USERS_AT_ONCE):
            users = slice(start, start + _USERS_AT_ONCE)
            batch = self.batch(histories[users])
            asked = Batch.of(where[users], self.device)
            code = self.network.coder(batch, noise)
            draws = [self.network.expected(batch, asked, code()) for _ in range(samples or 1)]
            parts.append(torch.stack(draws).mean(0).cpu())
        predicted = where.astype(np.float32)
        predicted.data = torch.cat(parts).numpy() if parts else predicted.data
        return predicted
