"""A small dataset with awkward ids, and how to make an altered folder look genuine."""

import hashlib
import json
from pathlib import Path

import numpy as np

from data_prep import Dataset, Interactions, Split, make_split
from data_prep.manifest import MATRICES, SPLITS

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
    """Make a change look genuine: hashes are those of the altered files, and there is no seal, as in old folders."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("seal", None)
    manifest["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in manifest["files"]}
    files = manifest.pop("files")
    (folder / "manifest.json").write_text(json.dumps({**manifest, **changes, "files": files}))
