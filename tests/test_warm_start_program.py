"""benchmarks.accuracy.warm_start: two nights of one dataset, and the epochs that it reports."""

import numpy as np
import pytest

from benchmarks.accuracy import tables, warm_start
from data_prep.interactions import Interactions

USERS, ITEMS = 400, 30


@pytest.fixture(scope="module")
def clicks():
    draw = np.random.default_rng(4)
    user, item = np.nonzero(draw.random((USERS, ITEMS)) < 0.3)
    order = draw.permutation(len(user))
    ids = [np.array([f"{kind}{n}" for n in range(many)], dtype=object) for kind, many in (("u", USERS), ("i", ITEMS))]
    user, item = user[order].astype(np.int32), item[order].astype(np.int32)
    time = user + draw.integers(0, 600, len(user)) + 2000 * (item >= ITEMS - 4)  # the last four items came late
    return Interactions(user, item, *ids, time=time)


def pairs(data, *names):
    found = set()
    for name in names:
        matrix = data.matrix(name).tocoo()
        users = data.user_ids(name.partition("_")[0])[matrix.row]
        found |= set(zip(users, data.item_ids[matrix.col], strict=True))
    return found


@pytest.mark.parametrize("split", ["3", "temporal"])
def test_the_first_night_is_the_early_part_of_the_second(clicks, split):
    first, second = warm_start.nights(clicks, split)
    cut = np.sort(clicks.time)[int(0.8 * len(clicks))]
    named = zip(clicks.user_ids[clicks.user], clicks.item_ids[clicks.item], strict=True)
    early = {pair for pair, time in zip(named, clicks.time, strict=True) if time < cut}
    names = ("train", "validation_in", "validation_out", "test_in", "test_out")
    assert pairs(first, *names) <= early
    assert set(first.item_ids) <= set(second.item_ids)
    assert pairs(first, "train") <= pairs(second, "train")
    assert not pairs(first, "train") & pairs(second, "validation_out")
    if split != "temporal":
        assert set(second.item_ids) - set(first.item_ids) == {f"i{n}" for n in range(ITEMS - 4, ITEMS)}
        people = {part: set(second.user_ids(part)) for part in ("train", "validation", "test")}
        assert all(set(first.user_ids(part)) <= people[part] for part in people)
        known = set(first.item_ids)
        of_training = {pair for pair in pairs(second, "train") & early if pair[1] in known}
        assert pairs(first, "train") == of_training


def test_a_table_of_warm_starts():
    run = {"best": 0.5, "epochs": 3, "scores": [0.3, 0.496, 0.5], "seconds": [1.0, 2.0, 3.0]}
    assert warm_start.reached(run, 0.495) == (2, 2.0)
    assert warm_start.reached(run, 0.6) == (None, None)
    counts = {"items": 9, "users": {"train": 7, "validation": 2}, "clicks": {"train": 30}}
    row = {
        "best": 0.5,
        "counts": {"first night": counts, "second night": counts},
        "cold": {"best": 0.5, "reached": {"99%": (20, 5.0), "100%": (25, 6.25)}},
        "warm": {"best": 0.498, "reached": {"99%": (2, 0.5), "100%": (None, None)}},
    }
    lines = tables.warm_start({"metric": "ndcg@100", "rows": {"recvae 1": row}})
    assert "| recvae 1 | .5000 | 20 (5.0 s) | 25 (6.2 s) | 2 (0.5 s) | not reached | .4980 | 10 % |" in lines
    assert "1 of 1 warm runs reach 99 % within a quarter" in " ".join(lines)
