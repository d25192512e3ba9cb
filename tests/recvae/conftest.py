"""What the tests of the command line share: clicks in a file, a dataset folder and run folders."""

import csv
from pathlib import Path

import pytest
from conftest import checkerboard

from recvae.cli import main

SMALL = ("--set", "model.hidden=16", "--set", "model.latent=4", "--set", "train.batch_size=40")


@pytest.fixture(scope="session")
def small() -> tuple[str, ...]:
    """Settings that make a RecVAE quick to train."""
    return SMALL


def write_rows(path: Path, rows) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    return path


def item_id(column: int) -> str:
    return f"{column:03}"


@pytest.fixture(scope="session")
def clicks(tmp_path_factory) -> Path:
    """200 users of two tastes and 40 items: CSV with ids that have leading zeros."""
    matrix = checkerboard(users=200).tocoo()
    rows = [(f"u{user}", item_id(item)) for user, item in zip(matrix.row, matrix.col, strict=True)]
    return write_rows(tmp_path_factory.mktemp("clicks") / "clicks.csv", [("user", "item"), *rows])


@pytest.fixture(scope="session")
def titles(tmp_path_factory) -> Path:
    """Titles with commas, quotes and brackets; two of them begin alike."""
    names = {
        0: "Matrix, The (1999)",
        1: 'Say "Hello", [twice] (2001)',
        2: "Toy Story (1995)",
        4: "Toy Story 2 (1999)",
        6: "Twin (1990)",
        8: "Twin (1991)",
    }
    rows = [(item_id(i), names.get(i, f"Film {i} (19{i + 50})")) for i in range(40)]
    return write_rows(tmp_path_factory.mktemp("titles") / "titles.csv", [("id", "title"), *rows])


@pytest.fixture(scope="session")
def dataset(tmp_path_factory, clicks, titles) -> Path:
    """A prepared dataset folder; not to be changed."""
    folder = tmp_path_factory.mktemp("dataset") / "tastes"
    columns = ("--user-column", "user", "--item-column", "item", "--titles", str(titles))
    assert main(["prepare", str(clicks), *columns, "--held-out-users", "20", "--out", str(folder), "--quiet"]) == 0
    return folder


@pytest.fixture(scope="session")
def ease(tmp_path_factory, dataset) -> Path:
    """A run folder of EASE; not to be changed."""
    run = tmp_path_factory.mktemp("runs") / "ease"
    assert main(["train", str(dataset), "--model", "ease", "--out", str(run), "--quiet"]) == 0
    return run


@pytest.fixture(scope="session")
def recvae_run(tmp_path_factory, dataset) -> Path:
    """A run folder of a small RecVAE after three epochs; not to be changed."""
    run = tmp_path_factory.mktemp("runs") / "recvae"
    arguments = ["train", str(dataset), "--model", "recvae", *SMALL, "--set", "train.epochs=3", "--out", str(run)]
    assert main([*arguments, "--metric", "ndcg@5", "--quiet"]) == 0
    return run
