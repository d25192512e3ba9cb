"""RecVAE's updates by two processes with one thread each, and by one process with two threads, in turn.

The cores are the same ones, so nothing is to be gained here: the figures say what the parting of items costs. They have
the time of an update and the part of it that is spent in collectives, waiting for the other process included.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import harness
from benchmarks.harness import Figure, against, alone

ROUNDS, BATCH = 5, 500
COLLECTIVES = ("_c10d_functional::", "c10d::")
SHAPES = {
    "ML-20M's shape": {"users": harness.USERS, "items": harness.ITEMS, "clicks": harness.CLICKS},
    "500,000 items": {"users": 100_000, "items": 500_000, "clicks": 7_300_000},
}


def steps(shape: dict[str, int], sizes: dict[str, Any], number: int) -> dict[str, Any]:
    """Return the seconds of an update of each phase, and the share of collectives, in this process."""
    import torch
    import torch.distributed as dist
    from torch.profiler import ProfilerActivity, profile

    from benchmarks.speed.steps import Steps
    from data_prep import ml20m_shape
    from recvae.models.recvae import RecVAENetwork, RecVAEOptions
    from recvae.nn.batches import Clicks
    from recvae.nn.held_clicks import HeldClicks
    from recvae.training.distributed import Processes
    from recvae.training.loop import TrainOptions

    matrix, options = ml20m_shape(**shape), RecVAEOptions(**sizes)
    together = "RANK" in os.environ
    torch.set_num_threads(1 if together else 2)
    if together:
        shard = Processes.join("cpu").shard(shape["items"])
        ours = Steps(RecVAENetwork(shard, options), HeldClicks(matrix, shard), TrainOptions(batch_size=BATCH))
    else:
        ours = Steps(RecVAENetwork(shape["items"], options), Clicks(matrix), TrainOptions(batch_size=BATCH))
    found: dict[str, Any] = {}
    for phase in ours.loop.phases:
        ours.begin(phase)
        ours.step(phase)
        seconds = []
        for _ in range(number):
            if together:
                dist.barrier()
            start = time.perf_counter()
            ours.step(phase).nll.item()
            seconds.append(time.perf_counter() - start)
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            start = time.perf_counter()
            ours.step(phase).nll.item()
            whole = time.perf_counter() - start
        of_collectives = sum(
            event.self_cpu_time_total for event in profiled.key_averages() if event.key.startswith(COLLECTIVES)
        )
        found[phase.name] = {"seconds": median(seconds), "share": of_collectives / 1e6 / whole}
    return found


def run(shape: dict[str, int], sizes: dict[str, Any], number: int, ranks: int) -> dict[str, Any]:
    """Return what the first of fresh processes found, each of which takes its part of the steps."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        work = json.dumps([shape, sizes, number, str(out)])
        launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m"] if ranks > 1 else []
        command = [sys.executable, "-m", *launcher, "benchmarks.speed.processes", work]
        threads = {**os.environ, "OMP_NUM_THREADS": "1" if ranks > 1 else "2"}
        subprocess.run(command, check=True, env=threads)
        found: dict[str, Any] = json.loads(out.read_text())
        return found


def measure(arguments: Namespace) -> dict[str, Any]:
    shapes, sizes, number = SHAPES, {"hidden": 600, "latent": 200}, 10
    if arguments.small:
        shapes = {"a small shape": {"users": 1500, "items": 600, "clicks": 30_000}}
        sizes, number = {"hidden": 16, "latent": 8}, 2
    figures: list[Figure] = []
    details: dict[str, Any] = {}
    for name, shape in shapes.items():
        found: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
        for _ in range(arguments.rounds):
            for ranks, of_rounds in found.items():
                of_rounds.append(run(shape, sizes, number, ranks))
        for phase in found[1][0]:
            seconds = {ranks: [each[phase]["seconds"] for each in of_rounds] for ranks, of_rounds in found.items()}
            peer = "one process, two threads"
            what = f"{name}, {phase} update"
            figures.append(against(what, {"ours": seconds[2], peer: seconds[1]}, peer))
            shares = [100 * each[phase]["share"] for each in found[2]]
            figures.append(alone(f"{name}, {phase} update: in collectives", shares, "%"))
        details[name] = found
    return {"figures": figures, "details": details}


def main() -> None:
    shape, sizes, number, out = json.loads(sys.argv[1])
    found = steps(shape, sizes, number)
    if os.environ.get("RANK", "0") == "0":
        Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
