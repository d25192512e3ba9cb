"""An epoch of training, ours and the dense reference's in turn, and its share of the bare matrix products' time.

At ML-20M's shape an epoch is put together from steps, since whole ones of the reference take ten minutes.
"""

from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks import harness
from benchmarks.harness import Figure, Seconds, against, alone, interleaved, several
from benchmarks.speed.reference import ReferenceMultVAE, ReferenceRecVAE
from benchmarks.speed.steps import Part, Steps, mult_vae_parts, recvae_parts
from data_prep import ml20m_shape, prepare
from recvae.models.mult import MultVAENetwork, MultVAEOptions
from recvae.models.recvae import RecVAENetwork, RecVAEOptions
from recvae.nn.batches import Clicks, number_of_batches
from recvae.nn.network import Network
from recvae.training.loop import Hooks, TrainOptions, _Loop

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
    found = {shape: harness.product_seconds(*shape, rounds=rounds) for shape in sorted(shapes)}
    return {
        kernel: sum(part.passes * n * found[m, k, width][kernel] for part in parts for n, m, k, width in part.products)
        for kernel in next(iter(found.values()))
    }


def compare(
    name: str, network: Network, parts: list[Part], matrix: Any, rounds: int, steps: tuple[int, int]
) -> tuple[list[Figure], dict[str, Any]]:
    """Time steps of every kind, ours and the reference's in turn, and put epochs together from them."""
    n_batches = number_of_batches(matrix.shape[0], BATCH)
    contenders: dict[str, harness.Contender] = {}
    for part, step in zip(parts, our_steps(network, matrix), strict=True):
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
    middle = harness.medians(seconds)
    per_step = {part: value / steps[0 if part.startswith("ours") else 1] for part, value in middle.items()}
    figures += [alone(f"{name}, {part}", [value]) for part, value in per_step.items() if part.startswith("ours")]
    return figures, {"step_seconds": per_step, "epoch_seconds": epochs, "product_seconds": products}


def measure(arguments: Namespace) -> dict[str, Any]:
    users, items, clicks = (3000, 900, 90_000) if arguments.small else (harness.USERS, harness.ITEMS, harness.CLICKS)
    sizes: dict[str, Any] = {"hidden": 32, "latent": 16} if arguments.small else {"hidden": 600, "latent": 200}
    matrix, rounds = ml20m_shape(users=users, items=items, clicks=clicks), arguments.rounds
    steps = (3, 2) if arguments.small else (12, 3)
    recvae, peer = RecVAENetwork(items, RecVAEOptions(**sizes)), ReferenceRecVAE(matrix, **sizes)
    figures, of_recvae = compare("RecVAE", recvae, recvae_parts(peer, BATCH, **sizes), matrix, rounds, steps)
    mult_vae = MultVAENetwork(items, MultVAEOptions(hidden=(sizes["hidden"],), latent=sizes["latent"]))
    other = ReferenceMultVAE(matrix, **sizes)
    found, of_mult_vae = compare("Mult-VAE", mult_vae, mult_vae_parts(other, BATCH, **sizes), matrix, rounds, steps)
    figures += found
    if arguments.ml_1m:
        ml1m = prepare("ml-1m", source=arguments.ml_1m).train
        options, whole = TrainOptions(batch_size=BATCH, epochs=10_000), ReferenceRecVAE(ml1m)
        loop = _Loop(RecVAENetwork(ml1m.shape[1], RecVAEOptions()), Clicks(ml1m), options, 1, Hooks())
        theirs = {REFERENCE: lambda: sum(1 for _ in whole.epoch(BATCH))}
        seconds = interleaved({"ours": loop.epoch, **theirs}, rounds)
        figures.append(against("RecVAE on MovieLens-1M, epoch", seconds, REFERENCE))
    limits = {"copy_gb_per_s": harness.copy_bandwidth()}
    return {"figures": figures, "details": {"RecVAE": of_recvae, "Mult-VAE": of_mult_vae}, "ceilings": limits}
