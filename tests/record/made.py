"""A small dataset and every model trained on it, through the command line, with every setting written down.

Settings are explicit, so that a change of defaults does not change the record; one thread, one seed, the CPU.
"""

import csv
import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from recvae.cli import main

SEED = 5
USERS, ITEMS = 90, 36
NETWORK = {"train.epochs": 2, "train.batch_size": 20, "train.learning_rate": 0.01}
SETTINGS: dict[str, dict[str, Any]] = {
    "recvae": {**NETWORK, "model.hidden": 8, "model.layers": 3, "model.latent": 4, "model.gamma": 0.005},
    "recvae-edlae": {
        **NETWORK, "model.hidden": 8, "model.layers": 3, "model.latent": 4, "model.gamma": 0.005,
        "model.path_weight": 6.0, "model.path_dropout": 0.4, "model.path_l2": 20.0,
        "train.average": 0.0, "train.patience": 0,
    },
    "mult-vae": {
        **NETWORK, "model.hidden": [8], "model.latent": 4, "model.beta_cap": 0.2, "model.anneal": "paper",
        "model.anneal_updates": 40,
    },
    "conditional-vae": {
        **NETWORK, "model.hidden": [8], "model.latent": 4, "model.beta_cap": 0.2, "model.anneal": "paper",
        "model.anneal_updates": 40, "model.item_tags": True, "model.user_attributes": ["side"], "model.min_items": 2,
    },
    "vamp-vae": {
        **NETWORK, "model.hidden": 6, "model.latent": 4, "model.pseudo_inputs": 5, "model.anneal": "paper",
        "model.anneal_updates": 40, "model.beta_cap": 0.3,
    },
    "vaeac": {**NETWORK, "model.hidden": 8, "model.latent": 4},
    "mult-dae": {**NETWORK, "model.hidden": [], "model.latent": 6, "model.l2": 0.01},
    "ease": {"model.l2": 50.0},
    "edlae": {"model.l2": 30.0, "model.dropout": 0.3},
    "implicit-als": {
        "model.factors": 8, "model.regularization": 0.1, "model.alpha": 5.0, "model.iterations": 5,
    },
    "item-knn": {"model.neighbours": 10, "model.shrinkage": 5.0},
    "popularity": {},
}  # fmt: skip


def call(*arguments: object) -> tuple[int, str, str]:
    """Run the command line in this process; return its exit status, standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = main([str(argument) for argument in arguments])
    return status, out.getvalue(), err.getvalue()


def document(*arguments: object) -> dict[str, Any]:
    """Return the JSON document that a verb prints; raise AssertionError where the verb fails."""
    status, out, err = call(*arguments, "--json", "--quiet")
    assert status == 0, f"recvae {' '.join(map(str, arguments))}: {err}"
    value: dict[str, Any] = json.loads(out)
    return value


def write_clicks(folder: Path) -> None:
    """Write ratings.csv, titles.csv and users.csv: two tastes, ids with leading zeros, titles with quotes."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.RandomState(SEED)  # the legacy generator, whose streams are frozen
    rows = []
    for user in range(USERS):
        for item in rng.permutation(ITEMS)[: 8 + user % 9]:
            liked = (user % 2) == (item % 2) or rng.rand() < 0.2
            rows.append((f"u{user:02}", f"{item:03}", 4 + rng.randint(2) if liked else 1 + rng.randint(3)))
    _write(folder / "ratings.csv", [("user", "item", "stars"), *rows])
    tags = ("Drama", "Comedy|Crime", "War")
    titles = [
        (f"{i:03}", f'Film {i}, "the {"odd" if i % 2 else "even"}" (19{50 + i})', tags[i % 3]) for i in range(ITEMS)
    ]
    _write(folder / "titles.csv", [("id", "title", "genres"), *titles])
    _write(folder / "users.csv", [("user", "side"), *((f"u{u:02}", "AB"[u % 2]) for u in range(USERS))])


def prepare(folder: Path) -> dict[str, Any]:
    """Write the small files below ``folder`` and the dataset folder ``folder/data``; return prepare's document."""
    write_clicks(folder)
    return document(
        "prepare", folder / "ratings.csv", "--user-column", "user", "--item-column", "item", "--rating-column",
        "stars", "--min-rating", 4, "--ratings", "--titles", folder / "titles.csv", "--user-tags", folder / "users.csv",
        "--min-items-per-user", 3, "--held-out-users", 12, "--seed", SEED, "--out", folder / "data",
    )  # fmt: skip


def train(data: Path, name: str, out: Path, **more: Any) -> dict[str, Any]:
    """Train one model with its settings, ``more`` replacing some; return train's document."""
    settings = {**SETTINGS[name], **more}
    given = [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    return document(
        "train", data, "--model", name, *given, "--seed", SEED, "--metric", "ndcg@10", "--device", "cpu", "--out", out
    )


def _write(path: Path, rows: list[tuple[Any, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
