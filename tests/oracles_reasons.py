"""Reasons by their definition: every history without each of its items, scored in full and sorted in full."""

import numpy as np
from scipy.sparse import csr_array


def place(scores, item, allowed):
    """An item's place, from 1, among the allowed ones, in a stable sort of scores (I,), best first."""
    columns = np.flatnonzero(allowed)
    order = columns[np.argsort(-scores[columns], kind="stable")]
    return order.tolist().index(item) + 1


def allowed_items(dense, exclude_seen, allow, deny):
    """Which items each user's list may hold, (n, I); ``allow`` and ``deny`` are None, columns, or (n, I)."""
    allowed = np.ones(dense.shape, dtype=bool)
    for rule, of_rule in ((allow, True), (deny, False)):
        if rule is not None:
            mask = np.zeros(dense.shape, dtype=bool)
            if isinstance(rule, np.ndarray):
                mask[:, rule] = True
            else:
                mask = rule.toarray() > 0
            allowed &= mask if of_rule else ~mask
    return allowed & (dense == 0) if exclude_seen else allowed


def reasons(score, histories, ids, allowed, r):
    """For each listed item: its rank, and its reasons (item, score without, rank without), the first reason first.

    ``score(row, user)`` maps a dense history (I,) to scores (I,).
    """
    dense = histories.toarray()
    answer = []
    for user, (row, listed) in enumerate(zip(dense, ids, strict=True)):
        whole = score(row, user)
        without = {}
        for item in np.flatnonzero(row):
            rest = row.copy()
            rest[item] = 0
            without[int(item)] = score(rest, user)
        of_user = []
        for j in listed[listed >= 0]:
            lower = [(scores[j], item) for item, scores in without.items() if scores[j] < whole[j]]
            found = [(item, s, place(without[item], j, allowed[user])) for s, item in sorted(lower)[:r]]
            of_user.append((place(whole, j, allowed[user]), found))
        answer.append(of_user)
    return answer


def of_model(model, conditions=None):
    """A model's scores of one dense history, under the user's conditions, CSR (n, C), where there are some."""

    def score(row, user):
        asked = () if conditions is None else (conditions[[user]],)
        return model.scores(csr_array(row[None]), *asked).detach().numpy()[0]

    return score
