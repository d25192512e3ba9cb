"""The recommended model at the defaults that follow the data, against baselines: the recipe in README for own data.

    python benchmarks/defaults.py DATA --seeds 98765 1 2

DATA has ml-100k/u.data, citeulike-a/clicks.csv.gz and lastfm-2k/listens.csv.gz. For each of them and for each seed of
the split, the recommended model and the baselines are trained as ``recvae train`` trains them without any setting, the
baselines with the settings shipped for the data set too where there are any, and measured on validation and test users.
What was measured is kept in results/defaults.json as it goes, and not measured again.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from harness import RESULTS

from data_prep import Dataset, prepare
from recvae.bench import measure
from recvae.config import resolve, shipped_for
from recvae.defaults import Size, recommended
from recvae.feed import validate_with
from recvae.files import read_json, write_json
from recvae.report import environment

METRIC = "ndcg@100"
RESULT = RESULTS / "defaults.json"
BASELINES = ("ease", "edlae", "implicit-als")
SOURCES: dict[str, dict[str, Any]] = {
    "ml-100k": {"source_name": "ml-100k", "file": ""},
    "lastfm-2k": {"user_column": "user", "item_column": "artist", "file": "listens.csv.gz"},
    "citeulike-a": {"user_column": "user", "item_column": "article", "file": "clicks.csv.gz"},
}


def split_of(folder: Path, name: str, seed: int) -> Dataset:
    """Return a data set, prepared with a seed of the split as ``recvae prepare`` does."""
    how = dict(SOURCES[name])
    place = folder / name / how.pop("file")
    known = how.pop("source_name", None)
    return prepare(known, source=place, seed=seed) if known else prepare(place, seed=seed, **how)


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
        "validation": round(validate_with(data, METRIC, trained)(trained), 5),
        "test": round(test.mean, 5),
        "se": round(test.se, 5),
        "best_epoch": trained.best_epoch,
        "train_seconds": result.train_seconds,
        "cpu_seconds": round(time.process_time() - began, 1),  # of all, which other work on the machine leaves as it is
        "config": result.config,
    }


def table(rows: dict[str, dict[str, Any]]) -> list[str]:
    """Return Markdown: for each data set and model the mean over the splits, on validation and on test users."""
    splits: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for key, row in rows.items():
        name, _, model = key.split(" ")
        splits.setdefault((name, model), []).append(row)
    lines = ["| data | splits | model | validation | test |", "|---|---|---|---|---|"]
    for (name, model), found in sorted(splits.items(), key=lambda pair: list(SOURCES).index(pair[0][0])):
        means = (sum(row[part] for row in found) / len(found) for part in ("validation", "test"))
        lines.append(f"| {name} | {len(found)} | `{model}` | " + " | ".join(f"{m:.4f}"[1:] for m in means) + " |")
    return lines


def main() -> None:
    """Measure what is missing, and print a line for each row, and the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[98765])
    parser.add_argument("--only", nargs="+", default=list(SOURCES), choices=list(SOURCES))
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = read_json(arguments.out) if arguments.out.is_file() else {"rows": {}}
    for name in arguments.only:
        for seed in arguments.seeds:
            data = split_of(arguments.data, name, seed)
            for model, config in contests(data):
                key = f"{name} {seed} {config or model}"
                if key not in found["rows"]:
                    found["rows"][key] = figures(data, model, config)
                    write_json(arguments.out, {"metric": METRIC, "environment": environment(), **found})
                row = found["rows"][key]
                print(
                    f"{key:<40} {row['validation']:.4f} {row['test']:.4f} ±{row['se']:.4f} {row['train_seconds']:.0f} s"
                )
    print("\n".join(table(found["rows"])))


if __name__ == "__main__":
    main()
