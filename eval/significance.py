"""The uncertainty of a result: standard errors, bootstrap intervals, and paired comparison on the same users.

Values come as one float64 per user, NaN for a user without held-out items; NaN users are left out everywhere. Where the
same user occurs more than once (several splits, several seeds), the values are not independent: ``clusters`` then
names each value's user, users are resampled whole, and the standard errors are the cluster-robust ones.
With every user in a cluster of its own these formulas are the ordinary ones, so there is one code path.

The mean is sum(S) / sum(N) over clusters with sum S and size N; its standard error is the linearised one of a ratio,
sqrt(C / (C - 1) * sum((S - mean * N)^2)) / sum(N), which for N = 1 is the sample standard deviation (ddof = 1) over
sqrt(n). Intervals are percentile bootstrap (Efron & Tibshirani 1993, chapter 13). The paired test is the two-sided
paired t test, with C - 1 degrees of freedom; it is not corrected for the number of comparisons made.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr  # the t distribution without the slow import of scipy.stats

from eval.metrics import as_floats
from recvae.arguments import shown, whole_number
from recvae.errors import ConfigError, InputError

__all__ = ["Comparison", "Metric", "bootstrap_interval", "compare", "resampled_means", "summarize"]

Floats = npt.NDArray[np.float64]

_BLOCK = 1 << 20  # resampled values held at one time
MOST_DRAWS = 10_000_000  # the largest number of draws of a bootstrap


@dataclass(frozen=True)
class Metric:
    """A mean over users.

    ``se`` is its standard error, NaN where it is not defined (fewer than two users, or a metric of a whole list set);
    ``users`` counts the users in the mean.
    """

    mean: float
    se: float
    users: int

    def to_dict(self) -> dict[str, float | int | None]:
        """Return ``{"mean", "se", "users"}``; NaN becomes None, as JSON has none."""
        return {"mean": _or_none(self.mean), "se": _or_none(self.se), "users": self.users}


@dataclass(frozen=True)
class Comparison:
    """The paired difference a - b on the same users.

    ``difference`` and ``se``: its mean and standard error; ``low``, ``high``: percentile bootstrap interval of the mean
    at ``level``; ``p``: two-sided paired t test of "the mean difference is 0"; ``users``: the number of differences
    (values, not clusters).
    """

    difference: float
    se: float
    low: float
    high: float
    p: float
    users: int
    level: float

    def to_dict(self) -> dict[str, float | int | None]:
        """Return the fields as JSON values; NaN becomes None."""
        return {key: _or_none(value) for key, value in vars(self).items()}


def summarize(values: npt.ArrayLike, *, clusters: npt.ArrayLike | None = None) -> Metric:
    """Return mean, standard error (ddof = 1) and count of ``values`` (n,), NaN left out.

    ``clusters``: (n,) user of each value, any dtype. Without values the mean is NaN; with fewer than two clusters the
    standard error is. Raises :class:`~recvae.errors.InputError` for wrong shapes or infinite values.
    """
    sums, sizes = _grouped(*_present(values, clusters))
    return Metric(_mean(sums, sizes), _standard_error(sums, sizes), int(sizes.sum()))


def bootstrap_interval(
    values: npt.ArrayLike,
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
    clusters: npt.ArrayLike | None = None,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval (low, high) of the mean of ``values`` (n,), NaN left out.

    ``draws`` resamples of the users (of the clusters, where given), made in blocks of bounded memory by a generator
    seeded with ``seed``: the same input gives the same interval. (NaN, NaN) with fewer than two clusters.

    Raises :class:`~recvae.errors.ConfigError` for a level outside (0, 1) or fewer than 100 draws, and
    :class:`~recvae.errors.InputError` for wrong shapes or infinite values.
    """
    _check_options(level, draws, seed)
    return _interval(*_grouped(*_present(values, clusters)), level=level, draws=draws, seed=seed)


def resampled_means(
    columns: Sequence[npt.ArrayLike],
    *,
    draws: int = 2000,
    seed: int = 0,
    clusters: npt.ArrayLike | None = None,
) -> Floats:
    """Return the means of several quantities over the same resampled users, float64 (draws, len(columns)).

    For the interval of a function of several means, such as a ratio or a difference of roots: compute it from each row
    and take its quantiles. ``columns``: vectors (n,), entry i of each about the same user, NaN
    where the user has no such value; options as in :func:`bootstrap_interval`. A mean over no value is NaN.

    Raises :class:`~recvae.errors.ConfigError` for fewer than 100 draws and :class:`~recvae.errors.InputError` for wrong
    shapes or infinite values.
    """
    _check_options(0.95, draws, seed)
    vectors = [_vector(column, f"column {number}") for number, column in enumerate(columns, start=1)]
    if not vectors or any(vector.shape != vectors[0].shape for vector in vectors):
        raise InputError("There must be columns to resample, all of the same length.")
    groups = np.arange(len(vectors[0])) if clusters is None else np.asarray(clusters)
    if groups.shape != vectors[0].shape:
        raise InputError(f"clusters must name a user for each of {len(vectors[0])} values, not {groups.shape}.")
    present = ~np.all([np.isnan(vector) for vector in vectors], axis=0)
    if not present.any():
        return np.full((draws, len(vectors)), math.nan)
    _, group = np.unique(groups[present], return_inverse=True)
    kept = [vector[present] for vector in vectors]
    sums = [np.bincount(group, weights=np.nan_to_num(vector)).astype(np.float64) for vector in kept]
    sizes = [np.bincount(group, weights=~np.isnan(vector)).astype(np.float64) for vector in kept]
    return _resampled(sums, sizes, draws=draws, seed=seed)


def compare(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
    clusters: npt.ArrayLike | None = None,
) -> Comparison:
    """Compare two metrics of the same users: the mean of ``a - b``, its uncertainty, and a paired t test.

    ``a``, ``b``: (n,), entry i the value of the same user in both, NaN for a user without held-out items; options as
    in :func:`bootstrap_interval`. Where all differences are equal, the standard error is 0 and p is 1 (all zero) or
    0. With fewer than two users (or clusters) all but the difference is NaN.

    Raises :class:`~recvae.errors.InputError` where the shapes differ, a user has a value in one array only, a value is
    infinite, or no user has a value; :class:`~recvae.errors.ConfigError` as :func:`bootstrap_interval`.
    """
    _check_options(level, draws, seed)
    first, second = _vector(a, "a"), _vector(b, "b")
    if first.shape != second.shape:
        raise InputError(f"A paired comparison needs the same users: there are {len(first)} values and {len(second)}.")
    lonely = np.flatnonzero(np.isnan(first) != np.isnan(second))
    if lonely.size:
        raise InputError(
            f"A paired comparison needs the same users: {lonely.size} of {len(first)} have a value on one side only "
            f"(the first is number {lonely[0]}). Evaluate both models on the same held-out clicks."
        )
    sums, sizes = _grouped(*_present(first - second, clusters))
    if not sums.size:
        raise InputError("There is nothing to compare: no user has held-out items.")
    mean, se = _mean(sums, sizes), _standard_error(sums, sizes)
    low, high = _interval(sums, sizes, level=level, draws=draws, seed=seed)
    return Comparison(mean, se, low, high, _p_value(mean, se, len(sums)), int(sizes.sum()), level)


def _p_value(mean: float, se: float, count: int) -> float:
    """Two-sided t test of "the mean is 0" with count - 1 degrees of freedom; NaN where se is."""
    if se == 0:  # all differences are equal
        return float(mean == 0)
    return float(2 * stdtr(count - 1, -abs(mean / se)))


def _or_none(value: float) -> float | None:
    """NaN as None."""
    return None if math.isnan(value) else value


def _check_options(level: float, draws: int, seed: int) -> None:
    """Raise ConfigError with all mistakes in the options of the bootstrap."""
    mistakes = []
    if isinstance(level, bool) or not isinstance(level, float | int | np.floating) or not 0 < level < 1:
        mistakes.append(f"level must lie between 0 and 1, and is {shown(level)}.")
    for name, value, least, most in (("draws", draws, 100, MOST_DRAWS), ("seed", seed, 0, 2**64)):
        try:
            whole_number(name, value, least=least, most=most)
        except InputError as error:
            mistakes.append(str(error))
    if mistakes:
        raise ConfigError(" ".join(mistakes))


def _vector(values: npt.ArrayLike, name: str) -> Floats:
    """``values`` as (n,) float64; raise InputError where it is not a vector of numbers or not bounded."""
    vector = as_floats(name, values)
    if vector.ndim != 1:
        raise InputError(f"{name} must hold one value per user, and has shape {vector.shape}.")
    if np.isinf(vector).any():
        raise InputError(f"{name} holds an infinite value.")
    return vector


def _present(values: npt.ArrayLike, clusters: npt.ArrayLike | None) -> tuple[Floats, npt.NDArray[np.generic] | None]:
    """Drop NaN values together with their clusters."""
    vector = _vector(values, "values")
    present = ~np.isnan(vector)
    if clusters is None:
        return vector[present], None
    try:
        groups = np.asarray(clusters)
    except (TypeError, ValueError, RuntimeError):  # lists of several lengths, tensors elsewhere
        groups = np.empty(())
    if groups.shape != vector.shape:
        raise InputError(f"clusters must name a user for each of {len(vector)} values, and has shape {groups.shape}.")
    return vector[present], groups[present]


def _grouped(values: Floats, clusters: npt.NDArray[np.generic] | None) -> tuple[Floats, Floats]:
    """Sum and size of each cluster -> (C,), (C,); without clusters every value is its own."""
    if clusters is None:
        return values, np.ones(len(values))
    try:
        _, group = np.unique(clusters, return_inverse=True)
    except TypeError as error:
        raise InputError("clusters must name users by values of one kind: these cannot be put in order.") from error
    return np.bincount(group, weights=values).astype(np.float64), np.bincount(group).astype(np.float64)


def _mean(sums: Floats, sizes: Floats) -> float:
    return float(sums.sum() / sizes.sum()) if sums.size else math.nan


def _standard_error(sums: Floats, sizes: Floats) -> float:
    """Cluster-robust standard error of the mean; NaN with fewer than two clusters."""
    count = len(sums)
    if count < 2:
        return math.nan
    residual = sums - _mean(sums, sizes) * sizes
    return math.sqrt(count / (count - 1) * float(residual @ residual)) / float(sizes.sum())


def _interval(sums: Floats, sizes: Floats, *, level: float, draws: int, seed: int) -> tuple[float, float]:
    """Percentile interval of the resampled mean."""
    if len(sums) < 2:
        return math.nan, math.nan
    means = _resampled([sums], [sizes], draws=draws, seed=seed)[:, 0]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _resampled(sums: Sequence[Floats], sizes: Sequence[Floats], *, draws: int, seed: int) -> Floats:
    """Return the means of each pair of sums and sizes, (C,) each, over resampled clusters -> (draws, len(sums))."""
    count = len(sums[0])
    generator = np.random.default_rng(seed)
    means = np.empty((draws, len(sums)))
    step = max(1, _BLOCK // max(1, count))
    for start in range(0, draws, step):
        stop = min(draws, start + step)
        chosen = generator.integers(0, count, size=(stop - start, count), dtype=np.uint32)
        for column, (total, size) in enumerate(zip(sums, sizes, strict=True)):
            users = count if (size == 1).all() else np.take(size, chosen).sum(axis=1)
            with np.errstate(invalid="ignore"):  # a draw without any value: 0 / 0
                means[start:stop, column] = np.take(total, chosen).sum(axis=1) / users
    return means
