"""An export's graphs and the model they were made of, compared on histories."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from recvae.recommender import Recommender
from recvae.training.export_folder import ENCODER, GRAPH, ITEM_VECTORS, SIMILAR

TOLERANCE = 1e-5  # of a score, and of its share where it is above 1
_LENGTHS = (0, 1, 2, 5, 20, 80)  # of the histories on which an export is tried

Feed = dict[str, NDArray[np.generic]]
"""The inputs of a graph by name."""


class Graph:
    """A graph that onnxruntime runs on the CPU with one thread."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors; its warnings are about operations that it could have left out
        self._session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])

    def run(self, outputs: Sequence[str], feed: Feed) -> list[NDArray[np.float32]]:
        """Return the named outputs."""
        found: list[NDArray[np.float32]] = self._session.run(list(outputs), feed)
        return found


def compared(model: Recommender, folder: Path, graphs: Sequence[str]) -> float:
    """Return how far the named graphs in ``folder`` are from the model, on a few histories.

    It is the largest |a - b| / max(1, |b|) over scores, similarities and products of vectors b of the model; NaN where
    only one of the two is a finite number.
    """
    histories, conditions = _sample(model)
    scores = scores_of(model, histories, conditions)
    feed = ragged(histories, conditions)
    found = Graph(folder / GRAPH).run(["scores"], {**feed, **no_rules(model.n_items)})[0]
    differences = [difference(found, scores)]
    if SIMILAR in graphs:
        items = np.arange(min(4, model.n_items))
        every = torch.arange(model.n_items).expand(len(items), -1)
        asked = torch.from_numpy(items)
        mine = model.similarity(asked), model.similarity_among(every)(asked)
        made = Graph(folder / SIMILAR).run(["similarity", "alike"], {"items": items})
        differences += [difference(a, b.detach().cpu().numpy()) for a, b in zip(made, mine, strict=True)]
    if ENCODER in graphs:
        users = Graph(folder / ENCODER).run(["vectors"], feed)[0]
        differences.append(difference(users @ np.load(folder / ITEM_VECTORS[0]).T, scores))
    return float(np.max(differences))  # NaN if any is


@torch.no_grad()
def scores_of(model: Recommender, histories: csr_array, conditions: csr_array | None = None) -> NDArray[np.float32]:
    """Return a model's scores, float32 (n, n_items)."""
    asked = () if conditions is None else (conditions,)
    scores: NDArray[np.float32] = model.scores(histories, *asked).float().cpu().numpy()
    return scores


def ragged(histories: csr_array, conditions: csr_array | None = None) -> Feed:
    """Return the inputs of a graph that are about users, of canonical CSR rows."""
    lengths = np.diff(histories.indptr).astype(np.int64)
    feed: Feed = {
        "lengths": lengths,
        "rows": np.repeat(np.arange(len(lengths)), lengths),
        "columns": histories.indices.astype(np.int64),
        "values": histories.data.astype(np.float32),
    }
    if conditions is not None:
        feed["conditions"] = conditions.toarray().astype(np.float32)
    return feed


def no_rules(n_items: int, k: int = 1, *, exclude_seen: bool = False) -> Feed:
    """Return the inputs of a graph that are about lists, with no item denied."""
    return {
        "hidden": np.zeros((1, n_items), dtype=bool),
        "exclude_seen": np.array(exclude_seen),
        "k": np.array([k], dtype=np.int64),
    }


def difference(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Return the largest |a - b| / max(1, |b|), where places without a number in both count 0; NaN where one has it."""
    neither = ~(np.isfinite(found) | np.isfinite(expected))
    a, b = np.where(neither, 0, found).astype(np.float64), np.where(neither, 0, expected).astype(np.float64)
    if not (np.isfinite(a) & np.isfinite(b)).all():
        return float("nan")
    return float((np.abs(a - b) / np.maximum(1, np.abs(b))).max(initial=0.0))


def _sample(model: Recommender) -> tuple[csr_array, csr_array | None]:
    """Return histories of few and of many items, the first empty, and conditions where the model has any."""
    draws = np.random.default_rng(0)
    n_items, n_users = model.n_items, len(_LENGTHS)
    rows = [np.sort(draws.choice(n_items, min(length, n_items), replace=False)) for length in _LENGTHS]
    columns = np.concatenate(rows)
    values = np.full(len(columns), model.named_value, np.float32)
    if model.of_ratings:  # some that are liked more, and some less
        values *= draws.uniform(0.5, 1.25, len(columns)).astype(np.float32)
    histories = csr_array((values, columns, np.cumsum([0, *map(len, rows)])), shape=(n_users, n_items))
    names = len(model.condition_names)
    return histories, csr_array(np.eye(n_users, names, dtype=np.float32)) if names else None
