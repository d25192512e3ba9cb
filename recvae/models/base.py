"""The contract between a network and the training loop, and the layers the networks share."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recvae.batches import Batch, Clicks
from recvae.noise import Noise


@dataclass(frozen=True)
class Phase:
    """A part of an epoch: ``passes`` over all users in which one optimiser trains some of the parameters."""

    name: str
    passes: int
    parameters: tuple[nn.Parameter, ...]


@dataclass(frozen=True)
class Loss:
    """Training loss of one batch: scalars on the device, means over the batch's users.

    ``total`` is what is minimised, but for the L2 term, which the optimiser adds; ``nll`` the negative log-likelihood,
    ``kl`` the unweighted KL term (None where the phase has none), ``beta`` its weight where that is one number.
    """

    total: Tensor
    nll: Tensor
    kl: Tensor | None = None
    beta: float | None = None


class Network(nn.Module, ABC):
    """A model of clicks that a training loop can train and a ranking can ask for logits.

    Nothing random happens unless a :class:`~recvae.noise.Noise` is passed, and only the training loss passes one; the
    module's ``training`` flag has no effect.
    """

    n_items: int

    @abstractmethod
    def logits(self, batch: Batch) -> Tensor:
        """Return the (B, I) scores to rank by: no dropout, z = mu."""

    @abstractmethod
    def phases(self) -> tuple[Phase, ...]:
        """Return the phases of an epoch, in order."""

    @abstractmethod
    def loss(self, phase: str, batch: Batch, beta: float, noise: Noise) -> Loss:
        """Return the loss of one update in the named phase; ``beta`` is the schedule's value for this update."""

    @abstractmethod
    def item_vectors(self) -> Tensor:
        """Return one vector per item, (I, K), whose cosine says how alike two items are: the decoder's last weights."""

    def beta(self, step: int, total: int) -> float:
        """Return the KL weight at update ``step`` (from 0) of a run of ``total`` updates."""
        del step, total
        return 0.0

    def l2(self) -> dict[str, float]:
        """Return lambda of each parameter name under lambda * sum of squares (none by default)."""
        return {}

    def begin_phase(self, phase: str, epoch: int, clicks: Clicks, batch_size: int) -> None:
        """Prepare a phase; called before its first pass, with ``epoch`` counted from 0."""
        del phase, epoch, clicks, batch_size

    def release(self) -> None:
        """Let go of what only training needs."""


class ClickLinear(nn.Module):
    """A linear layer on sparse clicks: (B, I) x (I, H) + (H,).

    ``weight`` is kept as a table of one row per item. On a CPU the clicked rows are gathered and summed; elsewhere the
    batch is scattered into a dense buffer, reused from step to step, and multiplied. The two agree to rounding.
    """

    def __init__(self, n_items: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_items, width))
        self.bias = nn.Parameter(torch.empty(width))
        self._buffer: Tensor | None = None

    def forward(self, batch: Batch, values: Tensor) -> Tensor:
        """Return (B, H) from one value per click (N,)."""
        return self.gathered(batch, values) if values.device.type == "cpu" else self.multiplied(batch, values)

    def gathered(self, batch: Batch, values: Tensor) -> Tensor:
        """Sum the clicked rows of the table."""
        summed = nn.functional.embedding_bag(
            batch.columns,
            self.weight,
            batch.offsets,
            mode="sum",
            per_sample_weights=values.to(self.weight.dtype),
            include_last_offset=True,
        )
        return summed + self.bias

    def multiplied(self, batch: Batch, values: Tensor) -> Tensor:
        """Scatter the batch into the dense buffer and multiply."""
        shape = (len(batch), self.weight.shape[0])
        buffer = self._buffer
        if buffer is None or buffer.shape[0] < shape[0] or buffer.device != values.device:
            buffer = self._buffer = values.new_empty(shape)
        return torch.addmm(self.bias, batch.dense(values, out=buffer[: shape[0]]), self.weight)


Init = Callable[[Tensor, Tensor, int, torch.Generator], None]


def linear(inputs: int, outputs: int, init: Init, g: torch.Generator) -> nn.Linear:
    """Return a Linear layer initialised by ``init(weight, bias, fan_in, generator)``."""
    with torch.device("meta"):  # torch's own initialisation would draw from the global generator
        layer = nn.Linear(inputs, outputs)
    layer.to_empty(device="cpu")
    init(layer.weight, layer.bias, inputs, g)
    return layer


@torch.no_grad()
def init_xavier(weight: Tensor, bias: Tensor, fan_in: int, generator: torch.Generator) -> None:
    """Xavier uniform weights, biases truncated normal with standard deviation 0.001 (Liang et al. 2018)."""
    del fan_in
    nn.init.xavier_uniform_(weight, generator=generator)
    nn.init.trunc_normal_(bias, std=0.001, a=-0.002, b=0.002, generator=generator)


@torch.no_grad()
def init_fan_in(weight: Tensor, bias: Tensor, fan_in: int, generator: torch.Generator) -> None:
    """Uniform in +-1 / sqrt(fan_in), weights and biases: torch's default for a Linear layer (RecVAE's program)."""
    bound = fan_in**-0.5
    weight.uniform_(-bound, bound, generator=generator)
    bias.uniform_(-bound, bound, generator=generator)
