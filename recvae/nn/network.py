"""The contract between a network and the training loop, and the parts of a loss."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recvae.errors import InputError
from recvae.nn.batches import Batch, Clicks
from recvae.nn.densities import gaussian_draws
from recvae.nn.kernels import GradientMemory, product
from recvae.nn.layers import ClickLinear, Linear
from recvae.nn.likelihoods import Likelihood, multinomial_log_likelihood
from recvae.nn.noise import Noise
from recvae.nn.priors import Density, Encoder, FrozenEncoder, Prior, StandardNormal


@dataclass(frozen=True)
class Phase:
    """A part of an epoch: ``passes`` over all users in which one optimiser trains some of the parameters."""

    name: str
    passes: int
    parameters: tuple[nn.Parameter, ...]


@dataclass(frozen=True)
class Loss:
    """Training loss of one batch: scalars on the device, means over the batch's users.

    ``total`` is minimised (the optimiser adds the L2 term); ``nll`` is the negative log-likelihood,
    ``kl`` the unweighted KL term (None where the phase has none), ``beta`` its weight where that is one number.
    """

    total: Tensor
    nll: Tensor
    kl: Tensor | None = None
    beta: float | None = None


class Network(nn.Module, ABC):
    """A model of clicks that a training loop can train and a ranking can ask for logits.

    Nothing random happens unless a :class:`~recvae.nn.noise.Noise` is passed, and only the training loss passes one;
    the module's ``training`` flag has no effect.
    """

    def __init_subclass__(cls, **more: object) -> None:
        """Take the logits of a few items from all of them where a class has logits of its own, and no shorter way."""
        super().__init_subclass__(**more)
        if "logits" in vars(cls) and "logits_at" not in vars(cls):
            cls.logits_at = _of_all_logits  # type: ignore[method-assign]  # of this class alone
        if "logits" in vars(cls) and "item_vectors" not in vars(cls):
            cls.item_vectors = _no_vectors  # type: ignore[method-assign, assignment]  # the same

    n_items: int
    likelihood: Likelihood = staticmethod(multinomial_log_likelihood)
    latent_prior: Prior = StandardNormal()
    pseudo_inputs: nn.Parameter  # only where the prior is the VampPrior
    started: bool = False  # whether the parameters are those of an earlier run, from which training begins

    @property
    @abstractmethod
    def output(self) -> "Linear":
        """The last layer: scores are linear in the code that enters it."""

    @abstractmethod
    def code(self, batch: Batch) -> Tensor:
        """Return the input of the last layer when predicting, (B, K): no dropout, z = mu."""

    @abstractmethod
    def phases(self) -> tuple[Phase, ...]:
        """Return the phases of an epoch, in order."""

    @abstractmethod
    def loss(self, phase: str, batch: Batch, beta: float, noise: Noise) -> Loss:
        """Return the loss of one update in the named phase; ``beta`` is the schedule's value for this update."""

    def logits(self, batch: Batch) -> Tensor:
        """Return the (B, I) scores to rank by."""
        logits: Tensor = self.output(self.code(batch))
        return logits

    def logits_at(self, batch: Batch, items: Tensor) -> Tensor:
        """Return :meth:`logits` of ``items`` alone, int64 (m,) on the batch's device: (B, m), equal to rounding."""
        last = self.output
        return product(self.code(batch), last.weight[items], last.bias[items])

    def item_vectors(self) -> Tensor:
        """Return a vector of each item, (n_items, D), whose inner products with users' vectors are the logits.

        Raises :class:`InputError` for a network whose logits are not such products.
        """
        last = self.output
        return torch.cat((last.weight, last.bias[:, None]), dim=1)

    def user_vectors(self, batch: Batch) -> Tensor:
        """Return a vector of each user, (B, D): the input of the last layer, and 1 for the items' biases."""
        code = self.code(batch)
        return torch.cat((code, torch.ones_like(code[:, :1])), dim=1)

    def log_likelihood(self, code: Tensor, batch: Batch) -> Tensor:
        """Return the log-likelihood of the batch's clicks, (B,), from the input of the last layer."""
        last = self.output
        return self.likelihood(code, last.weight, last.bias, batch, last.memory)

    # --- for diagnosis, the densities of a variational network: p(x | z), q(z | x) and p(z) ---------------------------

    @property
    def has_standard_prior(self) -> bool:
        """Whether p(z) is N(0, 1) in each dimension, so that KL(q || p) has its closed form."""
        return self.latent_prior.standard

    @property
    def about(self) -> str:
        """A sentence about the prior under which log p(x) and the KL term are computed."""
        return self.latent_prior.about

    def posterior(self, batch: Batch, noise: Noise | None = None) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of q(z | x), (B, K) each; dropout needs ``noise``.

        Raises :class:`InputError` for a model without a posterior, or whose posterior is not one Gaussian.
        """
        raise InputError("This model has no posterior: its code is a function of the clicks, without any noise.")

    def draws(self, batch: Batch, noise: Noise) -> Callable[[], tuple[Tensor, Tensor]]:
        """Return a function that draws z from q(z | x) of the clean clicks: z (B, K) and log q, as of :meth:`prior`."""
        return gaussian_draws(*self.posterior(batch), noise)

    def prior(self, batch: Batch) -> Density:
        """Return log p of the users' z as a function (B, K) -> (B, K), or (B, 1) where it does not factorise."""
        return self.latent_prior.density(batch, self)

    def encoded(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the posterior of clicks without dropout, for a prior (:class:`recvae.nn.priors.Encoder`)."""
        return self.posterior(batch)

    def encoded_rows(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the posterior of dense rows (C, I), not normalised; :class:`InputError` where there is none."""
        raise InputError("This model's encoder takes no dense rows, so it can have no VampPrior.")

    def frozen(self) -> FrozenEncoder:
        """Return a copy of the network, which later training does not change."""
        return copy.deepcopy(self).requires_grad_(False)

    @property
    def prior_encoder(self) -> Encoder:
        """The encoder whose posterior a prior keeps."""
        return self

    def prior_state(self) -> dict[str, Tensor]:
        """Return the tensors that the prior keeps of the encoder since its last update, to go on within a phase."""
        return self.latent_prior.state(self.prior_encoder)

    def restore_prior(self, tensors: Mapping[str, Tensor]) -> None:
        """Give the prior back the tensors that :meth:`prior_state` returned."""
        self.latent_prior.restore(self.prior_encoder, tensors)

    def decode(self, z: Tensor) -> Tensor:
        """Return the input of the last layer, (B, H), from z (B, K)."""
        return z

    def beta(self, step: int, total: int) -> float:
        """Return the KL weight at update ``step`` (from 0) of a run of ``total`` updates."""
        del step, total
        return 0.0

    def l2(self) -> dict[str, float]:
        """Return lambda of each parameter name under lambda * sum of squares (none by default)."""
        return {}

    def l2_of_matrices(self, lambda_: float) -> dict[str, float]:
        """Return :meth:`l2` with one lambda for all weight matrices: biases and LayerNorm's gains are left out."""
        matrices = (name for name, value in self.named_parameters() if name.endswith("weight") and value.dim() > 1)
        return dict.fromkeys(matrices, lambda_) if lambda_ else {}

    def item_axes(self) -> dict[str, int]:
        """Return the axis of the items in each parameter that has one, by the parameter's name.

        Here of the first layers on clicks, the last layer and the VampPrior's pseudo-inputs; a network with others adds
        them. A warm start matches these parameters by item id. Where a process has a part of the items, it has a part
        of these parameters, and all of the others.
        """
        axes: dict[str, int] = {}
        for name, module in self.named_modules():
            if isinstance(module, ClickLinear):
                axes[f"{name}.weight"] = 0
            elif module is self.output:
                axes |= {f"{name}.weight": 0, f"{name}.bias": 0}
        return axes | ({"pseudo_inputs": 1} if "pseudo_inputs" in self._parameters else {})

    def begin_phase(self, phase: str, epoch: int, clicks: Clicks, batch_size: int) -> None:
        """Prepare a phase; called before its first pass, with ``epoch`` counted from 0."""
        del phase, epoch, clicks, batch_size

    def release(self) -> None:
        """Free the memory that only training needs."""
        self.latent_prior.release()
        for memory in self.gradient_memories():
            memory.release()
        for module in self.modules():
            if isinstance(module, ClickLinear):
                module.buffer = None

    def gradient_memories(self) -> list[GradientMemory]:
        """Return the memory of every gradient that is kept from step to step."""
        return [module.memory for module in self.modules() if isinstance(module, ClickLinear | Linear)]


def _no_vectors(network: Network) -> Tensor:
    """Raise :class:`InputError`: the terms that a network adds to its last layer's output may be no inner product."""
    raise InputError(
        "The scores of this model are more than the output of its last layer, and no inner products of a user's vector "
        "and an item's, so that an index of vectors cannot find its lists. Export without vectors."
    )


def _of_all_logits(self: Network, batch: Batch, items: Tensor) -> Tensor:
    return self.logits(batch)[:, items]
