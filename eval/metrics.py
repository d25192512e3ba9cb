"""Ranking metrics: ranked ids and held-out clicks in, one float64 per user out.

A metric is asked for by a name that fixes its definition, ``name@k``. With the ranks 1, 2, ... of one user's list,
``hits`` the held-out items among its first k places and ``n`` the user's held-out items:

=================== ==================================================================================================
``recall@k``        hits / min(k, n): the recall of Liang et al. 2018 (arXiv 1802.05814), section 4.2
``plain_recall@k``  hits / n: the recall of LightGCN, RecBole and most leaderboards
``ndcg@k``          sum over hits of 1 / log2(rank + 1), divided by the same sum for ranks 1 .. min(k, n)
``precision@k``     hits / k
``hit_rate@k``      1 where hits > 0, else 0
``mrr@k``           1 / rank of the first hit, 0 where there is none
``map@k``           sum over hits of (hits up to that rank / rank), divided by min(k, n)
``coverage@k``      of all lists together: the share of the catalogue that is in the first k places of any list
``novelty@k``       of all lists together: the mean over all recommended items i of -log2(clicks of i / all clicks), in
                    bits, clicks counted in training; an item without a training click counts as clicked once
``diversity@k``     the mean over lists of at least two items of the mean over their pairs of 1 - cosine, the cosine of
                    two items being that of their columns of training clicks, 0 where one has none
``gini@k``          of all lists together: the Gini coefficient of how often each item of the catalogue is in the first
                    k places, 0 where all are equally often, near 1 where few fill all lists
=================== ==================================================================================================

k may be larger than the list or the catalogue: the definitions keep min(k, n), and a list that ends early has no more
hits. The first group (``PER_USER``) has one value per user, NaN for a user without held-out items. The last four
(``LIST_SET``, in :mod:`eval.list_sets`) have one value for a whole set of lists. Nothing of size users x items or items
x items is allocated.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from recvae.arguments import items, shown
from recvae.errors import ConfigError, DataError, InputError, did_you_mean
from recvae.matrices import check_indices

__all__ = [
    "LIST_SET",
    "PER_USER",
    "MetricName",
    "as_floats",
    "check_ids",
    "check_matrix",
    "contained",
    "held_out_items",
    "parse_metric",
    "parse_metrics",
    "per_user_metrics",
]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.integer]

# Bytes of the marking buffer of `contained`: large enough to hide the cost of a block, small enough to stay in the
# cache (measured at 20,108 items: 2.2 ms for 1,000,000 ids at 4 MiB, 6.7 ms at 256 KiB, 13.8 ms at 64 MiB).
_BUFFER_BYTES = 1 << 22


@dataclass(frozen=True)
class MetricName:
    """A parsed metric name; ``str()`` gives ``name@k`` again."""

    name: str
    k: int

    def __str__(self) -> str:
        return f"{self.name}@{self.k}"


@dataclass(frozen=True)
class Hits:
    """The hits of a batch of lists, in order of row, then of rank."""

    row: npt.NDArray[np.int64]  # (h,)
    rank: npt.NDArray[np.int64]  # (h,), the best is 1
    held_out: npt.NDArray[np.int64]  # (n,) held-out items of each user

    def total(self, k: int, weight: Floats | None = None) -> Floats:
        """Sum the weights (default: 1) of each user's hits within k -> (n,) float64."""
        within = self.rank <= k
        weights = None if weight is None else weight[within]
        totals = np.bincount(self.row[within], weights=weights, minlength=len(self.held_out))
        return totals.astype(np.float64, copy=False)

    def best(self, k: int) -> Floats:
        """min(k, held-out items): the hits of a perfect list -> (n,) float64."""
        return np.minimum(self.held_out, k).astype(np.float64)

    def nth(self) -> npt.NDArray[np.int64]:
        """The number of each hit among the hits of its row, from 1 -> (h,)."""
        per_row = np.bincount(self.row, minlength=len(self.held_out))
        start = np.cumsum(per_row) - per_row
        return np.arange(1, len(self.row) + 1) - start[self.row]


# Each definition gives numerator and denominator, (n,) each; the division leaves out users without held-out items.


def _recall(hits: Hits, k: int) -> tuple[Floats, Floats]:
    return hits.total(k), hits.best(k)


def _plain_recall(hits: Hits, k: int) -> tuple[Floats, Floats]:
    return hits.total(k), hits.held_out.astype(np.float64)


def _ndcg(hits: Hits, k: int) -> tuple[Floats, Floats]:
    deepest = max(hits.held_out.max(initial=0), hits.rank.max(initial=0))  # k itself may be huge
    gain = 1.0 / np.log2(np.arange(2, deepest + 2))  # gain[rank - 1]
    ideal = np.concatenate([[0.0], np.cumsum(gain)])
    return hits.total(k, gain[hits.rank - 1]), ideal[np.minimum(hits.held_out, k)]


def _precision(hits: Hits, k: int) -> tuple[Floats, Floats]:
    return hits.total(k), np.full(len(hits.held_out), float(k))


def _hit_rate(hits: Hits, k: int) -> tuple[Floats, Floats]:
    return np.minimum(hits.total(k), 1.0), np.ones(len(hits.held_out))


def _mrr(hits: Hits, k: int) -> tuple[Floats, Floats]:
    first = hits.nth() == 1
    return hits.total(k, np.where(first, 1.0 / hits.rank, 0.0)), np.ones(len(hits.held_out))


def _map(hits: Hits, k: int) -> tuple[Floats, Floats]:
    return hits.total(k, hits.nth() / hits.rank), hits.best(k)


PER_USER: dict[str, Callable[[Hits, int], tuple[Floats, Floats]]] = {
    "recall": _recall,
    "plain_recall": _plain_recall,
    "ndcg": _ndcg,
    "precision": _precision,
    "hit_rate": _hit_rate,
    "mrr": _mrr,
    "map": _map,
}
"""The metrics with one value per user, by name: a numerator and a denominator of the hits and k, float64 (n,) each."""

LIST_SET: tuple[str, ...] = ("coverage", "novelty", "diversity", "gini")
"""Names of the metrics with one value for a whole set of lists."""


def parse_metric(text: str) -> MetricName:
    """Parse ``name@k``, for example ``ndcg@100``.

    Raises :class:`~recvae.errors.ConfigError` for an unknown name, a missing k, or k < 1.
    """
    if not isinstance(text, str):
        raise ConfigError(f"A metric is a text such as ndcg@100, and not {shown(text)}.")
    name, at, depth = text.strip().partition("@")
    known = (*PER_USER, *LIST_SET)
    if name not in known:
        hint = did_you_mean(name.lower(), known) or f" There are {', '.join(known)}, each followed by @k."
        raise ConfigError(f"There is no metric {shown(name)}.{hint}")
    if not at:
        raise ConfigError(f"The metric '{name}' needs the length of the list, for example {name}@20.")
    if not re.fullmatch(r"[0-9]{1,18}", depth) or int(depth) < 1:
        raise ConfigError(f"{shown(text.strip())}: k, the length of the list, must be a whole number of at least 1.")
    return MetricName(name, int(depth))


def parse_metrics(metrics: str | Iterable[str | MetricName]) -> tuple[MetricName, ...]:
    """Parse several names, or one string of names separated by commas; a name given twice is kept once.

    Raises :class:`~recvae.errors.ConfigError` with all mistakes together, or where no name is given.
    """
    parsed: dict[MetricName, None] = {}
    mistakes: dict[str, None] = {}
    for metric in metrics.split(",") if isinstance(metrics, str) else items("The metrics", metrics):
        try:
            parsed[metric if isinstance(metric, MetricName) else parse_metric(metric)] = None
        except ConfigError as error:
            mistakes[str(error)] = None
    if mistakes:
        raise ConfigError(" ".join(mistakes))
    if not parsed:
        raise ConfigError("No metric is named. Name at least one, for example ndcg@100.")
    return tuple(parsed)


def as_floats(name: str, values: npt.ArrayLike) -> Floats:
    """Return numbers as a float64 array, None as NaN; raise :class:`~recvae.errors.DataError` for other values."""
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "biufO":
            raise TypeError(f"they are of type {array.dtype}")
        floats: Floats = array.astype(np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise DataError(f"{name} must be an array of numbers, and is {shown(values)}.") from error
    return floats


def check_matrix(matrix: csr_array, name: str) -> None:
    """Check that ``matrix`` is a canonical CSR (rows sorted, no duplicates) without negative, infinite or NaN values.

    ``name`` names the matrix in the message. Raises :class:`~recvae.errors.DataError`.
    """
    if getattr(matrix, "format", None) != "csr" or matrix.ndim != 2:
        raise DataError(f"The {name} matrix must be a scipy.sparse.csr_array, and is a {type(matrix).__name__}.")
    check_indices(matrix, f"The {name} matrix")
    if matrix.dtype.kind not in "biuf":
        raise DataError(f"The {name} matrix holds values of type {matrix.dtype}; clicks are numbers.")
    if not matrix.has_canonical_format:
        raise DataError(f"The {name} matrix has unsorted or duplicate columns. Call its sum_duplicates() first.")
    if matrix.data.size and not (matrix.data.min() >= 0 and matrix.data.max() < np.inf):  # also true of NaN
        raise DataError(f"The {name} matrix holds a negative, infinite or NaN value; clicks are positive numbers.")


def _clicks(matrix: csr_array) -> tuple[Ints, Ints]:
    """Return (indptr, indices) of a CSR without its explicit zeros."""
    present = matrix.data != 0
    if present.all():
        return matrix.indptr, matrix.indices
    kept = np.concatenate([[0], np.cumsum(present)])
    return kept[matrix.indptr], matrix.indices[present]


def check_ids(ids: object, n_items: int) -> Ints:
    """Check ``ids`` (n, K): int32 or int64, in the catalogue, unique in a row, -1 only as padding at the end."""
    if not (isinstance(ids, np.ndarray) and ids.ndim == 2 and ids.dtype in (np.int32, np.int64)):
        found = f"{ids.dtype} of shape {ids.shape}" if isinstance(ids, np.ndarray) else f"a {type(ids).__name__}"
        raise InputError(f"Ranked ids must be an int32 array of shape (users, k), and are {found}.")
    if ids.size == 0:
        return ids
    lowest, highest = int(ids.min()), int(ids.max())
    if lowest < -1 or highest >= n_items:
        wrong = highest if highest >= n_items else lowest
        raise InputError(f"Ranked ids hold {wrong}, outside the catalogue of {n_items} items (-1 pads short lists).")
    if lowest == -1 and (padded := np.flatnonzero(((ids[:, :-1] < 0) & (ids[:, 1:] >= 0)).any(axis=1))).size:
        raise InputError(f"Ranked ids of row {padded[0]} have padding (-1) before an item; it belongs at the end.")
    ordered = np.sort(ids, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if twice.any():
        row, place = np.argwhere(twice)[0]
        raise InputError(f"Ranked ids of row {row} hold item {ordered[row, place]} twice; a list names an item once.")
    return ids


def contained(ids: Ints, matrix: csr_array) -> npt.NDArray[np.bool_]:
    """Return for each ranked id whether its row of ``matrix`` holds it -> (n, K) bool.

    ``ids`` (n, K) integers in [-1, n_items), not checked, -1 is never contained; ``matrix`` CSR (n, n_items),
    explicit zeros do not count. The ids are looked up in a marking buffer of a few rows at a time, which is an order
    of magnitude faster than a binary search and needs a few megabytes whatever the number of users.

    Raises :class:`~recvae.errors.InputError` where the numbers of rows differ.
    """
    n, n_items = matrix.shape
    if len(ids) != n:
        raise InputError(f"There are ranked ids for {len(ids)} users and held-out rows for {n}; they must match.")
    indptr, indices = _clicks(matrix)
    width = n_items + 1  # slot 0 of a row stands for the padding and stays unmarked
    rows = min(max(1, _BUFFER_BYTES // width), max(1, n))
    marks = np.zeros(rows * width, dtype=np.bool_)
    first_slot = np.arange(rows, dtype=np.int64) * width + 1
    found = np.empty(ids.shape, dtype=np.bool_)
    for start in range(0, n, rows):
        stop = min(n, start + rows)
        slots = first_slot[: stop - start]
        marked = np.repeat(slots, np.diff(indptr[start : stop + 1])) + indices[indptr[start] : indptr[stop]]
        marks[marked] = True
        found[start:stop] = marks[ids[start:stop] + slots[:, None]]
        marks[marked] = False
    return found


def held_out_items(held_out: csr_array, beyond: npt.ArrayLike | None = None) -> npt.NDArray[np.int64]:
    """Return the number of held-out items of each user, int64 (n,); ``beyond`` as of :func:`per_user_metrics`.

    Raises :class:`~recvae.errors.DataError` where ``beyond`` holds no counts, or not one for each user.
    """
    per_row = np.diff(_clicks(held_out)[0]).astype(np.int64)
    if beyond is None:
        return per_row
    more = np.asarray(beyond)
    if more.shape != per_row.shape or more.dtype.kind not in "iu" or (more.size and more.min() < 0):
        raise DataError(f"beyond must hold a whole number from 0 on for each of {len(per_row)} users.")
    return per_row + more.astype(np.int64)


def per_user_metrics(
    ids: Ints, held_out: csr_array, metrics: str | Iterable[str | MetricName], *, beyond: npt.ArrayLike | None = None
) -> dict[str, Floats]:
    """Score ranked lists against held-out clicks -> ``{"name@k": (n,) float64}``, NaN without held-out items.

    ``ids``: (n, K) integers, row r the list of user r, best first, padded at the end with -1; ``held_out``: CSR
    (n, n_items), canonical, explicit zeros are no clicks; ``metrics``: names from ``PER_USER``, as strings or parsed;
    ``beyond``: (n,) held-out items of each user that the catalogue does not have, which count as not found.
    One list serves all metrics and all k. Each row is scored by itself: the values do not depend on the other rows.

    Raises :class:`~recvae.errors.ConfigError` for a metric that is unknown or of the whole list set,
    :class:`~recvae.errors.DataError` for a wrong held-out matrix or ``beyond`` and
    :class:`~recvae.errors.InputError` for wrong ids.
    """
    names = parse_metrics(metrics)
    for metric in names:
        if metric.name not in PER_USER:
            raise ConfigError(f"'{metric}' is a metric of a whole set of lists and has no value per user.")
    check_matrix(held_out, "held-out")
    hit = np.flatnonzero(contained(check_ids(ids, held_out.shape[1]), held_out))
    per_row = held_out_items(held_out, beyond)
    length = max(1, ids.shape[1])
    hits = Hits(row=hit // length, rank=hit % length + 1, held_out=per_row)
    values: dict[str, Floats] = {}
    for metric in names:
        numerator, denominator = PER_USER[metric.name](hits, metric.k)
        value = np.full(len(per_row), np.nan)
        np.divide(numerator, denominator, out=value, where=per_row > 0)
        values[str(metric)] = value
    return values
