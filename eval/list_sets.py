"""The metrics of a whole set of lists, defined in :mod:`eval.metrics`: coverage, novelty, diversity and Gini."""

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from eval.metrics import LIST_SET, MetricName, as_floats, check_ids, check_matrix, parse_metrics
from recvae.arguments import whole_number
from recvae.errors import ConfigError, DataError

__all__ = ["MOST_ITEMS", "ListCounts"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.integer]

MOST_ITEMS = 100_000_000
"""Counts are kept for catalogues up to this size: 16 bytes an item, for each k."""

_ENTRIES = 1 << 22  # entries of the products that are made at a time, for diversity


class ListCounts:
    """Counts how often each item is recommended, batch by batch, for the metrics of a whole set of lists.

    ``metrics``: names from ``LIST_SET``; ``n_items``: size of the catalogue; ``popularity``: (n_items,) training clicks
    per item, needed by novelty only; ``train``: the training clicks, CSR (users, n_items), needed by diversity only.
    The values do not depend on how the lists are batched.

    Raises :class:`~recvae.errors.ConfigError` for another metric, novelty without popularity and diversity without
    clicks, and :class:`~recvae.errors.DataError` for popularity of the wrong shape, or negative, not finite or all
    zero, and for a matrix of clicks of another width or form.
    """

    def __init__(
        self,
        metrics: str | Iterable[str | MetricName],
        n_items: int,
        popularity: npt.ArrayLike | None = None,
        train: csr_array | None = None,
    ) -> None:
        self._metrics = parse_metrics(metrics)
        n_items = whole_number("n_items", n_items, least=0, most=MOST_ITEMS)
        for metric in self._metrics:
            if metric.name not in LIST_SET:
                raise ConfigError(f"'{metric}' has a value per user; it is not a metric of a whole set of lists.")
            if metric.name == "novelty" and popularity is None:
                raise ConfigError(f"'{metric}' needs the popularity of the items in training: give popularity.")
            if metric.name == "diversity" and train is None:
                raise ConfigError(f"'{metric}' needs the clicks of training, by which items are alike: give train.")
        self._bits = np.zeros(n_items) if popularity is None else _self_information(popularity, n_items)
        self._counts = {metric.k: np.zeros(n_items, dtype=np.int64) for metric in self._metrics}
        self._unlike: dict[int, list[Floats]] = {m.k: [] for m in self._metrics if m.name == "diversity"}
        self._columns = None if train is None or not self._unlike else _unit_columns(train, n_items)
        self._lists = dict.fromkeys(self._counts, 0)

    def add(self, ids: Ints, depth: int | None = None) -> None:
        """Count the lists ``ids`` (n, K), best first, padded at the end with -1: for all metrics, or those of a k."""
        n_items = len(self._bits)
        ids = check_ids(ids, n_items)
        depths = sorted(k for k in self._counts if depth in (None, k))
        so_far = np.zeros(n_items + 1, dtype=np.int64)
        place = 0
        for k in depths:
            self._lists[k] += len(ids)
            if place < ids.shape[1]:
                so_far += np.bincount(ids[:, place:k].ravel() + 1, minlength=n_items + 1)
                place = k
            self._counts[k] += so_far[1:]  # slot 0 counts the padding
        for k in depths:
            if self._columns is not None and k in self._unlike:
                self._unlike[k].append(_dissimilarity(ids[:, :k], self._columns))

    def values(self) -> dict[str, float]:
        """Return ``{"name@k": value}`` of all lists added so far; NaN where there is nothing to take the value of."""
        result: dict[str, float] = {}
        for metric in self._metrics:
            counts = self._counts[metric.k]
            total = int(counts.sum())
            if metric.name == "coverage":
                value = np.count_nonzero(counts) / len(counts) if len(counts) else math.nan
            elif metric.name == "novelty":
                value = float(counts @ self._bits) / total if total else math.nan
            elif metric.name == "gini":
                value = _gini(counts) if total else math.nan
            else:
                of_lists = np.concatenate([*self._unlike[metric.k], []])
                value = float(of_lists.mean()) if len(of_lists) else math.nan
            result[str(metric)] = value
        return result

    def lists(self) -> dict[str, int]:
        """Return for each metric the number of lists that it is taken over: diversity leaves out those of one item."""
        return {
            str(metric): sum(map(len, self._unlike[metric.k])) if metric.name == "diversity" else self._lists[metric.k]
            for metric in self._metrics
        }


def _self_information(popularity: npt.ArrayLike, n_items: int) -> Floats:
    """-log2 of each item's share of the training clicks, in bits -> (n_items,) float64."""
    clicks = as_floats("popularity", popularity)
    if clicks.shape != (n_items,):
        raise DataError(f"popularity must hold one number for each of {n_items} items, and has shape {clicks.shape}.")
    if not (np.isfinite(clicks).all() and (clicks >= 0).all() and clicks.sum() > 0):
        raise DataError("popularity must hold numbers of clicks: finite, not negative, and not all zero.")
    bits: Floats = -np.log2(np.maximum(clicks, 1.0) / clicks.sum())
    return bits


def _gini(counts: npt.NDArray[np.int64]) -> float:
    """Return the Gini coefficient of counts (n,), not all zero: sum_i (2 i - n - 1) c_(i) / (n sum c), c ascending."""
    n = len(counts)
    places = 2 * np.arange(1, n + 1, dtype=np.float64) - n - 1
    return float(places @ np.sort(counts)) / (n * float(counts.sum()))


def _unit_columns(train: csr_array, n_items: int) -> csr_array:
    """Return the columns of the clicks as rows of length 1, CSR (n_items, users); rows of zeros without clicks."""
    check_matrix(train, "training")
    if train.shape[1] != n_items:
        raise DataError(f"The training clicks have {train.shape[1]} columns, and there are {n_items} items.")
    columns = csr_array(train.astype(bool).astype(np.float64).T)
    columns.eliminate_zeros()
    clicks = np.diff(columns.indptr)
    columns.data /= np.sqrt(np.repeat(clicks, clicks))
    return columns


def _dissimilarity(ids: Ints, columns: csr_array) -> Floats:
    """Return the mean of 1 - cosine over the pairs of each list of at least two items, (n',) float64.

    The sum of a list's unit vectors v has the squared length sum_i |v_i|^2 + 2 sum_{i<j} cos_ij, so that no pair is
    looked at. ``ids`` (n, k), padded with -1 at the end; ``columns`` as :func:`_unit_columns` makes them.
    """
    lengths = (ids >= 0).sum(axis=1)
    ids, lengths = ids[lengths > 1], lengths[lengths > 1]
    listed = ids[ids >= 0]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    lists = csr_array((np.ones(len(listed)), listed, offsets), shape=(len(ids), columns.shape[0]))
    clicks = np.diff(columns.indptr)
    ones = lists @ (clicks > 0).astype(np.float64)  # sum_i |v_i|^2
    entries = np.cumsum(lists @ clicks)
    squares = np.empty(len(ids))
    start = 0
    while start < len(ids):
        before = entries[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(entries, before + _ENTRIES, side="right")))
        sums = lists[start:stop] @ columns
        squares[start:stop] = (sums * sums).sum(axis=1)
        start = stop
    unlike: Floats = 1 - (squares - ones) / (lengths * (lengths - 1))
    return unlike
