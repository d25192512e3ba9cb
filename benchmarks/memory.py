"""Peak memory of preparing and of training at ML-20M's shape, on the CPU: 20 million ratings, 10 million clicks.

Each step runs in a process of its own, whose largest resident set the operating system reports. Usage:

    python benchmarks/memory.py
"""

import tempfile
from pathlib import Path
from typing import Any

from harness import CLICKS, ITEMS, USERS, alone, amount, measured, options, record
from ratings import COLUMNS, write_ratings


def prepare(ratings: Path, dataset: Path, held_out_users: int) -> None:
    """From the CSV to a dataset folder, as the command line does it."""
    from data_prep import prepare

    columns: dict[str, Any] = dict(COLUMNS)
    prepare(ratings, **columns, min_rating=4, held_out_users=held_out_users).save(dataset)


def train(dataset: Path, run: Path, model: str) -> None:
    """One epoch with the paper's settings, validated, into a run folder with its resumable state."""
    from data_prep import Dataset
    from eval import validator
    from recvae.config import resolve
    from recvae.registry import entry

    data = Dataset.load(dataset)
    config = resolve(model, settings=["train.epochs=1"])
    recommender: Any = entry(model).recommender().from_config(config, "cpu")
    recommender.fit(data.train, validation=validator(data.validation_in, data.validation_out), folder=run)


def main() -> None:
    arguments = options(__doc__, rounds=1).parse_args()
    users, items, ratings = (2000, 500, 80_000) if arguments.small else (USERS, ITEMS, 2 * CLICKS)
    held_out_users = 200 if arguments.small else 10_000
    peaks: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measured(write_ratings, folder, users, items, ratings)
        for number in range(arguments.rounds):
            dataset = folder / f"dataset-{number}"
            steps: list[tuple[Any, ...]] = [
                ("prepare", prepare, folder / "ratings.csv", dataset, held_out_users),
                *(
                    (model, train, dataset, folder / f"{model}-{number}", model)
                    for model in ("recvae", "mult-vae", "mult-dae")
                ),
            ]
            for label, step, *more in steps:
                report = measured(step, *more)
                peaks.setdefault(label, []).append(report["peak_gib"])
                print(f"{label:10} {amount(report['peak_gib'], 'GiB')}, {amount(report['seconds'], 's')}", flush=True)
    figures = [alone("preparing a dataset from CSV", peaks.pop("prepare"), "GiB")]
    figures += [alone(f"training {model}, one epoch", values, "GiB") for model, values in peaks.items()]
    results = {
        "title": "Peak memory",
        "about": f"The largest resident set of a process that does one step: {users:,} users, {items:,} items,"
        f" {ratings:,} ratings of which half are clicks, batch 500 and the papers' widths. The epoch is validated on"
        f" {held_out_users:,} users and saved with its resumable state.",
        "figures": figures,
    }
    record("memory", results, arguments)


if __name__ == "__main__":
    main()
