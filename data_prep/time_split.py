"""The time split: train on what was known before a moment, test on what users did from then on.

    train        clicks before the validation window, after the filters
    validation   the window: the last clicks before the cutoff choose the epoch
    test         clicks from the cutoff on

Nothing later than the window's begin decides anything about training: not the catalogue, not the filters (a minimum of
items per user, of users per item, a core), which look at the training clicks alone, and not the choice between repeated
clicks, of which the earliest stays. So the training matrix and the catalogue are the same whatever happens later.

A user with clicks before the part that is tested is known, also one who is not trained on, and is ranked from all of
them. A user without any is new, and is ranked from the first clicks of that part; the rest is held out. Clicks on items
that training never saw cannot be found by a model of clicks; they are counted, and count as not found.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_prep.arrivals import Arrivals
from data_prep.interactions import Interactions
from data_prep.moments import Moment, Times, written
from data_prep.splits import (
    TEST,
    TRAIN,
    VALIDATION,
    Split,
    ascending_users,
    catalogue_of,
    clicks_matrix,
    no_times,
    ranks_within,
    temporal_parts,
)
from recvae.arguments import flag, real_number, whole_number
from recvae.errors import DataError, InputError

CUTOFF, VALIDATION_SHARE, FIRST_CLICKS = "0.8", 0.1, 5
"""The defaults: the share of the clicks before the cutoff, of these in the validation window, and first clicks."""


@dataclass(frozen=True)
class TimeRules:
    """How the log is cut, and which of the clicks before the window are trained on.

    ``validation_share``: of the clicks before the cutoff, the latest that are the window. ``first_clicks``: the clicks
    of a new user that are shown, at most; of n clicks never more than n - n // 2. The filters are those of
    :func:`data_prep.prepare`. Raises :class:`InputError` for a value that cannot be used.
    """

    cutoff: Moment
    validation_share: float = VALIDATION_SHARE
    first_clicks: int = FIRST_CLICKS
    min_items_per_user: int = 5
    min_users_per_item: int = 0
    k_core: bool = False

    def __post_init__(self) -> None:
        share = real_number("The validation share", self.validation_share)
        if not 0 < share < 1:
            raise InputError(f"The validation share must lie between 0 and 1, and {share:g} does not.")
        whole_number("The number of first clicks", self.first_clicks, least=0)
        whole_number("The minimum number of items per user", self.min_items_per_user, least=0)
        whole_number("The minimum number of users per item", self.min_users_per_item, least=0)
        flag("k_core", self.k_core)


@dataclass(frozen=True)
class Cuts:
    """The times from which on clicks are of validation and of test, and the latest time."""

    validation: float
    test: float
    latest: float


def earliest_of_repeated(data: Interactions) -> tuple[Interactions, int]:
    """Keep of repeated clicks of a user on an item the earliest, in file order; also return the number removed.

    :meth:`Interactions.without_duplicates` keeps the first in the file, which may be the latest: a click after the
    cutoff would then decide that one before it is not trained on.
    """
    order = np.argsort(_times(data), kind="stable")  # at equal times the first in the file
    renumbered = Interactions(
        user=data.user[order],
        item=data.item[order],
        user_ids=data.user_ids,
        item_ids=data.item_ids,
        time=np.arange(len(data), dtype=np.int64),  # the places, so that the rows that stay are known
    )
    kept, removed = renumbered.without_duplicates()
    assert kept.time is not None
    return (data.select(np.sort(order[kept.time.astype(np.int64)])) if removed else data), removed


def cuts_of(time: Times, rules: TimeRules, label: str, until: float | None = None) -> Cuts:
    """Return where the parts begin among ``time`` (n,); raise :class:`DataError` where one would have no clicks.

    ``until``: a moment after the last click, which is the cutoff then.
    """
    ordered = np.sort(time)
    test = rules.cutoff.among(ordered.size, lambda place: float(ordered[place]), label) if until is None else until
    before = int(np.searchsorted(ordered, test, side="left"))
    name = rules.cutoff.text if until is None else written(until, float(ordered[-1]))
    if before == ordered.size and until is None:
        raise DataError(f"No click of {label} lies at or after the cutoff {name}: choose an earlier one.")
    window = int(rules.validation_share * before)
    if not window:
        raise DataError(
            f"{before:,} clicks of {label} lie before the cutoff {name}, too few for a validation window of a share of "
            f"{rules.validation_share:g} of them: choose a later cutoff or a larger share."
        )
    validation = float(ordered[before - window])
    if ordered[0] >= validation:
        raise DataError(
            f"The validation window before the cutoff {name} leaves no training clicks of {label}: too many clicks "
            "have the same time. Choose a later cutoff or a smaller share."
        )
    return Cuts(validation, test, float(ordered[-1]))


def split_by_time(data: Interactions, rules: TimeRules, *, until: float | None = None) -> tuple[Split, Cuts]:
    """Split interactions without repeated clicks by time; also return where the cuts are.

    ``until``, a moment after the last click, takes the place of the cutoff: the test part is empty then. The rows of
    ``train`` are the users who are left by the filters, those of validation and test all users with a click there.
    Raises :class:`InputError` where there are no times, and :class:`DataError` where a part is empty.
    """
    time = _times(data)
    if not len(data):
        raise DataError(f"{data.label} has no clicks before the cutoff.")
    cuts = cuts_of(time, rules, data.label, until)
    part = temporal_parts(time, cuts.validation, cuts.test)
    early = data.select(part == TRAIN)
    kept = _filtered(early, rules)
    catalogue, column_of = catalogue_of(data, kept.item)
    new_item = early.item_counts() == 0
    users = ascending_users(data)
    dropped = {"training_clicks_of_rare_items_or_users": len(early) - len(kept)}
    matrices, members, arrivals = {}, {"train": users[(kept.user_counts() > 0)[users]]}, {}
    row_of = _numbered(members["train"], len(data.user_ids))
    shape = (members["train"].size, catalogue.size)
    matrices["train"] = clicks_matrix(row_of[kept.user], column_of[kept.item], shape)
    for code, name in ((VALIDATION, "validation"), (TEST, "test")):
        shown, held = later_clicks(data.user, time, part, code, len(data.user_ids), rules.first_clicks)
        clicks_there = np.bincount(data.user[part == code], minlength=len(data.user_ids))
        members[name] = users[(clicks_there > 0)[users]]
        row_of = _numbered(members[name], len(data.user_ids))
        known = column_of[data.item] >= 0
        shape = (members[name].size, catalogue.size)
        for matrix, chosen in ((f"{name}_in", shown & known), (f"{name}_out", held & known)):
            matrices[matrix] = clicks_matrix(row_of[data.user[chosen]], column_of[data.item[chosen]], shape)
        beyond = np.bincount(row_of[data.user[held & new_item[data.item]]], minlength=shape[0])
        had = np.bincount(data.user[part < code], minlength=len(data.user_ids))
        arrivals[name] = Arrivals(had[members[name]] == 0, beyond)
        lost = held & ~known & ~new_item[data.item]
        dropped[f"{name}_clicks_on_items_that_filters_removed"] = int(np.count_nonzero(lost))
    user_ids = {name: data.user_ids[codes] for name, codes in members.items()}
    item_ids = data.item_ids[catalogue]
    return Split(**matrices, user_ids=user_ids, item_ids=item_ids, dropped=dropped, arrivals=arrivals), cuts


def later_clicks(
    user: npt.NDArray[np.integer],
    time: Times,
    part: npt.NDArray[np.int8],
    code: int,
    n_users: int,
    first_clicks: int,
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return which clicks (n,) are shown to the model, and which are held out, of the users who click in part ``code``.

    ``user``: the code of each click's user. Known users show all that is earlier, new users their first clicks.
    """
    there = part == code
    clicks_there = np.bincount(user[there], minlength=n_users)
    is_new = np.bincount(user[part < code], minlength=n_users) == 0
    shown = (part < code) & (clicks_there > 0)[user]
    new = np.flatnonzero(there & is_new[user])
    by_time = new[np.lexsort((time[new], user[new]))]  # stable, so file order decides between equal times
    counts = np.bincount(user[new], minlength=n_users)
    first = np.minimum(first_clicks, counts - counts // 2)
    first_ones = by_time[ranks_within(counts[counts > 0]) < first[user[by_time]]]
    shown[first_ones] = True
    return shown, there & ~shown


def _filtered(early: Interactions, rules: TimeRules) -> Interactions:
    """Return the training clicks that the filters keep."""
    if rules.k_core:
        return early.k_core(rules.min_items_per_user, rules.min_users_per_item)
    kept = early.with_min_users_per_item(rules.min_users_per_item)
    return kept.with_min_items_per_user(rules.min_items_per_user)


def _numbered(codes: npt.NDArray[np.int64], n: int) -> npt.NDArray[np.int32]:
    """Return for each of ``n`` user codes its row, -1 for those not among ``codes``."""
    rows = np.full(n, -1, dtype=np.int32)
    rows[codes] = np.arange(codes.size)
    return rows


def _times(data: Interactions) -> Times:
    if data.time is None:
        raise no_times("time", data.label)
    return data.time
