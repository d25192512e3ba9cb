"""Training on a GPU, for gpu.py: batches, and epochs against the reference and against what they cannot do without."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from agreement import our_losses, their_losses
from gpu_device import PRECISIONS, WARMUP, Products, Setting, Shape, dense_rows, per, several, within
from harness import Contender, Figure, Seconds, against, alone, interleaved
from reference import Reference, ReferenceMultVAE, ReferenceRecVAE, SharedDraws

from recvae.batches import number_of_batches
from recvae.models.base import Network, Phase
from recvae.models.mult import MultDAENetwork, MultDAEOptions, MultVAENetwork, MultVAEOptions
from recvae.models.recvae import RecVAENetwork, RecVAEOptions
from recvae.products import Precision
from recvae.training import Hooks, TrainOptions, _Loop

REFERENCE = "reference"
PRODUCTS = "its products alone"
UPDATES = "its products and Adam's updates alone"
AGREEING_STEPS, BOUND = 50, 1e-3  # relative
ENDLESS = 10_000  # epochs: more than are run
Part = tuple[list[Figure], dict[str, Any]]

# --- models ------------------------------------------------------------------------------------------------------


def recvae(setting: Setting) -> RecVAENetwork:
    return RecVAENetwork(setting.items, RecVAEOptions(hidden=setting.hidden, latent=setting.latent)).to(setting.device)


def mult_vae(setting: Setting, items: int | None = None, **more: Any) -> MultVAENetwork:
    options = MultVAEOptions(hidden=(setting.hidden,), latent=setting.latent, **more)
    return MultVAENetwork(items or setting.items, options).to(setting.device)


def mult_dae(setting: Setting) -> MultDAENetwork:
    return MultDAENetwork(setting.items, MultDAEOptions(latent=setting.latent)).to(setting.device)


def large_batch_mult_vae(setting: Setting) -> MultVAENetwork:
    return mult_vae(setting, beta_cap=0.1, anneal_updates=15_000)


def usual(setting: Setting, name: Precision, **more: Any) -> TrainOptions:
    return TrainOptions(epochs=ENDLESS, batch_size=setting.batch, precision=name, **more)


def large(setting: Setting, name: Precision) -> TrainOptions:
    """The large-batch recipe."""
    return TrainOptions(
        epochs=ENDLESS, batch_size=setting.large_batch, learning_rate=0.004, adam_beta2=0.90, drop_last=True,
        precision=name,
    )  # fmt: skip


def mult_vae_products(setting: Setting, batch: int, items: int) -> tuple[Shape, ...]:
    """The products of a step after its sparse first layer, forward and backward."""
    hidden, latent = setting.hidden, setting.latent
    return tuple(
        shape
        for inputs, outputs in ((hidden, 2 * latent), (latent, hidden), (hidden, items))
        for shape in ((1, batch, inputs, outputs), (1, batch, outputs, inputs), (1, inputs, batch, outputs))
    )


def recvae_products(setting: Setting) -> dict[str, tuple[int, tuple[Shape, ...]]]:
    """The products of each kind of step, and how many passes take it."""
    batch, items, hidden, latent = setting.batch, setting.items, setting.hidden, setting.latent
    layers: tuple[Shape, ...] = ((4, batch, hidden, hidden), (2, batch, hidden, latent))
    gradients: tuple[Shape, ...] = (
        (4, batch, hidden, hidden), (4, hidden, batch, hidden), (2, batch, latent, hidden), (2, latent, batch, hidden),
    )  # fmt: skip
    scores: Shape = (1, batch, latent, items)
    return {
        "encoder": (3, (*layers, *gradients, scores, (1, batch, items, latent))),
        "decoder": (1, (scores, (1, latent, batch, items))),
        "table": (1, layers),
    }


# --- batches -----------------------------------------------------------------------------------------------------


def batches(setting: Setting) -> Part:
    """Taking users' rows and scattering them into the reused buffer, against filling that buffer with zeros."""
    figures: list[Figure] = []
    clicks = setting.resident
    details: dict[str, Any] = {}
    order = torch.randperm(setting.users, device=setting.device)
    for size in (setting.batch, setting.large_batch):
        count = max(1, min(40 if size == setting.batch else 5, setting.users // size))
        parts = [order[n * size : (n + 1) * size] for n in range(count)]
        asked = [(part, int((clicks.indptr[part + 1] - clicks.indptr[part]).sum())) for part in parts]
        buffer = torch.full((size, setting.items), torch.nan, device=setting.device)

        def build(asked: Any = asked, buffer: Any = buffer) -> None:
            for users, n_clicks in asked:
                batch = clicks.take(users, n_clicks)
                batch.dense(batch.values, out=buffer)

        build()
        rows = slice(0, min(size, 500))
        if not torch.equal(buffer[rows].cpu(), dense_rows(setting.matrix, parts[-1][rows])):
            raise SystemExit("A batch made on the device is not the matrix's rows.")
        seconds = interleaved({"ours": build, "fill": several(buffer.zero_, count)}, setting.rounds, WARMUP)
        seconds = {name: per(values, count) for name, values in seconds.items()}
        floor = "zero_ of the same buffer"
        seconds[floor] = seconds.pop("fill")
        figures.append(against(f"a batch of {size:,} made dense, float32", seconds, floor, floor=True))
        details[str(size)] = {"seconds": seconds, "buffer_gb": buffer.nbytes / 1e9}
    return figures, details


# --- epochs ------------------------------------------------------------------------------------------------------


def check_losses(
    title: str,
    make: Callable[[], Network],
    reference: Reference,
    options: Callable[[Precision], TrainOptions],
    setting: Setting,
) -> list[Figure]:
    """Compare the first losses with the reference's; return by how much those of each precision differ from them.

    The steps are at most those of the first pass where its last batch, not being full, is dropped.
    """
    usual, network = options("float32"), make()
    steps = min(AGREEING_STEPS, setting.users // usual.batch_size) if usual.drop_last else AGREEING_STEPS
    reference.load_from(network)
    reference.draws = SharedDraws(1, setting.device)
    theirs = their_losses(reference, usual.batch_size, steps)
    figures = []
    for name in PRECISIONS:
        ours = our_losses(make(), setting.resident, options(name), 1, steps)
        gap = max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))
        if name == "float32" and not gap <= BOUND:
            raise SystemExit(f"{title}: the losses of {steps} steps differ by {gap:.2g} relative.")
        what = f"{title}, {steps} steps at batch {usual.batch_size:,} in {name}: largest relative difference of a loss"
        figures.append(alone(f"{what} from the reference's in float32", [gap], ""))
    return figures


@dataclass
class Side:
    """A kind of step that a model's epoch has so many passes of: the reference's, and the products it needs."""

    passes: int
    shapes: tuple[Shape, ...]
    theirs: Callable[[], object] | None


def epoch_figures(
    title: str, make: Callable[[], Network], options: TrainOptions, sides: dict[str, Side], setting: Setting
) -> tuple[list[Figure], Seconds]:
    """Time whole epochs of ours in turn with steps of the reference, products and updates, put together to epochs."""
    name, repeats = options.precision, setting.epoch_steps
    loop = _Loop(make(), setting.resident, options, 1, Hooks())
    contenders: dict[str, Contender] = {"ours": loop.epoch}
    passes = {PRODUCTS: {kind: side.passes for kind, side in sides.items()}}
    for kind, side in sides.items():
        contenders[f"{PRODUCTS}: {kind}"] = several(Products(side.shapes, name, setting.device), repeats)
        if side.theirs is not None and name != "bf16":  # the reference offers no bfloat16
            contenders[f"{REFERENCE}: {kind}"] = within(name, several(side.theirs, repeats))
            passes.setdefault(REFERENCE, {})[kind] = side.passes
    for phase, update in updates(make(), options, setting):
        contenders[f"{UPDATES}: {phase.name}"] = several(update, repeats)
        passes.setdefault(UPDATES, {})[phase.name] = phase.passes
    measured = interleaved(contenders, setting.rounds, WARMUP)
    n_batches = number_of_batches(setting.users, options.batch_size, drop_last=options.drop_last)
    seconds: Seconds = {"ours": measured["ours"]}
    for peer, kinds in passes.items():
        parts = [
            [value / repeats * times * n_batches for value in measured[f"{peer}: {kind}"]]
            for kind, times in kinds.items()
        ]
        seconds[peer] = [sum(one) for one in zip(*parts, strict=True)]
    seconds[UPDATES] = [a + b for a, b in zip(seconds[PRODUCTS], seconds[UPDATES], strict=True)]
    what = f"{title}, epoch at batch {options.batch_size:,}, {name}"
    figures = [against(what, seconds, REFERENCE)] if REFERENCE in seconds else []
    figures += [against(what, seconds, peer, floor=True) for peer in (PRODUCTS, UPDATES)]
    return figures, seconds


def updates(network: Network, options: TrainOptions, setting: Setting) -> list[tuple[Phase, Contender]]:
    """Return the optimiser's step of every phase alone, with gradients that are there already."""
    loop = _Loop(network, setting.resident, options, 1, Hooks())
    for phase in loop.phases:
        for parameter in phase.parameters:
            parameter.grad = torch.full_like(parameter, 1e-3)
    return [(phase, loop.optimisers[phase.name].step) for phase in loop.phases]


def endless_rows(reference: Reference, batch: int) -> Iterator[Any]:
    while True:
        yield from reference.one_pass(batch)


def train_mult_vae(setting: Setting) -> Part:
    sizes: dict[str, Any] = {"hidden": setting.hidden, "latent": setting.latent, "device": setting.device}
    make, options = partial(mult_vae, setting), partial(usual, setting)
    figures = check_losses("Mult-VAE", make, ReferenceMultVAE(setting.matrix, **sizes), options, setting)
    reference = ReferenceMultVAE(setting.matrix, **sizes)
    rows = endless_rows(reference, setting.batch)
    shapes = mult_vae_products(setting, setting.batch, setting.items)
    sides = {"step": Side(1, shapes, lambda: reference.step(next(rows)))}
    details: dict[str, Any] = {}
    for name in PRECISIONS:
        found, details[name] = epoch_figures("Mult-VAE", make, options(name), sides, setting)
        figures += found
    return figures, details


def train_large_batch(setting: Setting) -> Part:
    make, options = partial(large_batch_mult_vae, setting), partial(large, setting)
    recipe = options("float32")
    reference = ReferenceMultVAE(
        setting.matrix, hidden=setting.hidden, latent=setting.latent, cap=0.1, total=15_000, device=setting.device
    )
    betas = 0.9, recipe.adam_beta2
    reference.adam = torch.optim.Adam(reference.parameters(), lr=recipe.learning_rate, betas=betas)
    figures = check_losses("Mult-VAE", make, reference, options, setting)
    del reference
    sides = {"step": Side(1, mult_vae_products(setting, setting.large_batch, setting.items), None)}
    details: dict[str, Any] = {}
    for name in PRECISIONS:
        found, seconds = epoch_figures("Mult-VAE", make, options(name), sides, setting)
        trained = setting.users - setting.users % setting.large_batch
        rates = [trained / value for value in seconds["ours"]]
        figures += [*found, alone(f"Mult-VAE at batch {setting.large_batch:,}, {name}", rates, "users/s")]
        details[name] = seconds
    return figures, details


def train_recvae(setting: Setting) -> Part:
    sizes: dict[str, Any] = {"hidden": setting.hidden, "latent": setting.latent, "device": setting.device}
    make, options = partial(recvae, setting), partial(usual, setting, learning_rate=5e-4)
    figures = check_losses("RecVAE", make, ReferenceRecVAE(setting.matrix, **sizes), options, setting)
    reference = ReferenceRecVAE(setting.matrix, **sizes)
    rows = endless_rows(reference, setting.batch)
    steps = {
        "encoder": lambda: reference.encoder_step(next(rows)),
        "decoder": lambda: reference.decoder_step(next(rows)),
    }
    sides = {kind: Side(*found, steps.get(kind)) for kind, found in recvae_products(setting).items()}
    details: dict[str, Any] = {}
    for name in PRECISIONS:
        found, details[name] = epoch_figures("RecVAE", make, options(name), sides, setting)
        fifty = [50 * value for value in details[name]["ours"]]
        figures += [*found, alone(f"RecVAE, 50 epochs (50 times that), {name}", fifty)]
    return figures, details
