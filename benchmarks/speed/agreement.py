"""The same losses: ours and the dense reference's, step by step, from the same weights with the same noise."""

from argparse import Namespace
from itertools import count, islice
from typing import Any

from torch import Tensor

from benchmarks.harness import CLICKS, ITEMS, USERS, Figure, alone
from benchmarks.speed.reference import Reference, ReferenceMultVAE, ReferenceRecVAE, SharedDraws
from data_prep import ml20m_shape
from recvae.batches import Clicks
from recvae.models.base import Network
from recvae.models.mult import MultVAENetwork, MultVAEOptions
from recvae.models.recvae import RecVAENetwork, RecVAEOptions
from recvae.training import TrainOptions, train

BOUND = 1e-4  # relative; rounding alone gives about 1e-6


class _EnoughError(Exception):
    """Ends a training run after the last step that is asked for."""


def our_losses(network: Network, clicks: Clicks, train_options: TrainOptions, seed: int, steps: int) -> list[float]:
    """Train our network and return the loss of each of its first ``steps`` steps."""
    losses: list[Tensor] = []
    loss_of = network.loss

    def recorded(*arguments: Any, **more: Any) -> Any:
        if len(losses) == steps:
            raise _EnoughError
        loss = loss_of(*arguments, **more)
        losses.append(loss.total.detach().clone())
        return loss

    network.loss = recorded  # type: ignore[method-assign]  # this network's only
    try:
        train(network, clicks, train_options, seed=seed)
    except _EnoughError:
        pass
    finally:
        del network.loss
        network.release()
    return [float(loss) for loss in losses]


def their_losses(reference: Reference, batch_size: int, steps: int) -> list[float]:
    """Train the reference and return the loss of each of its first ``steps`` steps."""
    endless = (loss for _ in count() for loss in reference.epoch(batch_size))
    return [float(loss) for loss in islice(endless, steps)]


def largest_difference(network: Network, reference: Reference, batch_size: int, steps: int) -> float:
    """Train both from the same weights with the same draws; return the largest relative difference of two losses."""
    reference.load_from(network)
    reference.draws = SharedDraws(1, reference.device)
    train_options = TrainOptions(epochs=10_000, batch_size=batch_size, learning_rate=reference.learning_rate)
    ours = our_losses(network, Clicks(reference.matrix, reference.device), train_options, 1, steps)
    theirs = their_losses(reference, batch_size, steps)
    return max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))


def compare(users: int, items: int, clicks: int, hidden: int, latent: int, batch_size: int, steps: int) -> list[Figure]:
    """Compare both models at a shape; exit where their losses differ."""
    matrix = ml20m_shape(users=users, items=items, clicks=clicks)
    sizes: dict[str, Any] = {"hidden": hidden, "latent": latent}
    mult_vae = MultVAENetwork(items, MultVAEOptions(hidden=(hidden,), latent=latent))
    pairs: dict[str, tuple[Network, Reference]] = {
        "RecVAE": (RecVAENetwork(items, RecVAEOptions(hidden=hidden, latent=latent)), ReferenceRecVAE(matrix, **sizes)),
        "Mult-VAE": (mult_vae, ReferenceMultVAE(matrix, **sizes)),
    }
    figures = []
    for name, (network, reference) in pairs.items():
        difference = largest_difference(network, reference, batch_size, steps)
        if not difference <= BOUND:
            raise SystemExit(f"{name}: the losses of {steps} steps differ by {difference:.2g} relative.")
        figures.append(alone(f"{name}, {steps} steps, {users:,} users x {items:,} items", [difference], ""))
    return figures


def measure(arguments: Namespace) -> dict[str, Any]:
    # 56 steps are two epochs of RecVAE: encoder passes, prior update, decoder pass, twice.
    figures = compare(330, 200, 9000, hidden=32, latent=16, batch_size=50, steps=56)
    if not arguments.small:
        figures += compare(USERS, ITEMS, CLICKS, hidden=600, latent=200, batch_size=500, steps=200)
    return {"figures": figures}
