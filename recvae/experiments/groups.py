"""Recall by groups: of users by how much they have clicked, and of held-out clicks by how popular their items are.

The lists and the recall are those of the evaluation (:mod:`eval`); here they are only split up.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from eval import Evaluation, Ranker, per_user_metrics, summarize
from eval.metrics import contained, held_out_items
from recvae.files import JsonObject
from recvae.queries import Query

if TYPE_CHECKING:
    from data_prep.arrivals import Arrivals

K = 20
METRIC = f"recall@{K}"
USER_GROUPS = 4
ITEM_GROUPS = 10

_BATCH_SIZE = 2048


def recall_by_group(
    ranker: Ranker,
    query: Query,
    held_out: csr_array,
    clicks: NDArray[np.int64],
    progress: Callable[[int, int], None] | None = None,
    beyond: NDArray[np.int64] | None = None,
) -> JsonObject:
    """Return recall@20 over all users, by quartile of activity and by decile of popularity, as plain values.

    ``query``: the users and their fold-in clicks, whatever its k; ``held_out``: canonical CSR (n, n_items), same rows;
    ``clicks`` (n_items,): training clicks of each item. Users without held-out clicks are left out. A group of users
    has its mean and standard error; one of items its held-out clicks, how many of them the lists found, and its
    ``contribution``: the part of the mean recall that comes from its items, so that these add up to it. ``beyond``
    (n,): held-out clicks of each user on items that the catalogue does not have, which count as not found.
    """
    of_users = held_out_items(held_out, beyond)
    beyond = of_users - np.diff(held_out.indptr)
    rows = np.flatnonzero(of_users)
    order = np.lexsort((np.arange(len(clicks)), -clicks))  # the most popular first, equals by their column
    group = np.empty(len(clicks), dtype=np.int64)
    for place, members in enumerate(np.array_split(order, min(ITEM_GROUPS, len(order)))):
        group[members] = place
    n_groups = int(group.max()) + 1
    recall, hits, credit = [], np.zeros(n_groups, dtype=np.int64), np.zeros(n_groups)
    for start in range(0, len(rows), _BATCH_SIZE):
        part = rows[start : start + _BATCH_SIZE]
        hidden = held_out[part]
        ids, _ = ranker.answer(query.of(part, k=min(K, len(clicks))))
        recall.append(per_user_metrics(ids, hidden, METRIC, beyond=beyond[part])[METRIC])
        user, rank = np.nonzero(contained(ids, hidden))
        of_group = group[ids[user, rank]]
        hits += np.bincount(of_group, minlength=n_groups)
        best = np.minimum(of_users[part], K)
        credit += np.bincount(of_group, weights=1 / best[user], minlength=n_groups)
        if progress is not None:
            progress(min(start + _BATCH_SIZE, len(rows)), len(rows))
    values = np.concatenate(recall)
    return {
        "metric": METRIC,
        "overall": summarize(values).to_dict(),
        "by_activity": _by_activity(values, np.diff(query.histories.indptr)[rows]),
        "by_popularity": _by_popularity(group, clicks, np.bincount(group[held_out[rows].indices], minlength=n_groups),
                                        hits, credit / len(rows)),
    }  # fmt: skip


def by_arrival(evaluation: Evaluation, arrivals: "Arrivals") -> JsonObject:
    """Return the metrics of the known and of the new users of a time split, as plain values."""
    masks = {"known_users": ~arrivals.new_users, "new_users": arrivals.new_users}
    return {
        name: {metric: summarize(values[mask]).to_dict() for metric, values in evaluation.per_user.items()}
        for name, mask in masks.items()
    }


def _by_activity(values: NDArray[np.float64], sizes: NDArray[np.integer]) -> list[JsonObject]:
    """Return mean recall by quartile of fold-in size; users with the same size are in the same group."""
    quartiles = np.quantile(sizes, np.arange(1, USER_GROUPS) / USER_GROUPS, method="inverted_cdf")
    group = np.searchsorted(quartiles, sizes, side="left")
    found = []
    for place in np.unique(group):
        members = group == place
        of_members = sizes[members]
        found.append({"clicks": [int(of_members.min()), int(of_members.max())], **summarize(values[members]).to_dict()})
    return found


def _by_popularity(
    group: NDArray[np.int64],
    clicks: NDArray[np.int64],
    held_out: NDArray[np.int64],
    hits: NDArray[np.int64],
    contribution: NDArray[np.float64],
) -> list[JsonObject]:
    found = []
    for place in range(len(hits)):
        of_members = clicks[group == place]
        found.append(
            {
                "items": len(of_members),
                "training_clicks": [int(of_members.min()), int(of_members.max())],
                "share_of_training_clicks": float(of_members.sum() / clicks.sum()),
                "held_out": int(held_out[place]),
                "hits": int(hits[place]),
                "found": float(hits[place] / held_out[place]) if held_out[place] else None,
                "contribution": float(contribution[place]),
            }
        )
    return found
