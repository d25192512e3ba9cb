"""An epoch of training, ours and the dense reference's in turn, and its share of the bare matrix products' time.

At ML-20M's shape an epoch is put together from steps of each kind, since whole ones of the reference take ten minutes;
``--whole`` runs one whole epoch of each as well. On MovieLens-1M (``--ml-1m``) whole epochs are run.
"""

from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.harness import (
    CLICKS,
    ITEMS,
    USERS,
    Contender,
    Figure,
    Seconds,
    against,
    alone,
    copy_bandwidth,
    interleaved,
    medians,
    product_seconds,
    several,
)
from benchmarks.speed.reference import Reference, ReferenceMultVAE, ReferenceRecVAE
from benchmarks.speed.steps import Part, Steps, mult_vae_parts, recvae_parts
from data_prep import ml20m_shape, prepare
from recvae.batches import Clicks, number_of_batches
from recvae.models.base import Network
from recvae.models.mult import MultVAENetwork, MultVAEOptions
from recvae.models.recvae import RecVAENetwork, RecVAEOptions
from recvae.training import Hooks, TrainOptions, _Loop

BATCH = 500
REFERENCE = "reference"


def our_steps(network: Network, matrix: Any) -> list[Callable[[], object]]:
    """Return our step of each phase, and of RecVAE the table's."""
    ours = Steps(network, Clicks(matrix), TrainOptions(batch_size=BATCH))

    def step(name: str) -> None:
        ours.begin(ours.phases[name])
        ours.step(ours.phases[name])

    made: list[Callable[[], object]] = [partial(step, name) for name in ours.phases]
    return [*made, ours.table_step] if isinstance(network, RecVAENetwork) else made


def products_of(parts: list[Part], rounds: int) -> dict[str, float]:
    """Return the seconds of an epoch's products, per batch of users and kernel."""
    shapes = {shape[1:] for part in parts for shape in part.products}
    found = {shape: product_seconds(*shape, rounds=rounds) for shape in sorted(shapes)}
    return {
        kernel: sum(part.passes * n * found[m, k, width][kernel] for part in parts for n, m, k, width in part.products)
        for kernel in next(iter(found.values()))
    }


def compare(
    name: str, ours: list[Callable[[], object]], parts: list[Part], n_batches: int, rounds: int, steps: tuple[int, int]
) -> tuple[list[Figure], dict[str, Any]]:
    """Time steps of every kind, ours and the reference's in turn, and put epochs together from them."""
    contenders: dict[str, Contender] = {}
    for part, step in zip(parts, ours, strict=True):
        contenders[f"ours: {part.name}"] = several(step, steps[0])
        if part.theirs is not None:
            contenders[f"{REFERENCE}: {part.name}"] = several(part.theirs, steps[1])
    seconds = interleaved(contenders, rounds)
    epochs: Seconds = {}
    for side, n in (("ours", steps[0]), (REFERENCE, steps[1])):
        there = [(part.passes, seconds.get(f"{side}: {part.name}", [0.0] * rounds)) for part in parts]
        epochs[side] = [sum(passes * values[r] for passes, values in there) / n * n_batches for r in range(rounds)]
    products = {kernel: value * n_batches for kernel, value in products_of(parts, rounds).items()}
    figures = [against(f"{name}, epoch", epochs, REFERENCE)]
    for kernel, by in (("torch.mm", "by torch.mm"), ("best_product", "by the fastest kernel")):
        epochs[f"its products alone, {by}"] = [products[kernel]] * rounds
        figures.append(against(f"{name}, epoch", epochs, f"its products alone, {by}", floor=True))
    per_step = {part: value / steps[0 if part.startswith("ours") else 1] for part, value in medians(seconds).items()}
    figures += [alone(f"{name}, {part}", [value]) for part, value in per_step.items() if part.startswith("ours")]
    return figures, {"step_seconds": per_step, "epoch_seconds": epochs, "product_seconds": products}


def whole_epochs(name: str, network: Network, reference: Reference, rounds: int, warmup: int) -> Figure:
    """Time whole epochs of both, in turn."""
    options = TrainOptions(batch_size=BATCH, epochs=10_000)
    loop = _Loop(network, Clicks(reference.matrix), options, 1, Hooks())
    contenders: dict[str, Contender] = {"ours": loop.epoch, REFERENCE: lambda: sum(1 for _ in reference.epoch(BATCH))}
    return against(name, interleaved(contenders, rounds, warmup), REFERENCE)


def measure(arguments: Namespace) -> dict[str, Any]:
    users, items, clicks = (3000, 900, 90_000) if arguments.small else (USERS, ITEMS, CLICKS)
    hidden, latent = (32, 16) if arguments.small else (600, 200)
    matrix = ml20m_shape(users=users, items=items, clicks=clicks)

    def recvae() -> tuple[RecVAENetwork, ReferenceRecVAE]:
        options = RecVAEOptions(hidden=hidden, latent=latent)
        return RecVAENetwork(items, options), ReferenceRecVAE(matrix, hidden=hidden, latent=latent)

    def mult_vae() -> tuple[MultVAENetwork, ReferenceMultVAE]:
        options = MultVAEOptions(hidden=(hidden,), latent=latent)
        return MultVAENetwork(items, options), ReferenceMultVAE(matrix, hidden=hidden, latent=latent)

    figures: list[Figure] = []
    details: dict[str, Any] = {}
    number, rounds, steps = number_of_batches(users, BATCH), arguments.rounds, (3, 2) if arguments.small else (12, 3)
    network, reference = recvae()
    parts = recvae_parts(reference, BATCH, hidden, latent)
    found, details["RecVAE"] = compare("RecVAE", our_steps(network, matrix), parts, number, rounds, steps)
    figures += found
    other, peer = mult_vae()
    parts = mult_vae_parts(peer, BATCH, hidden, latent)
    found, details["Mult-VAE"] = compare("Mult-VAE", our_steps(other, matrix), parts, number, rounds, steps)
    figures += found
    if arguments.whole:
        figures.append(whole_epochs("RecVAE, one whole epoch", *recvae(), 1, 0))
        figures.append(whole_epochs("Mult-VAE, one whole epoch", *mult_vae(), 1, 0))
    if arguments.ml_1m:
        ml1m = prepare("ml-1m", source=arguments.ml_1m).train
        pair = RecVAENetwork(ml1m.shape[1], RecVAEOptions()), ReferenceRecVAE(ml1m)
        figures.append(whole_epochs("RecVAE on MovieLens-1M, epoch", *pair, rounds, 1))
    return {"figures": figures, "details": details, "ceilings": {"copy_gb_per_s": copy_bandwidth()}}
