"""A catalogue of 500,000 items and 100,000 users on the CPU, with the exact softmax: steps of every phase."""

import time
from argparse import Namespace
from typing import Any

from benchmarks.harness import Figure, against, alone, measured

BATCH = 500


def train(model: str, shape: dict[str, int], steps: int, sizes: dict[str, Any]) -> dict[str, Any]:
    """Take ``steps`` steps in each phase; return the memory that the model itself needs, and a step's median time."""
    from benchmarks.speed.steps import Steps
    from data_prep import ml20m_shape
    from recvae.models.mult import MultVAENetwork, MultVAEOptions
    from recvae.models.recvae import RecVAENetwork, RecVAEOptions
    from recvae.nn.batches import Clicks
    from recvae.nn.network import Network
    from recvae.training.loop import TrainOptions

    network: Network
    if model == "RecVAE":
        network = RecVAENetwork(shape["items"], RecVAEOptions(**sizes))
    else:
        network = MultVAENetwork(shape["items"], MultVAEOptions(**sizes | {"hidden": (sizes["hidden"],)}))
    ours = Steps(network, Clicks(ml20m_shape(**shape)), TrainOptions(batch_size=BATCH, learning_rate=1e-3))
    phases = {}
    for phase in ours.loop.phases:
        ours.begin(phase)
        network.begin_phase(phase.name, 0, ours.clicks, BATCH)
        seconds = []
        ours.step(phase)  # warm-up
        for _ in range(steps):
            start = time.perf_counter()
            ours.step(phase).nll.item()
            seconds.append(time.perf_counter() - start)
        phases[phase.name] = sorted(seconds)[steps // 2]
    weights = sum(parameter.numel() for parameter in network.parameters()) * 4
    return {"own_gib": 4 * weights / 2**30, "phases": phases}  # weights, gradients and Adam's two moments


def measure(arguments: Namespace) -> dict[str, Any]:
    shape = {"users": 100_000, "items": 500_000, "clicks": 7_300_000}
    sizes, steps = {"hidden": 600, "latent": 200}, 20
    if arguments.small:
        shape, sizes, steps = {"users": 3000, "items": 70_000, "clicks": 60_000}, {"hidden": 16, "latent": 8}, 3
    figures: list[Figure] = []
    details = {}
    for model in ("RecVAE", "Mult-VAE"):
        _, peak, result = measured(train, model, shape, steps, sizes)
        own = result["own_gib"]
        floor = "its weights, gradients and Adam state"
        figures.append(
            against(f"{model}, peak memory", {"ours": [peak], floor: [own]}, floor, floor=True) | {"unit": "GiB"}
        )
        for name, seconds in result["phases"].items():
            figures.append(alone(f"{model}, {name} step" if name != "all" else f"{model}, step", [seconds]))
        details[model] = result | {"peak_gib": peak}
    return {"figures": figures, "details": details}
