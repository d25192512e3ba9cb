"""The same losses: ours and the dense reference's, step by step, from the same weights with the same noise.

python benchmarks/agreement.py
"""

from typing import Any

import torch
from harness import CLICKS, ITEMS, USERS, Figure, alone, options, record
from reference import Reference, ReferenceMultVAE, ReferenceRecVAE, SharedDraws
from torch import Tensor

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

    network.loss = recorded
    try:
        train(network, clicks, train_options, seed=seed)
    except _EnoughError:
        pass
    finally:
        del network.loss
        network.release()
    return torch.stack(losses).tolist()


def their_losses(reference: Reference, batch_size: int, steps: int) -> list[float]:
    """Train the reference and return the loss of each of its first ``steps`` steps."""
    losses: list[Tensor] = []
    while len(losses) < steps:
        for loss in reference.epoch(batch_size):
            losses.append(loss)
            if len(losses) == steps:
                break
    return torch.stack(losses).tolist()


def largest_difference(
    network: Network, reference: Reference, matrix: Any, batch_size: int, steps: int, seed: int = 1
) -> float:
    """Return the largest relative difference between the two losses of any of the first ``steps`` steps.

    The reference takes the network's weights and the draws of the network's own training loop; both are trained.
    """
    reference.load_from(network)
    reference.draws = SharedDraws(seed, reference.device)
    train_options = TrainOptions(epochs=10_000, batch_size=batch_size, learning_rate=reference.learning_rate)
    ours = our_losses(network, Clicks(matrix, reference.device), train_options, seed, steps)
    theirs = their_losses(reference, batch_size, steps)
    if len(ours) != steps:
        raise SystemExit(f"Our loop gave {len(ours)} losses of {steps}; there is nothing to compare.")
    return max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))


def compare(shape: dict[str, int], hidden: int, latent: int, batch_size: int, steps: int) -> list[Figure]:
    """Compare both models at a shape; exit where their losses differ."""
    from data_prep import ml20m_shape

    matrix = ml20m_shape(**shape)
    items = shape["items"]
    pairs: dict[str, tuple[Network, Reference]] = {
        "RecVAE": (
            RecVAENetwork(items, RecVAEOptions(hidden=hidden, latent=latent)),
            ReferenceRecVAE(matrix, hidden=hidden, latent=latent),
        ),
        "Mult-VAE": (
            MultVAENetwork(items, MultVAEOptions(hidden=(hidden,), latent=latent)),
            ReferenceMultVAE(matrix, hidden=hidden, latent=latent),
        ),
    }
    figures = []
    for name, (network, reference) in pairs.items():
        difference = largest_difference(network, reference, matrix, batch_size, steps)
        if not difference <= BOUND:
            raise SystemExit(f"{name}: the losses of {steps} steps differ by {difference:.2g} relative.")
        figures.append(alone(f"{name}, {steps} steps, {shape['users']:,} users x {items:,} items", [difference], ""))
    return figures


def main() -> None:
    arguments = options(__doc__, rounds=1).parse_args()
    # 56 steps are two epochs of RecVAE: encoder passes, prior update, decoder pass, twice.
    figures = compare({"users": 330, "items": 200, "clicks": 9000}, hidden=32, latent=16, batch_size=50, steps=56)
    if not arguments.small:
        shape = {"users": USERS, "items": ITEMS, "clicks": CLICKS}
        figures += compare(shape, hidden=600, latent=200, batch_size=500, steps=200)
    results = {
        "title": "The same losses",
        "about": "The largest relative difference between our loss and that of the dense reference in any step, where"
        " both start from the same weights and make the same random draws, in float32.",
        "figures": figures,
    }
    record("agreement", results, arguments)


if __name__ == "__main__":
    main()
