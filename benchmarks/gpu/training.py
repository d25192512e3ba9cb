"""Training on a GPU: epochs against the reference and against work that no epoch can do without."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.gpu.device import PRECISIONS, WARMUP, Products, Section, Setting, within
from benchmarks.harness import Contender, Figure, Seconds, against, alone, several, sums
from benchmarks.speed.agreement import differences
from benchmarks.speed.reference import Reference, ReferenceMultVAE, ReferenceRecVAE
from benchmarks.speed.steps import Part, Steps, mult_vae_parts, mult_vae_products, recvae_parts
from data_prep import ml20m_shape
from recvae.models.mult import MultVAENetwork, MultVAEOptions
from recvae.models.recvae import RecVAENetwork, RecVAEOptions
from recvae.nn.batches import Clicks, number_of_batches
from recvae.nn.kernels import Precision
from recvae.nn.network import Network
from recvae.training.loop import Hooks, TrainOptions, _Loop

REFERENCE, PRODUCTS, UPDATES = "reference", "its products alone", "its products and Adam's updates alone"
AGREEING_STEPS, BOUND = 50, 1e-3  # relative
ENDLESS = 10_000  # epochs: more than are run


def recvae(setting: Setting) -> RecVAENetwork:
    return RecVAENetwork(setting.items, RecVAEOptions(hidden=setting.hidden, latent=setting.latent)).to(setting.device)


def mult_vae(setting: Setting, items: int | None = None, **more: Any) -> MultVAENetwork:
    options = MultVAEOptions(hidden=(setting.hidden,), latent=setting.latent, **more)
    return MultVAENetwork(items or setting.items, options).to(setting.device)


def usual(batch_size: int, name: Precision, **more: Any) -> TrainOptions:
    return TrainOptions(epochs=ENDLESS, batch_size=batch_size, precision=name, **more)


Make = Callable[[], Network]
Options = Callable[[Precision], TrainOptions]
More = Callable[[Precision, list[float]], list[Figure]]


def check_losses(title: str, make: Make, reference: Reference, options: Options, setting: Setting) -> list[Figure]:
    """Compare the first losses with the reference's; return by how much those of each precision differ from them."""
    plain = options("float32")
    most = setting.users // plain.batch_size if plain.drop_last else AGREEING_STEPS  # the reference drops no last batch
    steps = min(AGREEING_STEPS, most)
    gaps = differences(make, reference, setting.resident, [options(name) for name in PRECISIONS], steps)
    figures = []
    for name, gap in zip(PRECISIONS, gaps, strict=True):
        if name == "float32" and not gap <= BOUND:
            raise SystemExit(f"{title}: the losses of {steps} steps differ by {gap:.2g} relative.")
        what = f"{title}, {steps} steps at batch {plain.batch_size:,} in {name}: largest relative difference of a loss"
        figures.append(alone(f"{what} from the reference's in float32", [gap], ""))
    return figures


def epochs(title: str, make: Make, options: TrainOptions, parts: list[Part], setting: Setting) -> tuple[Any, Seconds]:
    """Time whole epochs of ours in turn with steps of the reference, products and updates, put together to epochs.

    Returns figures and seconds. The reference has no bfloat16.
    """
    name, repeats, device = options.precision, setting.epoch_steps, setting.device
    loop, idle = (_Loop(make(), setting.resident, options, 1, Hooks()) for _ in range(2))
    share = number_of_batches(setting.users, options.batch_size, drop_last=options.drop_last) / repeats
    theirs = [(part.theirs, part.passes) for part in parts if part.theirs is not None and name != "bf16"]
    for parameter in idle.network.parameters():  # for Adam's updates alone: gradients that are there already
        parameter.grad = torch.full_like(parameter, 1e-3)
    steps = [(idle.optimisers[phase.name].step, phase.passes) for phase in idle.phases]
    seconds = sums(
        {
            "ours": [(loop.epoch, 1.0)],
            REFERENCE: [(within(name, several(step, repeats)), share * passes) for step, passes in theirs],
            PRODUCTS: [(several(Products(p.products, name, device), repeats), share * p.passes) for p in parts],
            UPDATES: [(several(step, repeats), share * passes) for step, passes in steps],
        },
        setting.rounds,
        WARMUP,
    )
    seconds[UPDATES] = [a + b for a, b in zip(seconds[PRODUCTS], seconds[UPDATES], strict=True)]
    what = f"{title}, epoch at batch {options.batch_size:,}, {name}"
    figures = [against(what, seconds, REFERENCE)] if theirs else []
    return [*figures, *(against(what, seconds, peer, floor=True) for peer in (PRODUCTS, UPDATES))], seconds


def train(
    title: str, make: Make, options: Options, reference: Reference, parts: list[Part], setting: Setting, more: More
) -> Section:
    """Check the losses, then time epochs in each precision; ``more`` makes a figure of ours beside."""
    figures, details = check_losses(title, make, reference, options, setting), dict[str, Any]()
    for name in PRECISIONS:
        found, details[name] = epochs(title, make, options(name), parts, setting)
        figures += [*found, *more(name, details[name]["ours"])]
    return figures, details


def train_mult_vae(setting: Setting) -> Section:
    reference = ReferenceMultVAE(setting.matrix, **setting.sizes, device=setting.device)
    parts = mult_vae_parts(reference, setting.batch, **setting.sizes)
    make, options = partial(mult_vae, setting), partial(usual, setting.batch)
    return train("Mult-VAE", make, options, reference, parts, setting, lambda name, seconds: [])


def train_large_batch(setting: Setting) -> Section:
    make, size = partial(mult_vae, setting, beta_cap=0.1, anneal_updates=15_000), setting.large_batch
    options = partial(usual, size, learning_rate=0.004, adam_beta2=0.90, drop_last=True)  # the large-batch recipe
    recipe = options("float32")
    reference = ReferenceMultVAE(setting.matrix, **setting.sizes, device=setting.device)
    reference.cap, reference.total = 0.1, 15_000
    betas = 0.9, recipe.adam_beta2
    reference.adam = torch.optim.Adam(reference.parameters(), lr=recipe.learning_rate, betas=betas)
    (step,) = mult_vae_parts(reference, size, **setting.sizes)
    parts = [Part(step.name, step.passes, step.products)]  # without the reference: its dense batches take too long

    def more(name: Precision, seconds: list[float]) -> list[Figure]:
        rates = [(setting.users - setting.users % size) / value for value in seconds]
        return [alone(f"Mult-VAE at batch {size:,}, {name}", rates, "users/s")]

    return train("Mult-VAE", make, options, reference, parts, setting, more)


def train_recvae(setting: Setting) -> Section:
    reference = ReferenceRecVAE(setting.matrix, **setting.sizes, device=setting.device)
    parts = recvae_parts(reference, setting.batch, **setting.sizes)
    make, options = partial(recvae, setting), partial(usual, setting.batch, learning_rate=5e-4)

    def more(name: Precision, seconds: list[float]) -> list[Figure]:
        return [alone(f"RecVAE, 50 epochs (50 times that), {name}", [50 * value for value in seconds])]

    return train("RecVAE", make, options, reference, parts, setting, more)


def scale(setting: Setting) -> Section:
    """Mult-VAE of the paper's shape on far more users and items: epochs put together from single steps."""
    users, items, number = setting.scale
    clicks = Clicks(ml20m_shape(users=users, items=items, clicks=number), setting.device)
    network, on_cuda = mult_vae(setting, items), setting.device == "cuda"
    share = number_of_batches(users, setting.scale_batch) / setting.scale_steps
    width = min(items, 1 << 16)  # the last layer's products are timed on so many items
    inner = mult_vae_products(setting.scale_batch, width, **setting.sizes)
    what = f"Mult-VAE, epoch of {users:,} users x {items:,} items, {number:,} clicks, batch {setting.scale_batch:,}"
    figures: list[Figure] = []
    details: dict[str, Any] = {}
    for name in PRECISIONS:
        if on_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        steps = Steps(network, clicks, usual(setting.scale_batch, name))
        runs: list[Contender] = [partial(steps.step, steps.loop.phases[0])]
        runs += [Products(part, name, setting.device) for part in (inner[:-3], inner[-3:])]
        ours, hidden, last = (several(run, setting.scale_steps) for run in runs)
        sides = {"ours": [(ours, share)], PRODUCTS: [(hidden, share), (last, share * items / width)]}
        details[name] = sums(sides, setting.rounds)
        if not steps.step(steps.loop.phases[0]).nll.isfinite().item():
            raise SystemExit(f"{what}: the loss is not finite in {name}.")
        figures.append(against(f"{what}, {name}", details[name], PRODUCTS, floor=True))
        if on_cuda:
            peak = torch.cuda.max_memory_allocated() / 2**30
            figures.append(alone(f"the same, peak memory of the device, {name}", [peak], "GiB"))
        del steps, runs, ours, hidden, last, sides
    return figures, details
