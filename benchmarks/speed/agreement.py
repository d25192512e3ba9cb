"""The same losses: ours and the dense reference's, step by step, from the same weights with the same noise."""

from argparse import Namespace
from collections.abc import Callable, Sequence
from itertools import count, islice
from typing import Any

from torch import Tensor

from benchmarks.harness import CLICKS, ITEMS, USERS, Figure, alone
from benchmarks.speed.reference import Reference, ReferenceMultVAE, ReferenceRecVAE, SharedDraws
from data_prep import ml20m_shape
from recvae.models.mult import MultVAENetwork, MultVAEOptions
from recvae.models.recvae import RecVAENetwork, RecVAEOptions
from recvae.nn.batches import Clicks
from recvae.nn.network import Network
from recvae.training.loop import TrainOptions, train

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


def differences(
    make: Callable[[], Network], reference: Reference, clicks: Clicks, runs: Sequence[TrainOptions], steps: int
) -> list[float]:
    """Return the largest relative difference of a loss from the reference's, for a new network with each options.

    All start from the same weights, which ``make`` gives every time, and make the same draws.
    """
    reference.load_from(make())
    reference.draws = SharedDraws(1, reference.device)
    endless = (loss for _ in count() for loss in reference.epoch(runs[0].batch_size))
    theirs = [float(loss) for loss in islice(endless, steps)]
    del reference.draws  # torch's own again, which are the ones to be timed
    every = (our_losses(make(), clicks, options, 1, steps) for options in runs)
    return [max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True)) for ours in every]


def compare(users: int, items: int, clicks: int, hidden: int, latent: int, batch_size: int, steps: int) -> list[Figure]:
    """Compare both models at a shape; exit where their losses differ."""
    matrix = ml20m_shape(users=users, items=items, clicks=clicks)
    sizes: dict[str, Any] = {"hidden": hidden, "latent": latent}
    recvae, mult_vae = RecVAEOptions(**sizes), MultVAEOptions(hidden=(hidden,), latent=latent)
    pairs: dict[str, tuple[Callable[[], Network], Reference]] = {
        "RecVAE": (lambda: RecVAENetwork(items, recvae), ReferenceRecVAE(matrix, **sizes)),
        "Mult-VAE": (lambda: MultVAENetwork(items, mult_vae), ReferenceMultVAE(matrix, **sizes)),
    }
    figures = []
    for name, (make, reference) in pairs.items():
        options = TrainOptions(epochs=10_000, batch_size=batch_size, learning_rate=reference.learning_rate)
        (difference,) = differences(make, reference, Clicks(matrix), [options], steps)
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
