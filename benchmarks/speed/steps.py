"""Single training steps, and the matrix products that they cannot do without: for the programs here and on a GPU."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch

from benchmarks.speed.reference import ReferenceMultVAE, ReferenceRecVAE
from recvae.nn.batches import Clicks
from recvae.nn.kernels import precision
from recvae.nn.network import Loss, Network, Phase
from recvae.training.loop import Hooks, TrainOptions, _Loop

Shape = tuple[int, int, int, int]  # of products: how many, and m, k, n of each


class Steps:
    """Our training loop, taken one step of a phase at a time; its batches never end."""

    def __init__(self, network: Network, clicks: Clicks, options: TrainOptions) -> None:
        self.network, self.clicks, self.options = network, clicks, options
        self.loop = _Loop(network, clicks, options, 1, Hooks())
        self.phases = {phase.name: phase for phase in self.loop.phases}
        network.begin_phase(self.loop.phases[0].name, 0, clicks, options.batch_size)  # such as RecVAE's old posteriors
        more: dict[str, Any] = {"drop_last": options.drop_last}
        self.batches = (b for _ in count() for b in clicks.shuffled(options.batch_size, self.loop.noise, **more))
        self.in_order = (b for _ in count() for b in clicks.in_order(options.batch_size))

    def begin(self, phase: Phase) -> None:
        """Let the parameters of a phase, and no others, need gradients."""
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)
        for parameter in phase.parameters:
            parameter.requires_grad_(True)

    def step(self, phase: Phase) -> Loss:
        with precision(self.options.precision):
            return self.loop._update(phase, next(self.batches))

    @torch.no_grad()
    def table_step(self) -> None:
        """Take one batch of RecVAE's table of old posteriors."""
        network: Any = self.network
        batch = next(self.in_order)
        network.latent_prior.table[batch.users] = torch.cat(network.encoder(batch, batch.normalised()), dim=1)


@dataclass(frozen=True)
class Part:
    """A kind of step: its name, how many passes of an epoch take it, its products, and the reference's step."""

    name: str
    passes: int
    products: tuple[Shape, ...]
    theirs: Callable[[], object] | None = None


def mult_vae_products(batch: int, items: int, hidden: int, latent: int) -> tuple[Shape, ...]:
    """Return the products of a step after its sparse first layer, forward and backward."""
    return tuple(
        shape
        for inputs, outputs in ((hidden, 2 * latent), (latent, hidden), (hidden, items))
        for shape in ((1, batch, inputs, outputs), (1, batch, outputs, inputs), (1, inputs, batch, outputs))
    )


def mult_vae_parts(reference: ReferenceMultVAE, batch: int, hidden: int, latent: int) -> list[Part]:
    rows = (rows for _ in count() for rows in reference.one_pass(batch))
    products = mult_vae_products(batch, reference.matrix.shape[1], hidden, latent)
    return [Part("step", 1, products, lambda: reference.step(next(rows)))]


def recvae_parts(reference: ReferenceRecVAE, batch: int, hidden: int, latent: int) -> list[Part]:
    """Return the three kinds of step of RecVAE's epoch; the table of old posteriors is ours alone."""
    rows, items = (rows for _ in count() for rows in reference.one_pass(batch)), reference.matrix.shape[1]
    layers: tuple[Shape, ...] = ((4, batch, hidden, hidden), (2, batch, hidden, latent))
    gradients: tuple[Shape, ...] = (
        (4, batch, hidden, hidden), (4, hidden, batch, hidden), (2, batch, latent, hidden), (2, latent, batch, hidden),
    )  # fmt: skip
    scores: Shape = (1, batch, latent, items)
    encoder, decoder = (*layers, *gradients, scores, (1, batch, items, latent)), (scores, (1, latent, batch, items))
    return [
        Part("encoder step", 3, encoder, lambda: reference.encoder_step(next(rows))),
        Part("decoder step", 1, decoder, lambda: reference.decoder_step(next(rows))),
        Part("table of old posteriors, a batch", 1, layers),
    ]
