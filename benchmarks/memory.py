"""Peak memory of preparing and of training at ML-20M's shape, on the CPU: 20 million ratings, 10 million clicks.

Each step runs in a process of its own, whose largest resident set the operating system reports. Usage:

    python benchmarks/memory.py [--out benchmarks/results/memory.json]
"""

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recvae.files import write_json
from recvae.report import environment

USERS, ITEMS, CLICKS = 136_677, 20_108, 9_990_682


def write_ratings(folder: Path) -> None:
    """Write a CSV with ML-20M's users, items and ratings in its form; half of the ratings are 4 or more."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.csv

    from data_prep import ml20m_shape

    clicks = ml20m_shape(users=USERS, items=ITEMS, clicks=2 * CLICKS)
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(USERS), np.diff(clicks.indptr)) + 1
    high = rng.random(clicks.nnz) < 0.5
    ratings = np.where(high, rng.choice([4.0, 4.5, 5.0], clicks.nnz), rng.choice([0.5, 2.0, 3.0, 3.5], clicks.nnz))
    columns = {"userId": users, "movieId": clicks.indices + 1, "rating": ratings}
    pa.csv.write_csv(pa.table(columns), folder / "ratings.csv")


def prepare(folder: Path) -> None:
    """From the CSV to a dataset folder, as the command line does it."""
    from data_prep import prepare

    options: dict[str, Any] = {"user_column": "userId", "item_column": "movieId", "rating_column": "rating"}
    prepare(folder / "ratings.csv", **options, min_rating=4, held_out_users=10_000).save(folder / "dataset")


def train(folder: Path, model: str) -> None:
    """One epoch with the paper's settings, validated, into a run folder with its resumable state."""
    from data_prep import Dataset
    from eval import validator
    from recvae.config import resolve
    from recvae.registry import entry

    dataset = Dataset.load(folder / "dataset")
    config = resolve(model, settings=["train.epochs=1"])
    validation = validator(dataset.validation_in, dataset.validation_out)
    recommender: Any = entry(model).recommender().from_config(config, "cpu")
    recommender.fit(dataset.train, validation=validation, folder=folder / model)


def measured(step: Callable[..., None], *arguments: Any) -> dict[str, float]:
    """Run a step in a fresh process and return its seconds and its peak resident memory in GiB."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    start = time.perf_counter()
    process = context.Process(target=_report, args=(send, step, arguments))
    process.start()
    send.close()
    try:
        peak = receive.recv()
    except EOFError:
        raise SystemExit(f"{step.__name__} failed") from None
    process.join()
    return {"seconds": round(time.perf_counter() - start, 1), "peak_gib": round(peak, 3)}


def _report(send: Any, step: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    step(*arguments)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, kibibytes elsewhere
    send.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measured(write_ratings, folder)
        steps = [("prepare 20 million ratings", prepare, (folder,))]
        steps += [(f"train {model}, 1 epoch", train, (folder, model)) for model in ("recvae", "mult-vae", "mult-dae")]
        for label, step, more in steps:
            results[label] = measured(step, *more)
            print(f"{label:32} {results[label]['peak_gib']:6.2f} GiB {results[label]['seconds']:8.1f} s", flush=True)
    if arguments.out:
        write_json(arguments.out, {"results": results, "environment": environment()})


if __name__ == "__main__":
    main()
