"""Single training steps on a GPU: whether one waits for the device, and epochs too large to run whole."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu import training
from benchmarks.gpu.device import PRECISIONS, Products, Section, Setting, drawn_clicks
from benchmarks.harness import Figure, against, alone, several, sums
from benchmarks.speed.steps import Steps, mult_vae_products
from recvae.batches import Clicks, number_of_batches
from recvae.losses import multinomial_log_likelihood
from recvae.models.base import Network, Phase
from recvae.products import Precision
from recvae.training import TrainOptions

WATCHED = 4  # steps


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch ships it without types
    """Counts torch's operations, but for those that only look at memory or ask for it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the same
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not (func.is_view or func.name().startswith(("aten::empty", "aten::new_empty", "aten::detach")))
        return func(*args, **(kwargs or {}))


def waits(setting: Setting) -> Section:
    """Whether a step waits for the device, which torch can watch, and how many operations it asks of it."""
    cases: dict[str, tuple[Network, TrainOptions]] = {}
    kinds: tuple[Precision, ...] = ("float32", "bf16")
    makes: dict[str, Callable[[Setting], Network]] = {"RecVAE": training.recvae, "Mult-VAE": training.mult_vae}
    for title, make in (makes | {"Mult-DAE": training.mult_dae}).items():
        for name in kinds:
            cases[f"{title} at batch {setting.batch}, {name}"] = make(setting), training.usual(setting, name)
    options = training.large(setting, "tf32")
    cases[f"Mult-VAE at batch {setting.large_batch:,}, tf32"] = training.large_batch_mult_vae(setting), options
    figures: list[Figure] = []
    details: dict[str, Any] = {}
    for title, (network, options) in cases.items():
        steps = Steps(network, setting.resident, options)
        for phase in steps.loop.phases:
            label = f"{title}, {phase.name} step" if phase.name != "all" else f"{title}, step"
            found, details[label] = watched(label, steps, phase, setting)
            figures += found
    return figures, details


def watched(label: str, steps: Steps, phase: Phase, setting: Setting) -> Section:
    """Return the operations of one step, how many of a few steps wait for the device, and what torch says of a wait."""
    steps.begin(phase)
    taken = [next(steps.batches) for _ in range(WATCHED)]  # the pass's own wait is over before the watching begins
    for batch in taken[:2]:
        steps.step(phase, batch)
    with Counter() as counter:
        steps.step(phase, taken[0])
    waited, message = 0, ""
    if setting.device == "cuda":
        torch.cuda.synchronize()
        for batch in taken:
            torch.cuda.set_sync_debug_mode("error")
            try:
                steps.step(phase, batch)
            except RuntimeError as error:
                if "synchroniz" not in str(error):
                    raise
                waited, message = waited + 1, str(error).partition("\n")[0]
            finally:
                torch.cuda.set_sync_debug_mode("default")
            steps.network.zero_grad(set_to_none=True)
    figures = [alone(f"{label}: operations", [counter.count], "")]
    if setting.device == "cuda":
        figures.append(alone(f"{label}: steps of {WATCHED} in which the host waits", [waited], ""))
    return figures, {"operations": counter.count, "steps_that_wait": waited, "why": message}


def scale(setting: Setting) -> Section:
    """Mult-VAE of the paper's shape on far more users and items: epochs put together from steps."""
    users, items, asked = setting.scale
    matrix = drawn_clicks(users, items, asked, setting.device)
    clicks = Clicks(matrix, setting.device)
    network = training.mult_vae(setting, items)
    check_tiles(network, clicks, setting)
    n_batches = number_of_batches(users, setting.scale_batch)
    width = min(items, 1 << 16)  # the last layer's products are timed on so many items
    inner = mult_vae_products(setting.scale_batch, width, setting.hidden, setting.latent)
    what = f"Mult-VAE, epoch of {users:,} users x {items:,} items, {matrix.nnz:,} clicks, batch {setting.scale_batch:,}"
    figures: list[Figure] = []
    details: dict[str, Any] = {"clicks": matrix.nnz}
    for name in PRECISIONS:
        if setting.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        options = TrainOptions(epochs=training.ENDLESS, batch_size=setting.scale_batch, precision=name)
        steps = Steps(network, clicks, options)
        (phase,) = steps.loop.phases
        losses: list[Any] = []

        def ours(steps: Steps = steps, phase: Phase = phase, losses: list[Any] = losses) -> None:
            losses[:] = [steps.step(phase).nll]

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
        label = f"Mult-VAE of {items:,} items at batch {setting.scale_batch:,}, {name}, step"
        found, details[name]["waits"] = watched(label, steps, phase, setting)
        figures += found
        del steps, phase, ours, sides, hidden, last
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
