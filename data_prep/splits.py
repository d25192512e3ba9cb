"""Splits: from interactions in file order to matrices for training, validation and test.

``strong`` is the strong-generalisation protocol of Liang et al. (2018, arXiv 1802.05814), draw for draw: held-out users
are not trained on, part of their clicks is the model's input (fold-in), and the rest is to be found (held-out).
``random``, ``last-out`` and ``temporal`` divide the clicks of users who are trained on (weak generalisation), for
comparison with other leaderboards; the split that a service would meet, by a moment in time, is in
:mod:`data_prep.time_split`. A matrix exists only after the split, since a matrix with sorted columns has lost
the file order. For data that arrive already split there is :mod:`data_prep.given_split`.
"""

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from data_prep.arrivals import Arrivals
from data_prep.interactions import Ids, Interactions
from recvae.arguments import real_number, whole_number
from recvae.errors import DataError, InputError, did_you_mean
from recvae.frames.ids import ascending

SplitMethod = Literal["strong", "random", "last-out", "temporal"]
SPLIT_METHODS: tuple[str, ...] = get_args(SplitMethod)
TIME = "time"
"""The split of :mod:`data_prep.time_split`, which :func:`data_prep.prepare` has beside ``SPLIT_METHODS``."""

LIANG_SEED = 98765

_MIN_ITEMS_TO_HOLD_OUT = 5  # Liang et al.: a user with fewer remaining items gives nothing to held-out
TRAIN, VALIDATION, TEST = 0, 1, 2  # the parts of a split


@dataclass(frozen=True, eq=False)
class Split:
    """The matrices of a split, users x items, canonical float32 CSR of ones, and the ids of rows and columns.

    ``train`` is (n_train, n_items); ``validation_in`` (fold-in) and ``validation_out`` (held-out) share their rows, and
    so do ``test_in`` and ``test_out``. ``user_ids`` has an object array of row ids for "train", "validation" and
    "test", ascending. ``item_ids`` names the columns: the items with training clicks, in order of first appearance.
    ``dropped`` counts the clicks and users that were left out, by reason. ``arrivals``: of a time split, for
    "validation" and "test".
    """

    train: csr_array
    validation_in: csr_array
    validation_out: csr_array
    test_in: csr_array
    test_out: csr_array
    user_ids: dict[str, Ids]
    item_ids: Ids
    dropped: dict[str, int] = field(default_factory=dict)
    arrivals: dict[str, Arrivals] = field(default_factory=dict)


def make_split(
    interactions: Interactions,
    method: str = "strong",
    *,
    held_out_users: int | None = None,
    held_out_share: float = 0.2,
    seed: int = LIANG_SEED,
) -> Split:
    """Split interactions without duplicates by ``method``, one of ``SPLIT_METHODS``; deterministic in ``seed``.

    ``strong``: ``held_out_users`` users each for validation and test (default: :func:`default_held_out_users`); of
    their n clicks ``int(held_out_share * n)`` are held out. ``random``: of each user's n clicks
    ``int(held_out_share * n)`` are test, and the same share of the rest validation. ``last-out``: the last click of
    each user with at least 3 is test and the one before it validation; at equal times the later row is the later
    click. ``temporal``: the latest share of all clicks is test and the latest share of the rest validation, cut
    between different times.

    In the last three ``train`` holds the training clicks of all users, ``validation_in`` the training clicks and
    ``test_in`` the training and validation clicks of the users with held-out clicks. Raises
    :class:`InputError` for an unknown method or option and :class:`DataError` where the data do not allow the split.
    """
    check_method(method, held_out_share, held_out_users)
    check_seed(seed)
    if not len(interactions):
        raise DataError(f"{interactions.label} has no clicks to split.")
    if method == "strong":
        return _strong(interactions, held_out_users, held_out_share, seed)
    if method == "random":
        part = _random_parts(interactions, held_out_share, seed)
    elif method == "last-out":
        part = _last_out_parts(interactions)
    else:
        part = _temporal_parts(interactions, held_out_share)
    return _weak(interactions, part, method)


def check_method(method: str, held_out_share: float, held_out_users: int | None) -> None:
    """Raise :class:`InputError` for a split that there is not, or that does not take these options."""
    if method not in SPLIT_METHODS:
        every = (*SPLIT_METHODS, TIME)
        hint = " Cut interactions by time with data_prep.split_by_time." if method == TIME else ""
        hint = hint or did_you_mean(method, every)
        raise InputError(f"There is no split '{method}' here; there are {', '.join(every)}.{hint}")
    if not 0 < real_number("The held-out share", held_out_share) < 1:
        raise InputError(f"The held-out share must lie between 0 and 1, and {held_out_share} does not.")
    if method != "strong" and held_out_users is not None:
        raise InputError(f"A number of held-out users belongs to the strong split; '{method}' holds out clicks.")


def check_seed(seed: object) -> int:
    """Return a seed that NumPy's legacy generator takes; raise :class:`InputError` for any other value."""
    return whole_number("The seed", seed, least=0, most=2**32 - 1)


def default_held_out_users(n_users: int) -> int:
    """Return the validation users (and as many test users) for data without a convention: a tenth, at most 10,000."""
    return max(1, min(10_000, n_users // 10))


# --- strong generalisation ---------------------------------------------------------------------------------------


def _strong(data: Interactions, held_out_users: int | None, share: float, seed: int) -> Split:
    users = ascending_users(data)
    places = strong_places(users.size, held_out_users, seed, data.label)
    held_out = places["test"].size
    part_of = np.full(len(data.user_ids), -1, dtype=np.int8)
    row_of = np.zeros(len(data.user_ids), dtype=np.int32)
    for code, chosen in enumerate(places.values()):
        part_of[users[chosen]] = code
        row_of[users[chosen]] = np.arange(chosen.size)

    part = part_of[data.user]
    in_train = np.flatnonzero(part == TRAIN)
    items = data.item.take(in_train)
    catalogue, column_of = catalogue_of(data, items)
    shape = (places["train"].size, catalogue.size)
    train = clicks_matrix(row_of[data.user.take(in_train)], column_of[items], shape)
    dropped: dict[str, int] = {}
    pairs = {}
    for code, name in ((VALIDATION, "validation"), (TEST, "test")):
        mine = np.flatnonzero(part == code)
        rows, columns = row_of[data.user.take(mine)], column_of[data.item.take(mine)]
        known = columns >= 0
        dropped[f"{name}_clicks_outside_catalogue"] = int(known.size - np.count_nonzero(known))
        pairs[name] = _fold(rows[known], columns[known], (held_out, catalogue.size), share, seed)
    return Split(
        train,
        *pairs["validation"],
        *pairs["test"],
        user_ids={name: data.user_ids[users[chosen]] for name, chosen in places.items()},
        item_ids=data.item_ids[catalogue],
        dropped=dropped,
    )


def strong_places(n: int, held_out_users: int | None, seed: int, label: str) -> dict[str, npt.NDArray[np.int64]]:
    """Return the places of the users of "train", "validation" and "test" among ``n`` ascending ones, each ascending."""
    held_out = default_held_out_users(n) if held_out_users is None else held_out_users
    whole_number("The number of held-out users", held_out, least=1)
    if 2 * held_out >= n:
        raise DataError(
            f"{label} has {n:,} users after the filters, too few to hold out {held_out:,} for validation and"
            f" {held_out:,} for test. Hold out fewer users, or filter less."
        )
    drawn = np.random.RandomState(seed).permutation(n)
    return {
        "train": np.sort(drawn[: n - 2 * held_out]),
        "validation": np.sort(drawn[n - 2 * held_out : n - held_out]),
        "test": np.sort(drawn[n - held_out :]),
    }


def draw_held_out(
    counts: npt.NDArray[np.int64], share: float, generator: np.random.RandomState
) -> npt.NDArray[np.bool_]:
    """Return which clicks are held out, of users with ``counts`` clicks one after the other, in file order."""
    held = np.zeros(int(counts.sum()), dtype=bool)
    starts = np.cumsum(counts) - counts
    for start, n in zip(starts.tolist(), counts.tolist(), strict=True):
        if n >= _MIN_ITEMS_TO_HOLD_OUT:
            # The draw of choice(n, size, replace=False), which the protocol names, without what it does beside.
            held[start + generator.permutation(n)[: int(share * n)]] = True
    return held


def _fold(
    rows: npt.NDArray[np.int32], columns: npt.NDArray[np.int32], shape: tuple[int, int], share: float, seed: int
) -> tuple[csr_array, csr_array]:
    """Divide held-out users' clicks, in file order, into fold-in and held-out (step 4 of the protocol)."""
    order = np.argsort(rows, kind="stable")  # users ascending, and file order within a user
    rows, columns = rows[order], columns[order]
    generator = np.random.RandomState(seed)  # the authors seed again for each of validation and test
    held = draw_held_out(np.bincount(rows, minlength=shape[0]), share, generator)
    return _pair(rows, columns, held, shape)


# --- weak generalisation -----------------------------------------------------------------------------------------


def _random_parts(data: Interactions, share: float, seed: int) -> npt.NDArray[np.int8]:
    return _parts_in_order(*random_order(data, seed), share)


def random_parts(
    users: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], keys: npt.NDArray[np.float64], share: float
) -> npt.NDArray[np.int8]:
    """Return the part of each click (n,) by its random key; ``users`` ascending, with ``counts`` clicks each."""
    drawn = np.lexsort((keys, users))
    return _parts_in_order(drawn, ranks_within(counts), counts[users[drawn]], share)


def _parts_in_order(
    drawn: npt.NDArray[np.int64], place: npt.NDArray[np.int64], n: npt.NDArray[np.int64], share: float
) -> npt.NDArray[np.int8]:
    n_test = (share * n).astype(np.int64)
    n_validation = (share * (n - n_test)).astype(np.int64)
    part = np.zeros(len(drawn), dtype=np.int8)
    part[drawn[place < n_test + n_validation]] = VALIDATION
    part[drawn[place < n_test]] = TEST
    return part


def _last_out_parts(data: Interactions) -> npt.NDArray[np.int8]:
    time = _time(data, "last-out")
    rows = _ranks(data)[data.user]
    return last_out_parts(rows, np.bincount(rows), time)


def last_out_parts(
    rows: npt.NDArray[np.int64],
    counts: npt.NDArray[np.int64],
    time: npt.NDArray[np.int64] | npt.NDArray[np.float64],
) -> npt.NDArray[np.int8]:
    """Return the part of each click (n,) of the users ``rows``, who have ``counts`` clicks each."""
    by_time = np.lexsort((time, rows))  # stable, so file order decides between equal times
    enough = (counts >= 3)[rows[by_time]]
    from_end = counts[rows[by_time]] - 1 - ranks_within(counts)
    part = np.zeros(len(rows), dtype=np.int8)
    part[by_time[enough & (from_end == 0)]] = TEST
    part[by_time[enough & (from_end == 1)]] = VALIDATION
    return part


def _temporal_parts(data: Interactions, share: float) -> npt.NDArray[np.int8]:
    time = _time(data, "temporal")
    ordered = np.sort(time)
    cuts = temporal_places(time.size, share, data.label)
    return temporal_parts(time, *(ordered[place] for place in cuts))


def temporal_places(n: int, share: float, label: str) -> tuple[int, int]:
    """Return the places among ``n`` ordered times at which validation and test begin."""
    n_test = int(share * n)
    n_validation = int(share * (n - n_test))
    if not n_validation:
        raise DataError(f"{label} has {n:,} clicks, too few to hold out a share of {share} twice.")
    return n - n_test - n_validation, n - n_test


def temporal_parts(
    time: npt.NDArray[np.int64] | npt.NDArray[np.float64], validation: float, test: float
) -> npt.NDArray[np.int8]:
    """Return the part of each click (n,) by the times from which on clicks are of validation and of test."""
    part = np.zeros(len(time), dtype=np.int8)
    part[time >= validation] = VALIDATION
    part[time >= test] = TEST
    return part


def _time(data: Interactions, method: str) -> npt.NDArray[np.int64] | npt.NDArray[np.float64]:
    if data.time is None:
        raise no_times(method, data.label)
    return data.time


def no_times(method: str, label: str) -> InputError:
    """Return the error for a split by time of data without times."""
    return InputError(f"The {method} split needs times, and {label} was read without a time column.")


def _weak(data: Interactions, part: npt.NDArray[np.int8], method: str) -> Split:
    in_train = part == TRAIN
    if not in_train.any():
        raise no_training_clicks(method, data.label)
    catalogue, column_of = catalogue_of(data, data.item[in_train])
    users = ascending_users(data)
    clicks_in = {code: np.bincount(data.user[part == code], minlength=len(data.user_ids)) for code in range(3)}
    trained = clicks_in[TRAIN] > 0
    members = {"train": users[trained[users]]}
    dropped: dict[str, int] = {}
    matrices: dict[str, csr_array] = {}
    for code, name in ((TRAIN, "train"), (VALIDATION, "validation"), (TEST, "test")):
        if code != TRAIN:
            active = clicks_in[code] > 0
            dropped[f"{name}_users_without_training_clicks"] = int(np.count_nonzero(active & ~trained))
            members[name] = users[(active & trained)[users]]
            if not members[name].size:
                raise no_users(method, name, data.label)
        row_of = np.full(len(data.user_ids), -1, dtype=np.int32)
        row_of[members[name]] = np.arange(members[name].size)
        mine = (part <= code) & (row_of >= 0)[data.user]
        rows, columns, held = row_of[data.user[mine]], column_of[data.item[mine]], part[mine] == code
        known = columns >= 0
        shape = (members[name].size, catalogue.size)
        if code == TRAIN:
            matrices["train"] = clicks_matrix(rows, columns, shape)
        else:
            # Only this part's own clicks: validation clicks, which are fold-in for test, are counted already.
            dropped[f"{name}_clicks_outside_catalogue"] = int(np.count_nonzero(held & ~known))
            matrices[f"{name}_in"], matrices[f"{name}_out"] = _pair(rows[known], columns[known], held[known], shape)
    user_ids = {name: data.user_ids[codes] for name, codes in members.items()}
    return Split(**matrices, user_ids=user_ids, item_ids=data.item_ids[catalogue], dropped=dropped)


def no_training_clicks(method: str, label: str) -> DataError:
    """Return the error for a split that leaves nothing to train on."""
    return DataError(f"The {method} split leaves no training clicks of {label}: hold out a smaller share.")


def no_users(method: str, name: str, label: str) -> DataError:
    """Return the error for a split that leaves no validation or test users."""
    return DataError(f"The {method} split leaves no {name} users of {label}: they click too little.")


# --- shared ------------------------------------------------------------------------------------------------------


def random_order(
    data: Interactions, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Put each user's rows into a random order, which does not depend on the order of users in the file.

    Returns the row numbers (n,), users ascending, and for each row its place in its user's order, from 0, and its
    user's number of rows.
    """
    rows = _ranks(data)[data.user]
    keys = np.random.RandomState(seed).random_sample(len(data))
    # Keys are assigned by ascending user, so that only the order of rows within a user matters.
    order = np.argsort(rows, kind="stable")
    drawn = order[np.lexsort((keys, rows[order]))]
    counts = np.bincount(rows)
    return drawn, ranks_within(counts), counts[rows[drawn]]


def ascending_users(data: Interactions) -> npt.NDArray[np.int64]:
    """Return the codes of the users who have rows, in ascending order of their ids."""
    present = np.flatnonzero(data.user_counts())
    return present[ascending(data.user_ids[present])]  # ids without rows must not decide between numeric and text order


def _ranks(data: Interactions) -> npt.NDArray[np.int64]:
    """Return for each user code its place among the users who have rows, ascending by id."""
    users = ascending_users(data)
    ranks = np.full(len(data.user_ids), -1, dtype=np.int64)
    ranks[users] = np.arange(users.size)
    return ranks


def ranks_within(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return 0, 1, ..., n - 1 for each group of n rows, one group after another."""
    ends = np.cumsum(counts)
    return np.arange(int(counts.sum())) - np.repeat(ends - counts, counts)


def catalogue_of(
    data: Interactions, items: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Return the codes in ``items``, by first appearance, and for each item code its column or -1."""
    first = np.full(len(data.item_ids), items.size, dtype=np.int64)
    first[items[::-1]] = np.arange(items.size)[::-1]  # the last assignment stays, which is the first appearance
    seen = np.flatnonzero(first < items.size)
    catalogue = seen[np.argsort(first[seen])]
    column_of = np.full(len(data.item_ids), -1, dtype=np.int32)
    column_of[catalogue] = np.arange(catalogue.size)
    return catalogue, column_of


def _pair(
    rows: npt.NDArray[np.int32], columns: npt.NDArray[np.int32], held: npt.NDArray[np.bool_], shape: tuple[int, int]
) -> tuple[csr_array, csr_array]:
    fold_in = clicks_matrix(rows[~held], columns[~held], shape)
    held_out = clicks_matrix(rows[held], columns[held], shape)
    if fold_in.multiply(held_out).nnz:
        raise _duplicates()
    return fold_in, held_out


def clicks_matrix(rows: npt.NDArray[np.int32], columns: npt.NDArray[np.int32], shape: tuple[int, int]) -> csr_array:
    """Return the canonical float32 CSR matrix of ones at these places."""
    ones = np.ones(rows.size, dtype=np.float32)
    matrix = csr_array((ones, (rows, columns)), shape=shape)  # sorts the columns of each row and adds duplicates
    if matrix.nnz != rows.size:
        raise _duplicates()
    return matrix


def _duplicates() -> DataError:
    return DataError("A user has clicked an item twice: collapse duplicates (without_duplicates) before the split.")
