"""An epoch of training, ours and the dense reference's in turn, and its share of the bare matrix products' time.

At ML-20M's shape an epoch is put together from steps of each kind, since whole ones of the reference take ten minutes;
``--whole`` runs one whole epoch of each as well. On MovieLens-1M (``--ml-1m``: its archive or folder) whole epochs are
run. Usage:

    python benchmarks/training.py --ml-1m ml-1m.zip --whole
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from harness import (
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
    options,
    product_seconds,
    record,
)
from reference import Reference, ReferenceMultVAE, ReferenceRecVAE

from data_prep import ml20m_shape, prepare
from recvae.batches import Batch, Clicks, number_of_batches
from recvae.models.base import Network, Phase
from recvae.models.mult import MultVAENetwork, MultVAEOptions
from recvae.models.recvae import RecVAENetwork, RecVAEOptions
from recvae.training import Hooks, TrainOptions, _Loop

BATCH = 500
REFERENCE = "reference"
Shapes = tuple[tuple[int, int, int, int], ...]  # products per step: how many, and m, k, n of each


@dataclass(frozen=True)
class Part:
    """A kind of step: how many passes take it, how each side does, and the products that it cannot do without."""

    name: str
    passes: int
    ours: Callable[[], object]
    theirs: Callable[[], object] | None
    products: Shapes


class Ours:
    """Our training loop, taken one step of a phase at a time."""

    def __init__(self, network: Network, clicks: Clicks) -> None:
        self.loop = _Loop(network, clicks, TrainOptions(batch_size=BATCH), 1, Hooks())
        self.network, self.clicks = network, clicks
        self.batches = {phase.name: self._endless() for phase in self.loop.phases}
        self.clean = self._in_order()
        network.begin_phase(self.loop.phases[0].name, 0, clicks, BATCH)

    def _endless(self) -> Iterator[Batch]:
        while True:
            yield from self.clicks.shuffled(BATCH, self.loop.noise)

    def _in_order(self) -> Iterator[Batch]:
        while True:
            yield from self.clicks.in_order(BATCH)

    def begin(self, phase: Phase) -> None:
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)
        for parameter in phase.parameters:
            parameter.requires_grad_(True)

    def step(self, phase: Phase) -> None:
        self.loop._update(phase, next(self.batches[phase.name]))

    def table_step(self) -> None:
        """One batch of the table of old posteriors."""
        import torch

        network: Any = self.network
        batch = next(self.clean)
        with torch.no_grad():
            network._old[batch.users] = torch.cat(network.encoder(batch, batch.normalised()), dim=1)


def endless_rows(reference: Reference) -> Iterator[Any]:
    while True:
        yield from reference.one_pass(BATCH)


def recvae_parts(matrix: Any, hidden: int, latent: int) -> list[Part]:
    n_items = matrix.shape[1]
    ours = Ours(RecVAENetwork(n_items, RecVAEOptions(hidden=hidden, latent=latent)), Clicks(matrix))
    theirs = ReferenceRecVAE(matrix, hidden=hidden, latent=latent)
    rows = endless_rows(theirs)
    encoder, decoder = ours.loop.phases
    layers: Shapes = ((4, BATCH, hidden, hidden), (2, BATCH, hidden, latent))
    gradients: Shapes = (
        (4, BATCH, hidden, hidden), (4, hidden, BATCH, hidden),
        (2, BATCH, latent, hidden), (2, latent, BATCH, hidden),
    )  # fmt: skip
    scores: Shapes = ((1, BATCH, latent, n_items),)

    def ours_in(phase: Phase) -> None:
        ours.begin(phase)
        ours.step(phase)

    return [
        Part(
            "encoder step", 3, partial(ours_in, encoder), lambda: theirs.encoder_step(next(rows)),
            (*layers, *gradients, *scores, (1, BATCH, n_items, latent)),
        ),
        Part(
            "decoder step", 1, partial(ours_in, decoder), lambda: theirs.decoder_step(next(rows)),
            (*scores, (1, latent, BATCH, n_items)),
        ),
        Part("table of old posteriors, a batch", 1, ours.table_step, None, layers),
    ]  # fmt: skip


def mult_vae_parts(matrix: Any, hidden: int, latent: int) -> list[Part]:
    n_items = matrix.shape[1]
    ours = Ours(MultVAENetwork(n_items, MultVAEOptions(hidden=(hidden,), latent=latent)), Clicks(matrix))
    theirs = ReferenceMultVAE(matrix, hidden=hidden, latent=latent)
    rows = endless_rows(theirs)
    (phase,) = ours.loop.phases
    products: Shapes = tuple(
        shape
        for inputs, outputs in ((hidden, 2 * latent), (latent, hidden), (hidden, n_items))
        for shape in ((1, BATCH, inputs, outputs), (1, BATCH, outputs, inputs), (1, inputs, BATCH, outputs))
    )
    return [Part("step", 1, partial(ours.step, phase), lambda: theirs.step(next(rows)), products)]


def several(step: Callable[[], object], steps: int) -> Contender:
    def run() -> None:
        for _ in range(steps):
            step()

    return run


def products_of(parts: list[Part], rounds: int) -> dict[str, float]:
    """Return the seconds of an epoch's products, per batch of users and kernel."""
    shapes = {shape[1:] for part in parts for shape in part.products}
    measured = {shape: product_seconds(*shape, rounds=rounds) for shape in sorted(shapes)}
    return {
        kernel: sum(part.passes * n * measured[shape][kernel] for part in parts for n, *dims in part.products
                    for shape in (tuple(dims),))
        for kernel in next(iter(measured.values()))
    }  # fmt: skip


def compare(name: str, parts: list[Part], n_batches: int, rounds: int, steps: tuple[int, int]) -> dict[str, Any]:
    """Time steps of every kind, ours and the reference's in turn, and put epochs together from them."""
    contenders: dict[str, Contender] = {}
    for part in parts:
        contenders[f"ours: {part.name}"] = several(part.ours, steps[0])
        if part.theirs is not None:
            contenders[f"{REFERENCE}: {part.name}"] = several(part.theirs, steps[1])
    seconds = interleaved(contenders, rounds)
    epochs: Seconds = {}
    for side, n in (("ours", steps[0]), (REFERENCE, steps[1])):
        rows = [[x / n * part.passes * n_batches for x in seconds[f"{side}: {part.name}"]] for part in parts
                if f"{side}: {part.name}" in seconds]  # fmt: skip
        epochs[side] = [sum(one) for one in zip(*rows, strict=True)]
    products = {kernel: value * n_batches for kernel, value in products_of(parts, rounds).items()}
    figures = [against(f"{name}, epoch", epochs, REFERENCE)]
    for kernel in ("torch.mm", "best_product"):
        label = "its products alone, " + ("by torch.mm" if kernel == "torch.mm" else "by the fastest kernel")
        epochs[label] = [products[kernel]] * rounds
        figures.append(against(f"{name}, epoch", epochs, label, floor=True))
    per_step = {part: value / steps[0 if part.startswith("ours") else 1] for part, value in medians(seconds).items()}
    figures += [alone(f"{name}, {part}", [value]) for part, value in per_step.items() if part.startswith("ours")]
    return {"figures": figures, "step_seconds": per_step, "epoch_seconds": epochs, "product_seconds": products}


def whole_epochs(name: str, network: Network, reference: Reference, matrix: Any, rounds: int, warmup: int) -> Figure:
    """Time whole epochs of both, in turn."""
    loop = _Loop(network, Clicks(matrix), TrainOptions(batch_size=BATCH, epochs=10_000), 1, Hooks())
    contenders: dict[str, Contender] = {
        "ours": loop.epoch,
        REFERENCE: lambda: sum(1 for _ in reference.epoch(BATCH)),
    }
    return against(name, interleaved(contenders, rounds, warmup), REFERENCE)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--ml-1m", type=Path, help="MovieLens-1M's archive or folder; left out where not given")
    parser.add_argument("--whole", action="store_true", help="also one whole epoch of each at ML-20M's shape")
    arguments = parser.parse_args()
    small = arguments.small
    shape = {"users": 3000, "items": 900, "clicks": 90_000} if small else {}
    matrix = ml20m_shape(**shape) if small else ml20m_shape(users=USERS, items=ITEMS, clicks=CLICKS)
    hidden, latent = (32, 16) if small else (600, 200)
    n_users, n_items = matrix.shape
    n_batches = number_of_batches(n_users, BATCH)
    steps = (3, 2) if small else (12, 3)
    figures: list[Figure] = []
    details: dict[str, Any] = {}
    for name, make in (("RecVAE", recvae_parts), ("Mult-VAE", mult_vae_parts)):
        result = compare(name, make(matrix, hidden, latent), n_batches, arguments.rounds, steps)
        figures += result.pop("figures")
        details[name] = result
    if arguments.whole:
        sizes = {"hidden": hidden, "latent": latent}
        recvae = RecVAENetwork(n_items, RecVAEOptions(**sizes)), ReferenceRecVAE(matrix, **sizes)
        figures.append(whole_epochs("RecVAE, one whole epoch", *recvae, matrix, 1, 0))
        mult = (
            MultVAENetwork(n_items, MultVAEOptions(hidden=(hidden,), latent=latent)),
            ReferenceMultVAE(matrix, **sizes),
        )
        figures.append(whole_epochs("Mult-VAE, one whole epoch", *mult, matrix, 1, 0))
    if arguments.ml_1m:
        ml1m = prepare("ml-1m", source=arguments.ml_1m).train
        recvae = RecVAENetwork(ml1m.shape[1], RecVAEOptions()), ReferenceRecVAE(ml1m)
        figures.append(whole_epochs("RecVAE on MovieLens-1M, epoch", *recvae, ml1m, arguments.rounds, 1))
    results = {
        "title": "Training",
        "about": f"Epochs over {n_users:,} users, {n_items:,} items and {matrix.nnz:,} clicks, hidden {hidden}, latent"
        f" {latent}, batches of {BATCH}, float32, put together from steps of each kind. Losses are equal (see above)."
        " The products alone are the dense matrix products that the algorithm needs, at their shapes: the sparse first"
        " layer, the softmax, Adam and everything else come on top of them.",
        "figures": figures,
        "details": details,
        "ceilings": {"copy_gb_per_s": copy_bandwidth()},
    }
    record("training", results, arguments)


if __name__ == "__main__":
    main()
