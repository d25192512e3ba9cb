"""Peak memory of preparing and of training at ML-20M's shape, each step in a process of its own."""

import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

from benchmarks.harness import CLICKS, ITEMS, USERS, Seconds, alone, amount, measured
from benchmarks.speed.preparing import prepare, write_ratings

ROUNDS = 1


def train(dataset: Path, run: Path, model: str) -> None:
    """One epoch with the paper's settings, validated, into a run folder with its resumable state."""
    from data_prep import Dataset
    from eval import validator
    from recvae.config import resolve
    from recvae.recommender import build

    data = Dataset.load(dataset)
    config = resolve(model, settings=["train.epochs=1"])
    recommender: Any = build(config, "cpu")
    recommender.fit(data.train, validation=validator(data.validation_in, data.validation_out), folder=run)


def measure(arguments: Namespace) -> dict[str, Any]:
    users, items, ratings = (2000, 500, 80_000) if arguments.small else (USERS, ITEMS, 2 * CLICKS)
    held_out_users = 200 if arguments.small else 10_000
    peaks: Seconds = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measured(write_ratings, folder, users, items, ratings)
        for number in range(arguments.rounds):
            dataset = folder / f"dataset-{number}"
            steps: dict[str, tuple[Any, ...]] = {
                "preparing a dataset from CSV": (prepare, folder / "ratings.csv", dataset, held_out_users)
            }
            for model in ("recvae", "mult-vae", "mult-dae"):
                steps[f"training {model}, one epoch"] = (train, dataset, folder / f"{model}-{number}", model)
            for label, (step, *more) in steps.items():
                seconds, peak, _ = measured(step, *more)
                peaks.setdefault(label, []).append(peak)
                print(f"{label}: {amount(peak, 'GiB')}, {amount(seconds, 's')}", flush=True)
    return {"figures": [alone(label, values, "GiB") for label, values in peaks.items()]}
