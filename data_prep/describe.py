"""A dataset in numbers: users, items, clicks, density, and the quantiles of activity and popularity."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from data_prep.arrivals import Arrivals
from recvae.files import JsonObject
from recvae.matrices import item_counts

_QUANTILES = {"min": 0.0, "p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9, "p99": 0.99, "max": 1.0}


class _Described(Protocol):
    """The part of :class:`data_prep.dataset.Dataset` that is described; its attributes are explained there."""

    manifest: JsonObject

    @property
    def name(self) -> str: ...
    @property
    def n_items(self) -> int: ...
    @property
    def train(self) -> csr_array: ...
    @property
    def item_titles(self) -> npt.NDArray[np.object_]: ...
    @property
    def item_tags(self) -> Mapping[str, tuple[str, ...]]: ...
    @property
    def user_tags(self) -> Mapping[str, Mapping[str, str]]: ...
    @property
    def vocabulary_hash(self) -> str: ...
    def matrix(self, name: str) -> csr_array: ...
    def arrivals(self, split: str) -> Arrivals | None: ...


def describe(dataset: _Described) -> JsonObject:
    """Return the dataset in numbers, as plain data for JSON.

    ``splits`` has for "train" the users, clicks, density and clicks per user; for "validation" and "test" the users,
    fold-in and held-out clicks, their quantiles per user, and the users without held-out items (they get lists, and are
    left out of averages). ``popularity`` is training clicks per item and the share of clicks on the most popular tenth.
    """
    train = dataset.train
    popularity = item_counts(train)
    popular = np.sort(popularity)[::-1][: -(-dataset.n_items // 10)]
    splits: JsonObject = {
        "train": {
            "users": train.shape[0],
            "clicks": int(train.nnz),
            "density": _share(train.nnz, train.shape[0] * train.shape[1]),
            "clicks_per_user": _quantiles(np.diff(train.indptr)),
        }
    }
    for split in ("validation", "test"):
        shown, hidden = dataset.matrix(f"{split}_in"), dataset.matrix(f"{split}_out")
        held_out = np.diff(hidden.indptr)
        arrivals = dataset.arrivals(split)
        in_all = held_out if arrivals is None else held_out + arrivals.new_item_clicks
        splits[split] = {
            "users": shown.shape[0],
            "fold_in_clicks": int(shown.nnz),
            "held_out_clicks": int(hidden.nnz),
            "users_without_held_out": int(np.count_nonzero(in_all == 0)),
            "fold_in_per_user": _quantiles(np.diff(shown.indptr)),
            "held_out_per_user": _quantiles(held_out),
        }
    manifest = dataset.manifest
    return {
        "name": dataset.name,
        "items": dataset.n_items,
        "items_with_title": int(np.count_nonzero(dataset.item_titles != "")),
        "items_with_tags": len(dataset.item_tags),
        "users_with_tags": len(dataset.user_tags),
        "splits": splits,
        "popularity": {**_quantiles(popularity), "share_of_top_tenth": _share(popular.sum(), train.nnz)},
        **{
            key: manifest[key]
            for key in ("source", "filters", "protocol", "before_split", "dropped", "ratings", "arrivals")
            if key in manifest
        },
        "vocabulary_hash": dataset.vocabulary_hash,
    }


def _share(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else 0.0


def _quantiles(values: npt.NDArray[np.int64]) -> dict[str, float]:
    """Return named quantiles and the mean of counts; all 0 where there are none."""
    if not values.size:
        return dict.fromkeys((*_QUANTILES, "mean"), 0.0)
    marks = np.quantile(values, list(_QUANTILES.values()))
    return {name: float(mark) for name, mark in zip(_QUANTILES, marks, strict=True)} | {"mean": float(values.mean())}
