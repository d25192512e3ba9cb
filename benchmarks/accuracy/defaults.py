"""The recommended model at the defaults that follow the data, against baselines: the README's recipe for your own data.

    python -m benchmarks.accuracy.defaults DATA --seeds 98765 1 2 --record

DATA has ml-100k/u.data, citeulike-a/clicks.csv.gz and lastfm-2k/listens.csv.gz. For each of them and each seed of the
split, the models are trained as ``recvae train`` trains them without any setting; baselines also with the settings that
are shipped for the data. The record is kept as it goes, and what it has is not measured again.
"""

import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy.rows import METRIC, SEEDS
from benchmarks.accuracy.tables import defaults
from benchmarks.harness import RESULTS, parser, write_record
from data_prep import Dataset, prepare
from recvae.bench import measure
from recvae.config import resolve, shipped_for
from recvae.defaults import Size, recommended
from recvae.files import read_json, write_json

BASELINES = ("ease", "edlae", "implicit-als")
SOURCES: dict[str, dict[str, Any]] = {  # the arguments of data_prep.prepare, with the place of the data
    "ml-100k": {"name_or_file": "ml-100k", "source": ""},
    "lastfm-2k": {"name_or_file": "listens.csv.gz", "user_column": "user", "item_column": "artist"},
    "citeulike-a": {"name_or_file": "clicks.csv.gz", "user_column": "user", "item_column": "article"},
}


def split_of(folder: Path, name: str, seed: int) -> Dataset:
    """Return a data set, prepared with a seed of the split as ``recvae prepare`` does."""
    how = dict(SOURCES[name])
    where = "source" if "source" in how else "name_or_file"
    return prepare(**how | {where: folder / name / how[where]}, seed=seed)


def contests(data: Dataset) -> list[tuple[str, str | None]]:
    """Return the models with a shipped configuration's name, or None for the defaults; the recommended one first."""
    pairs: list[tuple[str, str | None]] = [(recommended(Size.of_training(data.manifest)), None)]
    for model in BASELINES:
        known = shipped_for(data.manifest, model)
        pairs += [(model, None)] + ([(model, known)] if known else [])
    return pairs


def figures(data: Dataset, model: str, config: str | None) -> dict[str, Any]:
    """Train one model and return its scores, both of the epoch that validates best, and how it was trained."""
    began = time.process_time()
    trained, result = measure(resolve(model, config), data, METRIC, metric=METRIC, device="cpu")
    test = result.evaluation.metrics[METRIC]
    return {
        "validation": round(trained.metrics["validation"], 5),
        "test": round(test.mean, 5),
        "se": round(test.se, 5),
        "best_epoch": trained.best_epoch,
        "train_seconds": result.train_seconds,
        "cpu_seconds": round(time.process_time() - began, 1),  # of all, which other work on the machine leaves as it is
        "config": result.config,
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("data", type=Path)
    options.add_argument("--seeds", type=int, nargs="+", default=SEEDS[:1])
    options.add_argument("--only", nargs="+", default=list(SOURCES), choices=list(SOURCES))
    arguments = options.parse_args()
    torch.set_num_threads(1)
    where = RESULTS / "defaults.json" if arguments.record else arguments.out
    found: dict[str, Any] = {"metric": METRIC, "rows": {}}
    if where is not None and where.is_file():
        found = read_json(where)
    for name in arguments.only:
        for seed in arguments.seeds:
            data = split_of(arguments.data, name, seed)
            for model, config in contests(data):
                key = f"{name} {seed} {config or model}"
                if key in found["rows"]:
                    continue
                row = found["rows"][key] = figures(data, model, config)
                if where is not None:
                    write_json(where, found)
                print(f"{key:<40} {row['validation']:.4f} {row['test']:.4f} ±{row['se']:.4f} {row['cpu_seconds']} s")
    print("", *defaults(found), sep="\n")
    write_record("defaults", found, arguments)


if __name__ == "__main__":
    main()
