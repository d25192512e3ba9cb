"""A small dataset with awkward ids, and how to make an altered folder look genuine."""

import hashlib
import json
from pathlib import Path

import numpy as np
from scipy.sparse import save_npz

from data_prep import Dataset, Interactions, Split, make_split
from data_prep.manifest import MATRICES, RATINGS, SPLITS, write_manifest

ITEM_IDS = ["007", "7", "a,b", 'say "hi"', " x ", "é", "line\nbreak", "cr\rhere", "10", "11", "12", "13"]


def build() -> Dataset:
    draw = np.random.default_rng(5)
    pairs = draw.permutation([(u, i) for u in range(30) for i in draw.permutation(12)[:8].tolist()]).astype(np.int32)
    data = Interactions(
        user=pairs[:, 0].copy(),
        item=pairs[:, 1].copy(),
        user_ids=np.array([f"user {n}" for n in range(30)], dtype=object),
        item_ids=np.array(ITEM_IDS, dtype=object),
    )
    return Dataset.from_split(
        make_split(data, held_out_users=6),
        name="toy",
        about={"source": {"kind": "file"}, "protocol": {"split": "strong"}, "dropped": {"duplicate_clicks": 0}},
        titles={"007": 'Title, with "all"', "é": "Caf\u00e9\nNoir", "unknown": "x"},
        item_tags={"007": ("Spy", "Drama"), "7": ()},
        user_tags={"user 3": {"age": "25", "job": "a,b"}, "nobody": {"age": "1"}},
    )


def split_of(data: Dataset) -> Split:
    matrices = {name: data.matrix(name) for name in MATRICES}
    return Split(**matrices, user_ids={split: data.user_ids(split) for split in SPLITS}, item_ids=data.item_ids)


def rehash(folder: Path, **changes: object) -> None:
    """Make a change look genuine: the hashes and the seal are those of the altered files."""
    manifest = json.loads((folder / "manifest.json").read_text())
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in manifest["files"]}
    try:
        write_manifest(folder / "manifest.json", {**manifest, **changes, "files": files})
    except UnicodeEncodeError:  # a lone surrogate, which no seal can be taken of
        (folder / "manifest.json").write_text(json.dumps({**manifest, **changes, "files": files}))


def as_version_1(folder: Path) -> None:
    """Turn a folder into one of format version 1: an npz file for each matrix, and no seal."""
    data = Dataset.load(folder)
    manifest = {**data.manifest, "format_version": 1}
    names = [*MATRICES, *(RATINGS if data.has_ratings else ())]
    for name in names:
        matrix = data.ratings(name.removesuffix("_ratings")) if name in RATINGS else data.matrix(name)
        save_npz(folder / f"{name}.npz", matrix, compressed=False)
    for file in folder.glob("*.npy"):
        file.unlink()
    files = sorted(file.name for file in folder.iterdir() if file.name != "manifest.json")
    manifest["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files}
    (folder / "manifest.json").write_text(json.dumps(manifest))
