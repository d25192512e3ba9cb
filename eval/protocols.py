"""The evaluation protocol: fold-in clicks -> a ranked list -> metrics on the held-out clicks of the same users.

This is step 4 of the strong-generalisation protocol of Liang et al. 2018 (arXiv 1802.05814, section 4.2); it serves
any split that gives a fold-in and a held-out matrix with the same rows. Anything that answers a query, as
:class:`Ranker` says, can be evaluated. The metrics score the lists of that answer, which are the lists that users get.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from eval.list_sets import ListCounts
from eval.metrics import (
    LIST_SET,
    PER_USER,
    MetricName,
    check_matrix,
    contained,
    held_out_items,
    parse_metrics,
    per_user_metrics,
)
from eval.significance import Metric, summarize
from recvae.arguments import Frame, function, is_frame, shown, whole_number
from recvae.errors import ConfigError, DataError, InputError
from recvae.files import JsonObject
from recvae.queries import Answer, Query

__all__ = ["DEFAULT_METRICS", "Evaluation", "Ranker", "evaluate", "validator"]

DEFAULT_METRICS: tuple[str, ...] = ("recall@20", "recall@50", "ndcg@100")
"""The metrics in the tables of Liang et al. 2018 and Shenbin et al. 2020."""

_BATCH_SIZE = 2048


class Ranker(Protocol):
    """The method of a model or baseline that the evaluation calls."""

    def answer(self, query: Query) -> Answer:
        """Return the lists of ``query.k`` items that answer a query, within its rules.

        Row r of the answer belongs to row r of ``query.histories``, CSR (n, n_items), whose column j is item j; the
        user need not be known to the model.
        """
        ...


class FrameRanker(Ranker, Protocol):
    """A ranker that reads data frames: it knows which item each raw id is."""

    def encode_frames(
        self, *frames: Frame, user_column: str, item_column: str, skip_unknown: bool, labels: Sequence[str]
    ) -> tuple[list[csr_array], list[str]]:
        """Return the clicks of each frame as CSR (n, n_items), row u of all the user ``u`` of the list that follows."""
        ...


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The result of one evaluation.

    ``metrics``: ``{"ndcg@100": Metric(mean, se, users)}`` in the order asked for; ``per_user``: float64 (n,) for each
    metric that has a value per user, entry i that of row i of the held-out matrix, NaN where it is empty;
    ``left_out``: users without held-out items; ``rank_seconds``: wall time inside ``answer``; ``score_seconds``:
    wall time of checks and metrics.
    """

    metrics: dict[str, Metric]
    per_user: dict[str, npt.NDArray[np.float64]]
    left_out: int
    rank_seconds: float
    score_seconds: float

    def to_dict(self) -> JsonObject:
        """Return the JSON form of everything but the per-user values; a number that is not defined becomes None."""
        return {
            "metrics": {name: metric.to_dict() for name, metric in self.metrics.items()},
            "left_out": self.left_out,
            "rank_seconds": self.rank_seconds,
            "score_seconds": self.score_seconds,
        }


def evaluate(
    ranker: Ranker,
    fold_in: Query | csr_array | Frame,
    held_out: csr_array | Frame,
    metrics: str | Iterable[str | MetricName] = DEFAULT_METRICS,
    *,
    batch_size: int = _BATCH_SIZE,
    popularity: npt.ArrayLike | None = None,
    train: csr_array | None = None,
    beyond: npt.ArrayLike | None = None,
    progress: Callable[[int, int], None] | None = None,
    user_column: str = "user",
    item_column: str = "item",
    skip_unknown: bool = False,
) -> Evaluation:
    """Rank each user's items from the fold-in clicks and score the lists against the held-out clicks.

    ``fold_in``, ``held_out``: canonical CSR (n, n_items), row r of both the same user, no item in both. ``fold_in`` may
    be a :class:`~recvae.queries.Query`, which has conditions and rules beside the clicks; the metrics say how long its
    lists are. ``metrics``: names as in :mod:`eval.metrics`; ``batch_size``: users handed to the ranker
    at a time, which bounds memory and changes no result beyond the ranker's own rounding; ``popularity``: (n_items,)
    training clicks, for novelty; ``train``: the training clicks, CSR (any, n_items), for diversity; ``beyond``: (n,)
    held-out items of each user that the catalogue does not have, such as items newer than the model: they count as not
    found, also where a user has no others; ``progress``: called with (users done, users in all) after each batch.

    Both may be data frames of clicks (pandas, polars, pyarrow and the like) with the columns ``user_column`` and
    ``item_column``: row r of the result is then the r-th user in order of first appearance, in ``fold_in`` and after
    that in ``held_out``. Clicks on items that the ranker does not know are refused, or with ``skip_unknown`` left out
    of both frames, as the papers leave out test clicks on items without training clicks.

    One list per user, as long as the largest k (at most the catalogue), serves all metrics; where the query asks for
    diversity, each k has lists of its own, for a list of k is then not the beginning of a longer one. Users without
    held-out items are left out of the per-user metrics and not even ranked, unless a metric of the whole set of lists
    is asked for: these are taken over the lists of all users. Their ``Metric`` has no standard error and counts all
    users, or for diversity those whose list has two items.

    Raises :class:`~recvae.errors.ConfigError` for the options, :class:`~recvae.errors.DataError` for the matrices,
    and :class:`~recvae.errors.InputError` for a ranker that breaks its contract (a list with a seen item, an item
    twice, a score that is NaN, another number of rows).
    """
    names = parse_metrics(metrics)
    per_user_names = [name for name in names if name.name in PER_USER]
    list_set_names = [name for name in names if name.name in LIST_SET]
    function("progress", progress)
    columns = {"user_column": user_column, "item_column": item_column}
    known, wanted = _in_matrices(ranker, fold_in, held_out, skip_unknown=skip_unknown, **columns)
    check_matrix(wanted, "held-out")
    n_items = wanted.shape[1]
    counts = ListCounts(list_set_names, n_items, popularity, train) if list_set_names else None
    users = _Users(known, wanted, beyond, batch_size=batch_size, everyone=counts is not None)
    depths = sorted({name.k for name in names})
    lengths = depths if users.apart else depths[-1:]  # the lists that are made
    per_user = {str(name): np.full(users.total, np.nan) for name in per_user_names}
    rank_seconds = score_seconds = 0.0
    done = 0
    for k in lengths:
        here = [name for name in per_user_names if len(lengths) == 1 or name.k == k]
        for rows, query, clicks in users.batches(k):
            began = time.perf_counter()
            ids = _ranked(ranker, query)
            ranked = time.perf_counter()
            if here:
                for name, values in per_user_metrics(ids, clicks, here, beyond=users.beyond[rows]).items():
                    per_user[name][rows] = values
            if counts is not None:
                counts.add(ids, None if len(lengths) == 1 else k)
            _check_unseen(ids, query.histories)
            rank_seconds += ranked - began
            score_seconds += time.perf_counter() - ranked
            done += len(rows)
            if progress is not None:
                progress(done, len(lengths) * len(users.rows))
    results = {name: summarize(values) for name, values in per_user.items()}
    if counts is not None:
        lists = counts.lists()
        results |= {name: Metric(value, np.nan, lists[name]) for name, value in counts.values().items()}
    return Evaluation(
        metrics={str(name): results[str(name)] for name in names},
        per_user=per_user,
        left_out=users.left_out,
        rank_seconds=rank_seconds,
        score_seconds=score_seconds,
    )


def validator(
    fold_in: Query | csr_array,
    held_out: csr_array,
    metric: str = "ndcg@100",
    *,
    batch_size: int = _BATCH_SIZE,
    beyond: npt.ArrayLike | None = None,
) -> Callable[[Ranker], float]:
    """Return a function ``ranker -> mean of metric`` over the users with held-out items, for use after each epoch.

    The value is that of :func:`evaluate`. Checks and slices are made once, here; they hold one copy of the fold-in
    clicks of the users that count. Arguments and errors as in :func:`evaluate`; the metric must have a value per
    user, and at least one user must have held-out items.
    """
    name = _one_per_user_metric(metric)
    users = _Users(fold_in, held_out, beyond, batch_size=batch_size, everyone=False)
    if not users.rows.size:
        raise DataError("There is nothing to validate on: no user has held-out items.")
    batches = [(query, clicks, users.beyond[rows]) for rows, query, clicks in users.batches(name.k)]

    def validate(ranker: Ranker) -> float:
        parts = []
        for query, clicks, more in batches:
            ids = _ranked(ranker, query)
            parts.append(per_user_metrics(ids, clicks, [name], beyond=more)[str(name)])
            _check_unseen(ids, query.histories)
        return float(np.concatenate(parts).mean())

    return validate


def _in_matrices(
    ranker: Ranker,
    fold_in: Query | csr_array | Frame,
    held_out: csr_array | Frame,
    *,
    skip_unknown: bool,
    user_column: str,
    item_column: str,
) -> tuple[Query | csr_array, csr_array]:
    """Return two frames of clicks as CSR (n, n_items) with the same users, and two matrices as they are."""
    if not is_frame(fold_in) and not is_frame(held_out):
        return fold_in, held_out
    if not is_frame(fold_in) or not is_frame(held_out):
        raise InputError("The fold-in and the held-out clicks are two data frames or two matrices, not one of each.")
    if not callable(getattr(ranker, "encode_frames", None)):
        raise InputError(f"{type(ranker).__name__} reads no data frames (no 'encode_frames'): evaluate it on matrices.")
    reader = cast("FrameRanker", ranker)
    (known, wanted), _ = reader.encode_frames(
        fold_in,
        held_out,
        user_column=user_column,
        item_column=item_column,
        skip_unknown=skip_unknown,
        labels=("the fold-in frame", "the held-out frame"),
    )
    return known, wanted


class _Users:
    """The users to rank, checked, in batches: rows (b,), a query for lists of k, held-out CSR (b, n_items).

    ``apart``: whether a list of k is not the beginning of a longer one; ``beyond`` (n,): as of :func:`evaluate`.
    """

    def __init__(
        self,
        fold_in: Query | csr_array,
        held_out: csr_array,
        beyond: npt.ArrayLike | None,
        *,
        batch_size: int,
        everyone: bool,
    ) -> None:
        try:
            batch_size = whole_number("batch_size", batch_size, least=1)
        except InputError as error:
            raise ConfigError(str(error)) from error
        if not isinstance(fold_in, Query):
            check_matrix(fold_in, "fold-in")
            fold_in = Query(fold_in)
        check_matrix(held_out, "held-out")
        histories = fold_in.histories
        if histories.shape != held_out.shape:
            raise DataError(
                f"The fold-in matrix is {histories.shape[0]} x {histories.shape[1]} and the held-out matrix "
                f"{held_out.shape[0]} x {held_out.shape[1]}; they must have the same users and items."
            )
        if not fold_in.exclude_seen:
            raise InputError("Held-out clicks are on items not seen before: evaluate a query with exclude_seen=True.")
        _check_disjoint(histories, held_out)
        self.total = held_out.shape[0]
        of_catalogue = held_out_items(held_out)
        in_all = held_out_items(held_out, beyond)
        self.beyond = in_all - of_catalogue
        countable = in_all > 0
        self.left_out = self.total - int(np.count_nonzero(countable))
        self.rows = np.arange(self.total) if everyone else np.flatnonzero(countable)
        self._query, self._held_out, self._batch_size = fold_in, held_out, batch_size
        self.apart = fold_in.diversity > 0

    def batches(self, k: int) -> Iterator[tuple[npt.NDArray[np.int64], Query, csr_array]]:
        k = max(1, min(k, self._held_out.shape[1]))  # a list is at most the catalogue
        for start in range(0, len(self.rows), self._batch_size):
            rows = self.rows[start : start + self._batch_size]
            yield rows, self._query.of(rows, k=k), self._held_out[rows]


def _pattern(matrix: csr_array) -> csr_array:
    """1 where a click is and 0 at explicit zeros, sharing the indices of ``matrix``."""
    ones = (matrix.data != 0).astype(np.int64)
    return csr_array((ones, matrix.indices, matrix.indptr), shape=matrix.shape)


def _check_disjoint(fold_in: csr_array, held_out: csr_array) -> None:
    """Raise DataError where a user has an item in both matrices: it could be hit only by recommending a seen item."""
    both = _pattern(fold_in).multiply(_pattern(held_out))
    if both.nnz:
        row = int(np.flatnonzero(np.diff(both.indptr))[0])
        raise DataError(
            f"{both.nnz} clicks are both in the fold-in and in the held-out matrix (the first is row {row}, "
            f"item {both.indices[0]}); held-out clicks must be hidden from the model."
        )


def _one_per_user_metric(metric: str) -> MetricName:
    """Parse exactly one metric with a value per user."""
    names = parse_metrics([metric] if isinstance(metric, MetricName) else metric)
    if len(names) != 1 or names[0].name not in PER_USER:
        raise ConfigError(
            f"Validation needs one metric with a value per user, for example ndcg@100, and got {shown(metric)}."
        )
    return names[0]


def _ranked(ranker: Ranker, query: Query) -> npt.NDArray[np.int32]:
    """Return the ids that answer a query, rows and scores checked."""
    n, name = query.n_users, type(ranker).__name__
    if not callable(getattr(ranker, "answer", None)):
        raise InputError(f"Only what has a function 'answer' can be evaluated, and {shown(ranker)} has none.")
    answer = ranker.answer(query)
    if not isinstance(answer, Answer) or not all(isinstance(part, np.ndarray) for part in answer):
        raise InputError(f"{name}.answer gave {shown(answer)}; it must give a recvae.Answer of two arrays.")
    ids, scores = answer
    if ids.shape != scores.shape or ids.ndim != 2 or len(ids) != n:
        raise InputError(
            f"{name}.answer gave ids of shape {ids.shape} and scores of shape {scores.shape} "
            f"for {n} histories; both must be ({n}, k)."
        )
    if scores.dtype.kind not in "iuf":
        raise InputError(f"{name}.answer gave scores of type {scores.dtype}; they must be numbers.")
    if np.isnan(scores).any():
        raise InputError(f"{name}.answer gave a score that is NaN; its ranking means nothing.")
    return ids


def _check_unseen(ids: npt.NDArray[np.int32], histories: csr_array) -> None:
    """Raise InputError where a list names an item of its own history: it would score low without a visible cause.

    ``ids`` have been through the metrics, which check them.
    """
    seen = contained(ids, histories)
    if seen.any():
        row, place = np.argwhere(seen)[0]
        raise InputError(f"A list names item {ids[row, place]}, which is in its user's fold-in clicks already.")
