"""Mult-VAE on a million users and half a million items on a GPU: epochs put together from single steps."""

from typing import Any

import torch

from benchmarks.gpu import training
from benchmarks.gpu.device import PRECISIONS, Products, Section, Setting
from benchmarks.harness import Figure, against, alone, several, sums
from benchmarks.speed.steps import Steps, mult_vae_products
from data_prep import ml20m_shape
from recvae.batches import Clicks, number_of_batches
from recvae.losses import multinomial_log_likelihood
from recvae.models.base import Network
from recvae.training import TrainOptions


def scale(setting: Setting) -> Section:
    """Mult-VAE of the paper's shape on far more users and items: epochs put together from steps."""
    users, items, number = setting.scale
    clicks = Clicks(ml20m_shape(users=users, items=items, clicks=number), setting.device)
    network = training.mult_vae(setting, items)
    check_tiles(network, clicks, setting)
    n_batches = number_of_batches(users, setting.scale_batch)
    width = min(items, 1 << 16)  # the last layer's products are timed on so many items
    inner = mult_vae_products(setting.scale_batch, width, setting.hidden, setting.latent)
    what = f"Mult-VAE, epoch of {users:,} users x {items:,} items, {number:,} clicks, batch {setting.scale_batch:,}"
    figures: list[Figure] = []
    details: dict[str, Any] = {}
    for name in PRECISIONS:
        if setting.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        options = TrainOptions(epochs=training.ENDLESS, batch_size=setting.scale_batch, precision=name)
        steps = Steps(network, clicks, options)
        losses: list[Any] = []

        def ours(steps: Steps = steps, losses: list[Any] = losses) -> None:
            losses[:] = [steps.step(steps.loop.phases[0]).nll]

        products = (Products(part, name, setting.device) for part in (inner[:-3], inner[-3:]))
        hidden, last = (several(run, setting.scale_steps) for run in products)
        share = n_batches / setting.scale_steps
        sides = {
            "ours": [(several(ours, setting.scale_steps), share)],
            training.PRODUCTS: [(hidden, share), (last, share * items / width)],
        }
        seconds = sums(sides, setting.rounds)
        if not losses[0].isfinite().item():
            raise SystemExit(f"{what}: the loss is not finite in {name}.")
        figures.append(against(f"{what}, {name}", seconds, training.PRODUCTS, floor=True))
        details[name] = {"seconds": seconds, "nll": losses[0].item()}
        if setting.device == "cuda":
            peak = torch.cuda.max_memory_allocated() / 2**30
            figures.append(alone(f"the same, peak memory of the device, {name}", [peak], "GiB"))
        del steps, ours, sides, hidden, last
    return figures, details


@torch.no_grad()
def check_tiles(network: Network, clicks: Clicks, setting: Setting) -> None:
    """Compare the likelihood of a whole batch, made tile by tile, with a dense log-softmax of some of its users."""
    batch = next(clicks.in_order(setting.scale_batch))
    code = network.code(batch)
    layer = network.output
    ours = multinomial_log_likelihood(code, layer.weight, layer.bias, batch)[:64].double()
    logits = code[:64].double() @ layer.weight.double().T + layer.bias.double()
    few = clicks.take(batch.users[:64], int(batch.lengths[:64].sum()))
    theirs = (logits.log_softmax(1) * few.dense(few.values).double()).sum(1)
    gap = ((ours - theirs).abs() / theirs.abs().clamp(min=1)).max().item()
    if not gap <= 1e-4:
        raise SystemExit(f"The likelihood over tiles of items is off by {gap:.2g} relative.")
