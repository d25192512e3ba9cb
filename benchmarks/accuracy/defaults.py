"""The recommended model at the defaults that follow the data, against baselines: the README's recipe for your own data.

    python -m benchmarks.accuracy.defaults DATA --seeds 98765 1 2 --record

DATA has ml-100k/u.data, citeulike-a/clicks.csv.gz and lastfm-2k/listens.csv.gz. For each of them and each seed of the
split, the models are trained as ``recvae train`` trains them without any setting; baselines also with the settings that
are shipped for the data. The record is kept as it goes, and what it has is not measured again.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy.rows import METRIC, SEEDS
from benchmarks.accuracy.tables import defaults
from benchmarks.harness import RESULTS, parser, write_record
from data_prep import Dataset, prepare
from recvae.config import RunConfig, resolve, shipped_for
from recvae.defaults import Size, recommended
from recvae.experiments.measure import measure
from recvae.files import read_json, write_json

BASELINES = ("ease", "edlae", "implicit-als")
SOURCES: dict[str, Callable[[Path], dict[str, Any]]] = {  # the arguments of data_prep.prepare, by a data set's folder
    "ml-100k": lambda at: {"name_or_file": "ml-100k", "source": at},
    "lastfm-2k": lambda at: {"name_or_file": at / "listens.csv.gz", "user_column": "user", "item_column": "artist"},
    "citeulike-a": lambda at: {"name_or_file": at / "clicks.csv.gz", "user_column": "user", "item_column": "article"},
}


def contests(data: Dataset) -> dict[str, RunConfig]:
    """Return the recommended model at its defaults, and the baselines at theirs and at what is shipped for the data."""
    found = {model: resolve(model) for model in (recommended(Size.of_training(data.manifest)), *BASELINES)}
    shipped = (shipped_for(data.manifest, model) for model in BASELINES)
    return found | {name: resolve(config=name) for name in shipped if name}


def figures(data: Dataset, config: RunConfig) -> dict[str, Any]:
    """Train one model and return its scores, both of the epoch that validates best, and how it was trained."""
    began = time.process_time()
    trained, result = measure(config, data, METRIC, metric=METRIC, device="cpu")
    test, seconds = result.evaluation.metrics[METRIC], time.process_time() - began  # of all, whatever else is at work
    scores = {"validation": trained.metrics["validation"], "test": test.mean, "se": test.se}
    about = {"best_epoch": trained.best_epoch, "train_seconds": result.train_seconds, "cpu_seconds": round(seconds, 1)}
    return {**{name: round(score, 5) for name, score in scores.items()}, **about, "config": result.config}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("data", type=Path)
    options.add_argument("--seeds", type=int, nargs="+", default=SEEDS[:1])
    options.add_argument("--only", nargs="+", default=list(SOURCES), choices=list(SOURCES))
    arguments = options.parse_args()
    torch.set_num_threads(1)
    where = RESULTS / "defaults.json" if arguments.record else arguments.out
    found: Any = read_json(where) if where is not None and where.is_file() else {"metric": METRIC, "rows": {}}
    for name in arguments.only:
        for seed in arguments.seeds:
            data = prepare(**SOURCES[name](arguments.data / name), seed=seed)
            for title, config in contests(data).items():
                key = f"{name} {seed} {title}"
                if key in found["rows"]:
                    continue
                row = found["rows"][key] = figures(data, config)
                if where is not None:
                    write_json(where, found)
                print(f"{key:<40} {row['validation']:.4f} {row['test']:.4f} ±{row['se']:.4f} {row['cpu_seconds']} s")
    print("", *defaults(found), sep="\n")
    write_record("defaults", found, arguments)


if __name__ == "__main__":
    main()
