"""A log replayed in order: windows of time, and before every click a question that knows nothing later.

A user's clicks at one time are one question: the history is the user's clicks at earlier times, and the clicks at that
time are to be found. So each click of the log is to be found once, no click is in a history before its time, and clicks
whose order is not known are not put in one. This is prequential evaluation, as Vinagre, Jorge and Gama describe it for
recommenders ("Evaluation of recommender systems in streaming environments", 2014), with the model held fixed between
refits.

Values come one for each question. A user has many questions, which are not independent: standard errors and paired
comparisons take the user as the cluster (:mod:`eval.significance`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from eval.metrics import MetricName
from eval.protocols import Ranker, evaluate
from recvae.arguments import whole_number
from recvae.errors import DataError, InputError

__all__ = ["SEEN", "Questions", "Replay", "Window", "answers_to", "seen_group", "windows_of"]

Ints = npt.NDArray[np.int64]

SEEN: tuple[tuple[int, int | None], ...] = ((0, 0), (1, 1), (2, 4), (5, 9), (10, 19), (20, 49), (50, None))
"""The groups of questions by clicks seen: least and most, None without limit."""

_TOGETHER = 1 << 13  # questions whose matrices are made together


@dataclass(frozen=True)
class Window:
    """Times from ``begin`` on and before ``end``; ``fit``: the number, from 0, of the refit that serves in it."""

    begin: float
    end: float
    fit: int


def windows_of(begin: float, latest: float, every: float, refit_every: float) -> list[Window]:
    """Return the windows from ``begin`` to the one that holds ``latest``.

    A model is fitted at ``begin`` and every ``refit_every`` from then on. Raises
    :class:`~recvae.errors.InputError` where that is not a whole number of windows, where a span is not above 0, or
    where ``latest`` lies before ``begin``.
    """
    if not (every > 0 and refit_every > 0):
        raise InputError("Windows and the time between refits must be spans above 0.")
    between = round(refit_every / every)
    if between < 1 or abs(between * every - refit_every) > 1e-9 * refit_every:
        raise InputError(
            f"The time between refits must be a whole number of windows, and is {refit_every / every:.6g} of them."
        )
    if latest < begin:
        raise InputError("The log ends before the first window begins: choose an earlier begin.")
    n = int((latest - begin) // every) + 1
    whole_number("The number of windows", n, least=1, most=100_000)
    return [Window(begin + place * every, begin + (place + 1) * every, place // between) for place in range(n)]


@dataclass(frozen=True, eq=False)
class Questions:
    """Questions in the order of users and times: clicks are places in the replay.

    ``first`` int64 (q,): where the user's clicks begin; ``at``: where those to be found begin, which is where the
    history ends; ``stop``: where they end. ``user`` int64 (q,) is the user's code.
    """

    user: Ints
    first: Ints
    at: Ints
    stop: Ints

    def __len__(self) -> int:
        return len(self.user)

    @property
    def seen(self) -> Ints:
        """The clicks of the user before the question, int64 (q,)."""
        return self.at - self.first

    def some(self, rows: slice | Ints) -> "Questions":
        """Return some of the questions."""
        return Questions(self.user[rows], self.first[rows], self.at[rows], self.stop[rows])


class Replay:
    """The clicks of a log, each pair of user and item once: ``user`` and ``item`` codes and ``time``, (n,) each."""

    def __init__(self, user: npt.NDArray[np.integer], item: npt.NDArray[np.integer], time: npt.ArrayLike) -> None:
        times = np.asarray(time)
        if not len(user) == len(item) == len(times):
            raise DataError("Users, items and times of a log must be columns of the same length.")
        order = np.lexsort((times, user))
        self._user, self._item, self._time = user[order].astype(np.int64), item[order], times[order]
        starts = np.flatnonzero(np.r_[True, self._user[1:] != self._user[:-1]][: len(user)])
        self._first = np.repeat(starts, np.diff(np.r_[starts, len(user)]))

    def questions(self, window: Window, *, most: int | None = None, seed: int = 0) -> Questions:
        """Return the questions of a window; ``most``: so many at most, drawn with the seed."""
        inside = np.flatnonzero((self._time >= window.begin) & (self._time < window.end))
        user, time = self._user[inside], self._time[inside]
        begins = np.flatnonzero(np.r_[True, (user[1:] != user[:-1]) | (time[1:] != time[:-1])][: len(inside)])
        at = inside[begins]
        lengths = np.diff(np.r_[begins, len(inside)])
        found = Questions(user[begins], self._first[at], at, at + lengths)
        if most is None or len(found) <= most:
            return found
        return found.some(np.sort(np.random.default_rng(seed).permutation(len(found))[:most]))

    def clicks(self, first: Ints, stop: Ints, column_of: npt.NDArray[np.integer], n_items: int) -> csr_array:
        """Return the clicks at places ``first`` to ``stop``, (q,) each, as CSR of ones (q, n_items).

        ``column_of``: for each item code its column, or -1 for an item that is left out.
        """
        lengths = stop - first
        rows = np.repeat(np.arange(len(first)), lengths)
        places = np.repeat(first - (np.cumsum(lengths) - lengths), lengths) + np.arange(int(lengths.sum()))
        columns = column_of[self._item[places]]
        known = columns >= 0
        ones = np.ones(int(np.count_nonzero(known)), np.float32)
        return csr_array((ones, (rows[known], columns[known])), shape=(len(first), n_items))


def answers_to(
    ranker: Ranker,
    replay: Replay,
    questions: Questions,
    column_of: npt.NDArray[np.integer],
    n_items: int,
    metrics: Sequence[str | MetricName],
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, npt.NDArray[np.float64]]:
    """Return the metrics of the ranker's lists, float64 (q,) each; an item that it does not know is not found.

    Metrics are those with a value per user; errors are those of :func:`eval.evaluate`.
    """
    parts: list[dict[str, npt.NDArray[np.float64]]] = []
    for some in _blocks(questions):
        histories = replay.clicks(some.first, some.at, column_of, n_items)
        wanted = replay.clicks(some.at, some.stop, column_of, n_items)
        beyond = (some.stop - some.at) - np.diff(wanted.indptr)
        parts.append(evaluate(ranker, histories, wanted, metrics, beyond=beyond).per_user)
        if progress is not None:
            progress(sum(len(next(iter(part.values()))) for part in parts), len(questions))
    return {str(name): np.concatenate([part[str(name)] for part in parts] or [np.zeros(0)]) for name in metrics}


def _blocks(questions: Questions) -> Iterator[Questions]:
    for start in range(0, len(questions), _TOGETHER):
        yield questions.some(slice(start, start + _TOGETHER))


def seen_group(seen: Ints) -> Ints:
    """Return the place in ``SEEN`` of each number of clicks seen, int64 (q,)."""
    return np.searchsorted([least for least, _ in SEEN], seen, side="right") - 1
