"""Training from mapped matrices: 5 million users x 100,000 items, and the process's memory over 200 steps."""

import re
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

from benchmarks.harness import Figure, alone, amount, measured

ROUNDS = 1
BATCH = 500


def write_matrix(folder: Path, users: int, items: int, each: int) -> None:
    """Write a training matrix of ``each`` clicks a user, on the average, piece by piece, and the rest of a dataset."""
    import numpy as np

    from data_prep.large.matrices import Matrices
    from data_prep.writing import new_manifest, seal_folder, write_items, write_users

    folder.mkdir()
    ids = [str(item) for item in range(items)]
    held_out = 100
    with Matrices(folder) as matrices:
        matrices.begin(items)
        for start in range(0, users, 50_000):
            n = min(50_000, users - start)
            draw = np.random.default_rng(start)
            rows = np.repeat(np.arange(n), each)
            columns = (items * draw.random(n * each) ** 2).astype(np.int32)
            cells = np.sort(rows * items + columns)
            cells = cells[np.concatenate(([True], cells[1:] != cells[:-1]))]
            matrices.add("train", n, cells // items, (cells % items).astype(np.int32))
        pairs = {"_in": 0, "_out": 1}
        for name, place in ((f"{part}{end}", at) for part in ("validation", "test") for end, at in pairs.items()):
            matrices.add(name, held_out, np.arange(held_out), np.full(held_out, place, np.int32))
    counts = {"train": users, "validation": held_out, "test": held_out}
    write_items(folder, ids, [""] * items, {})
    write_users(folder, ((part, map(str, range(n))) for part, n in counts.items()))
    about = {"source": {"kind": "made"}}
    seal_folder(
        folder,
        new_manifest("made", about, items=ids, users=counts, clicks=matrices.counts, dropped={}, ratings={}),
    )


def resident() -> dict[str, float]:
    """Return the process's resident memory in GB: all of it, and that of files."""
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    found = {name: int(value) / 1e6 for name, value in re.findall(r"(VmRSS|RssFile):\s+(\d+) kB", text)}
    return {"all": found["VmRSS"], "files": found["RssFile"]}


def train(folder: Path, steps: int, sizes: dict[str, Any]) -> list[dict[str, float]]:
    """Take steps of Mult-VAE from the dataset in a folder; return the resident memory after every tenth."""
    from benchmarks.speed.steps import Steps
    from data_prep import Dataset
    from recvae.models.mult import MultVAENetwork, MultVAEOptions
    from recvae.nn.batches import Clicks
    from recvae.training.loop import TrainOptions

    data = Dataset.load(folder)
    network = MultVAENetwork(data.n_items, MultVAEOptions(**sizes))
    ours = Steps(network, Clicks(data.train), TrainOptions(batch_size=BATCH))
    phase = ours.loop.phases[0]
    ours.begin(phase)
    seen = []
    for step in range(steps):
        ours.step(phase).nll.item()
        if step % 10 == 9:
            seen.append(resident())
    return seen


def measure(arguments: Namespace) -> dict[str, Any]:
    users, items, each, steps = (20_000, 3000, 20, 20) if arguments.small else (5_000_000, 100_000, 60, 200)
    sizes = {"hidden": (16,), "latent": 8} if arguments.small else {"hidden": (600,), "latent": 200}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name) / "set"
        measured(write_matrix, folder, users, items, each)
        size = (folder / "train.indices.npy").stat().st_size / 1e9
        seconds, peak, seen = measured(train, folder, steps, sizes)
    print(f"{steps} steps: {amount(seconds, 's')}, {amount(peak, 'GiB')}", flush=True)
    what = f"{users:,} users x {items:,} items"
    figures: list[Figure] = [
        alone(f"{what}, the file of columns", [size], "GB"),
        alone(f"resident memory over steps 11 to {steps}", [one["all"] for one in seen[1:]], "GB"),
        alone("that of files, libraries included", [one["files"] for one in seen[1:]], "GB"),
    ]
    return {"figures": figures, "resident_gb": seen}
