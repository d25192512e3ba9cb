"""Windows and questions of a replay, against loops over the clicks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval import SEEN, Replay, Window, answers_to, seen_group, windows_of
from recvae.errors import DataError, InputError
from recvae.queries import Answer

LOGS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 8), st.integers(0, 30)), max_size=60, unique_by=lambda row: row[:2]
)


def columns(rows):
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return table[:, 0].astype(np.int32), table[:, 1].astype(np.int32), table[:, 2]


class Remembers:
    """Ranks by the item's number, and keeps the histories that it is asked about."""

    def __init__(self):
        self.histories = []

    def answer(self, query):
        rows = query.histories.toarray()
        self.histories += [frozenset(np.flatnonzero(row).tolist()) for row in rows]
        scores = np.where(rows > 0, -np.inf, -np.arange(rows.shape[1], dtype=np.float32)[None])
        ids = np.argsort(-scores, axis=1, kind="stable")[:, : query.k].astype(np.int32)
        best = np.take_along_axis(scores, ids, axis=1).astype(np.float32)
        return Answer(np.where(np.isneginf(best), -1, ids).astype(np.int32), best)


@settings(max_examples=60, deadline=None)
@given(LOGS, st.integers(1, 30), st.integers(1, 9), st.randoms(use_true_random=False))
def test_each_click_is_asked_for_once_and_no_history_has_a_later_one(rows, begin, every, random):
    random.shuffle(rows)
    user, item, time = columns(rows)
    replay = Replay(user, item, time)
    column_of = np.array([0, 1, 2, 3, 4, -1, 5, -1, -1])  # of the nine items three are unknown
    latest = int(time.max(initial=0))
    if latest < begin:
        with pytest.raises(InputError, match="ends before"):
            windows_of(begin, latest, every, every)
        return
    found, expected = [], []
    for window in windows_of(begin, latest, every, every):
        model = Remembers()
        asked = replay.questions(window)
        values = answers_to(model, replay, asked, column_of, 6, ["recall@2", "mrr@6"])
        moments = sorted({(u, t) for u, _, t in rows if window.begin <= t < window.end})
        assert asked.user.tolist() == [u for u, _ in moments]
        for place, (u, t) in enumerate(moments):
            past = frozenset(int(column_of[i]) for v, i, s in rows if v == u and s < t) - {-1}
            wanted = [int(column_of[i]) for v, i, s in rows if v == u and s == t]
            assert asked.seen[place] == sum(1 for v, _, s in rows if v == u and s < t)
            assert model.histories[place] == past
            top = [i for i in range(6) if i not in past]
            assert values["recall@2"][place] == sum(i in top[:2] for i in wanted) / min(2, len(wanted))
            first = next((rank for rank, i in enumerate(top, start=1) if i in wanted), None)
            assert values["mrr@6"][place] == (0 if first is None else 1 / first)
        found += (asked.stop - asked.at).tolist()
        expected.append(sum(1 for _, _, t in rows if window.begin <= t < window.end))
    assert sum(found) == sum(expected) == sum(1 for _, _, t in rows if t >= begin)


def test_windows_and_refits():
    windows = windows_of(100, 145, 10, 20)
    assert windows == [Window(100 + 10 * n, 110 + 10 * n, n // 2) for n in range(5)]
    assert [window.fit for window in windows_of(0, 1, 1, 3)] == [0, 0]
    for every, refit in ((10, 15), (10, 5), (0, 1), (-1, -1)):
        with pytest.raises(InputError, match=r"whole number of windows|above 0"):
            windows_of(0, 100, every, refit)
    with pytest.raises(InputError, match="number of windows"):
        windows_of(0, 1e9, 1, 1)


def test_some_questions_are_drawn_by_the_seed():
    user, item, time = np.zeros(50, np.int32), np.arange(50, dtype=np.int32), np.arange(50)
    replay, window = Replay(user, item, time), Window(10, 40, 0)
    some = replay.questions(window, most=7, seed=3)
    assert len(some) == 7
    assert some.at.tolist() == replay.questions(window, most=7, seed=3).at.tolist()
    assert some.at.tolist() == sorted(some.at.tolist())
    assert some.at.tolist() != replay.questions(window, most=7, seed=4).at.tolist()
    assert len(replay.questions(window, most=30)) == 30


def test_groups_of_clicks_seen():
    seen = np.array([0, 1, 2, 4, 5, 9, 10, 19, 20, 49, 50, 1000])
    assert seen_group(seen).tolist() == [0, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    assert all(most is None or least <= most for least, most in SEEN)


def test_columns_of_other_lengths_are_refused():
    with pytest.raises(DataError, match="same length"):
        Replay(np.zeros(2, np.int32), np.zeros(3, np.int32), np.zeros(2))
