"""Warm starts: epochs and seconds to a cold run's score, with the weights of a run on the first 80 % of the clicks.

    python -m benchmarks.accuracy.warm_start ml-100k

The folder has MovieLens-100K's u.data. Its clicks (rating 4 and more, users with 5 and more) are cut at the time before
which 80 % of them happened. The first night has the clicks before it, and the items and users that had any; the second
night has all. The same people are held out on both nights, so that no run has learned from a validation user; beside
that, each night's clicks are split by time, as ``recvae prepare --split temporal`` does it. Each model is trained on
the first night, and on the second night twice: cold, and from the weights of the first. Seconds are CPU seconds of one
thread, validation included, so that other programs on the machine do not count. The record is kept as it goes, and what
it has is not measured again.
"""

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array

from benchmarks.accuracy.rows import METRIC
from benchmarks.accuracy.tables import warm_start
from benchmarks.harness import RESULTS, parser, write_record
from data_prep import Dataset
from data_prep.interactions import Interactions
from data_prep.pipeline import filter_interactions
from data_prep.readers import read_interactions
from data_prep.splits import Split, clicks_matrix, make_split
from recvae.config import RunConfig, resolve
from recvae.experiments.measure import begin
from recvae.files import read_json, write_json

COLUMNS = ("user", "item", "rating", "time")
FIRST = 0.8  # the share of the clicks that the first night has
HELD_OUT = 100  # users for validation, and as many for test
SPLITS = ("98765", "1", "2", "temporal")
CONFIGS = ("ml-100k-recvae", "ml-100k-mult-vae", "ml-100k-recvae-edlae")
TARGETS = (0.99, 1.0)  # of the cold run's best score
RUNS = ("cold", "warm")


def clicks_of(file: Path) -> Interactions:
    """Return the clicks of u.data with their times, filtered as the papers do."""
    user, item, rating, moment = COLUMNS
    raw = read_interactions(file, user, item, rating_column=rating, time_column=moment, columns=COLUMNS)
    return filter_interactions(raw, 4, 5)[0]


def nights(clicks: Interactions, split: str) -> tuple[Dataset, Dataset]:
    """Return the datasets of both nights; ``split`` is "temporal" or a seed, by which people are held out."""
    assert clicks.time is not None
    early = clicks.select(clicks.time < np.sort(clicks.time)[int(FIRST * len(clicks))])
    if split == "temporal":
        first, second = (make_split(part, split) for part in (early, clicks))
    else:
        second = make_split(clicks, "strong", held_out_users=HELD_OUT, seed=int(split))
        first = before(second, early)
    return Dataset.from_split(first, name="first night"), Dataset.from_split(second, name="second night")


def before(split: Split, early: Interactions) -> Split:
    """Return the part of a split that is among ``early`` clicks: its clicks, and the items and users that have any."""
    column_of = {item: column for column, item in enumerate(split.item_ids)}
    columns = np.array([column_of.get(item, -1) for item in early.item_ids], dtype=np.int32)[early.item]
    masks = {}
    for part, ids in split.user_ids.items():
        row_of = {user: row for row, user in enumerate(ids)}
        rows = np.array([row_of.get(user, -1) for user in early.user_ids], dtype=np.int32)[early.user]
        here = (rows >= 0) & (columns >= 0)
        masks[part] = clicks_matrix(rows[here], columns[here], (len(ids), len(split.item_ids)))
    items = np.flatnonzero(np.bincount(split.train.multiply(masks["train"]).indices, minlength=len(split.item_ids)))
    users = {part: np.flatnonzero(np.diff(mask[:, items].tocsr().indptr)) for part, mask in masks.items()}

    def part_of(name: str) -> csr_array:
        part = name.partition("_")[0]
        kept = csr_array(getattr(split, name).multiply(masks[part]))[users[part]][:, items].tocoo()
        return clicks_matrix(kept.row, kept.col, kept.shape)

    names = ("train", "validation_in", "validation_out", "test_in", "test_out")
    user_ids = {part: ids[users[part]] for part, ids in split.user_ids.items()}
    return Split(**{name: part_of(name) for name in names}, user_ids=user_ids, item_ids=split.item_ids[items])


def trained(config: RunConfig, data: Dataset, folder: Path, start: Path | None = None) -> dict[str, Any]:
    """Train a run into ``folder``; return its validation scores and CPU seconds, from the start, of each epoch."""
    scores: list[float] = []
    seconds: list[float] = []
    fit = begin(config, data, metric=METRIC, device="cpu", folder=folder, start=start)
    began = time.process_time()

    def on_epoch(report: Any) -> None:
        scores.append(report["score"])
        seconds.append(round(time.process_time() - began, 3))

    fit.run(on_epoch=on_epoch)
    return {"scores": [round(score, 5) for score in scores], "seconds": seconds}


def reached(run: dict[str, Any], score: float) -> tuple[int | None, float | None]:
    """Return the first epoch with at least this score and the seconds until its end; None where there is none."""
    return next(((n + 1, run["seconds"][n]) for n, found in enumerate(run["scores"]) if found >= score), (None, None))


def compared(config: RunConfig, first: Dataset, second: Dataset) -> dict[str, Any]:
    """Train a model on both nights, and return how soon the cold and the warm run reach the cold run's best score."""
    with TemporaryDirectory() as home:
        place = Path(home)
        earlier = trained(config, first, place / "first")
        starts = (None, place / "first")
        runs = {name: trained(config, second, place / name, start) for name, start in zip(RUNS, starts, strict=True)}
    best = max(runs["cold"]["scores"])
    found: dict[str, Any] = {"first_night": max(earlier["scores"]), "best": best}
    for name, run in runs.items():
        to = {f"{target:.0%}": reached(run, target * best) for target in TARGETS}
        found[name] = {"best": max(run["scores"]), "epochs": len(run["scores"]), "reached": to, **run}
    return found


def main() -> None:
    options = parser(__doc__)
    options.add_argument("folder", type=Path, help="a folder with MovieLens-100K's u.data")
    options.add_argument("--splits", nargs="+", default=list(SPLITS), help="seeds of held-out users, or 'temporal'")
    options.add_argument("--configs", nargs="+", default=list(CONFIGS), help="shipped configurations")
    options.add_argument("--epochs", type=int, default=0, help="of every run, in place of the configuration's")
    arguments = options.parse_args()
    torch.set_num_threads(1)
    clicks = clicks_of(arguments.folder / "u.data")
    where = RESULTS / "warm-start.json" if arguments.record else arguments.out
    found: Any = {"metric": METRIC, "rows": {}}
    if where is not None and where.is_file():
        found["rows"] = read_json(where)["rows"]
    for split in arguments.splits:
        first, second = nights(clicks, split)
        counts = {data.name: data.manifest["counts"] for data in (first, second)}
        for name in arguments.configs:
            key = f"{name} {split}"
            if key in found["rows"]:
                continue
            config = resolve(config=name, settings=[f"train.epochs={arguments.epochs}"] if arguments.epochs else [])
            row = found["rows"][key] = {"counts": counts, **compared(config, first, second)}
            if where is not None:
                write_json(where, found)
            print(f"{key}: best {row['best']:.4f}", *(f"; {run} {row[run]['reached']}" for run in RUNS), flush=True)
    print("", *warm_start(found), sep="\n")
    write_record("warm-start", found, arguments)


if __name__ == "__main__":
    main()
