from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import Interactions, filter_interactions
from recvae.errors import DataError, InputError
from recvae.frames.ids import ascending

PAIRS = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 9)), max_size=60)


def make(pairs, rating=None, time=None) -> Interactions:
    return Interactions(
        user=np.array([u for u, _ in pairs], dtype=np.int32),
        item=np.array([i for _, i in pairs], dtype=np.int32),
        user_ids=np.array([f"u{n}" for n in range(10)], dtype=object),
        item_ids=np.array([f"i{n}" for n in range(10)], dtype=object),
        rating=None if rating is None else np.array(rating, dtype=float),
        time=None if time is None else np.array(time),
    )


def pairs_of(data):
    return list(zip(data.user.tolist(), data.item.tolist(), strict=True))


@settings(deadline=None)
@given(PAIRS)
def test_duplicates_keep_the_first(pairs):
    data, gone = make(pairs, rating=range(len(pairs))).without_duplicates()
    assert pairs_of(data) == list(dict.fromkeys(pairs))
    assert gone == len(pairs) - len(set(pairs))
    assert data.rating.tolist() == [pairs.index(pair) for pair in dict.fromkeys(pairs)]


def slow_core(pairs, per_user, per_item):
    while True:
        n_u, n_i = Counter(u for u, _ in pairs), Counter(i for _, i in pairs)
        kept = [(u, i) for u, i in pairs if n_u[u] >= per_user and n_i[i] >= per_item]
        if kept == pairs:
            return kept
        pairs = kept


@settings(deadline=None)
@given(PAIRS, st.integers(0, 4), st.integers(0, 4))
def test_k_core_against_a_slow_loop(pairs, per_user, per_item):
    pairs = list(dict.fromkeys(pairs))
    expected = slow_core(pairs, per_user, per_item)
    if pairs and not expected:
        with pytest.raises(DataError, match="repeated to a core"):
            make(pairs).k_core(per_user, per_item)
    else:
        assert pairs_of(make(pairs).k_core(per_user, per_item)) == expected


def test_one_pass_is_items_then_users():
    pairs = [(0, 0), (0, 1), (1, 0), (1, 2), (2, 0), (2, 1)]
    data, dropped = filter_interactions(make(pairs), None, 2, 2)
    assert pairs_of(data) == [(0, 0), (0, 1), (2, 0), (2, 1)]  # item 2 goes, then user 1; one pass leaves the rest
    assert dropped == {"rows_below_min_rating": 0, "duplicate_clicks": 0, "clicks_of_rare_items_or_users": 2}
    assert (data.n_users, data.n_items) == (2, 2)


def test_the_threshold_comes_before_duplicates():
    data, dropped = filter_interactions(make([(0, 0), (0, 0), (0, 1)], rating=[2, 5, 4]), 4, 0)
    assert pairs_of(data) == [(0, 0), (0, 1)]
    assert dropped["duplicate_clicks"] == 0


@pytest.mark.parametrize(
    ("filters", "part"),
    [
        ({"min_rating": 6}, "rating at least 6"),
        ({"min_items_per_user": 9}, "at least 9 items per user"),
        ({"min_users_per_item": 9}, "at least 9 users per item"),
        ({"min_users_per_item": 9, "k_core": True}, "repeated to a core"),
    ],
)
def test_a_filter_that_leaves_nothing_is_named(filters, part):
    with pytest.raises(DataError, match=part):
        filter_interactions(make([(0, 0), (1, 0)], rating=[1, 2]), **filters)


def test_bad_columns_are_refused():
    with pytest.raises(InputError, match="rating column"):
        make([(0, 0)]).with_min_rating(3)
    with pytest.raises(DataError, match="outside"):
        make([(0, 99)])
    with pytest.raises(DataError, match="rating column has"):
        make([(0, 0)], rating=[1, 2])
    with pytest.raises(DataError, match="int32"):
        Interactions(np.zeros(1), np.zeros(1, np.int32), np.array(["a"], object), np.array(["b"], object))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["10", "9", "-1", "0"], ["-1", "0", "9", "10"]),
        (["10", "9", "007"], ["007", "10", "9"]),
        (["10", "9", "+1"], ["+1", "10", "9"]),
        (["10", "9", "-0"], ["-0", "10", "9"]),
        (["b", "B", "é", "a"], ["B", "a", "b", "é"]),
        ([str(10**30), "5", str(-(10**30))], [str(-(10**30)), "5", str(10**30)]),
        (["\uff11", "2"], ["2", "\uff11"]),
        ([], []),
    ],
)
def test_ascending(ids, expected):
    assert [ids[place] for place in ascending(ids)] == expected
