"""The time split: against a literal protocol, and that nothing later than training decides anything about it."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import Dataset, Interactions, TimeRules, prepare, split_by_time
from data_prep.moments import duration, moment, per_second, written
from data_prep.time_split import earliest_of_repeated
from recvae.errors import DataError, FormatError, InputError

NAMES = ("train", "validation_in", "validation_out", "test_in", "test_out")
RULES = TimeRules(moment(100), validation_share=0.3, first_clicks=3, min_items_per_user=2, min_users_per_item=2)


def log_of(rows) -> Interactions:
    """Return rows of (user, item, time) as interactions; ids are the numbers."""
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return Interactions(
        user=table[:, 0].astype(np.int32),
        item=table[:, 1].astype(np.int32),
        user_ids=np.arange(20).astype(str).astype(object),
        item_ids=np.arange(20).astype(str).astype(object),
        time=table[:, 2].copy(),
    )


def triples(split, name):
    matrix = getattr(split, name).tocoo()
    ids = split.user_ids[name.split("_")[0]]
    return {(int(ids[r]), int(split.item_ids[c])) for r, c in zip(matrix.row, matrix.col, strict=True)}


def clicks(low: int, high: int, least: int = 0):
    """Return a strategy of clicks of 12 users on 12 items within some times."""
    return st.lists(
        st.tuples(st.integers(0, 11), st.integers(0, 11), st.integers(low, high)), min_size=least, max_size=60
    )


def literal(rows, rules):
    """Return the five matrices as sets, and the news, with loops over rows in place of arrays."""
    first = {}
    for user, item, time in sorted(rows, key=lambda row: row[2]):  # stable: file order at equal times
        first.setdefault((user, item), time)
    log = []  # in file order
    for user, item, time in rows:
        if first.get((user, item)) == time:
            log.append((user, item, time))
            first[user, item] = None
    cutoff = rules.cutoff.number
    before = sorted(time for _, _, time in log if time < cutoff)
    begin = before[len(before) - int(rules.validation_share * len(before))]
    early = [row for row in log if row[2] < begin]
    kept = early
    popular = {i for _, i, _ in kept if sum(1 for _, j, _ in kept if i == j) >= rules.min_users_per_item}
    kept = [row for row in kept if row[1] in popular]
    active = {u for u, _, _ in kept if sum(1 for v, _, _ in kept if u == v) >= rules.min_items_per_user}
    kept = [row for row in kept if row[0] in active]
    catalogue = list(dict.fromkeys(item for _, item, _ in kept))
    seen = {item for _, item, _ in early}
    found, news = {"train": {row[:2] for row in kept}}, {}
    for name, low, high in (("validation", begin, cutoff), ("test", cutoff, np.inf)):
        shown, held, beyond, new = set(), set(), {}, set()
        for user in sorted({u for u, _, t in log if low <= t < high}):
            past = [row for row in log if row[0] == user and row[2] < low]
            now = sorted((row for row in log if row[0] == user and low <= row[2] < high), key=lambda row: row[2])
            if not past:
                new.add(user)
                n = min(rules.first_clicks, -(-len(now) // 2))
                past, now = now[:n], now[n:]
            shown |= {row[:2] for row in past if row[1] in catalogue}
            held |= {row[:2] for row in now if row[1] in catalogue}
            beyond[user] = sum(1 for row in now if row[1] not in seen)
        found[f"{name}_in"], found[f"{name}_out"], news[name] = shown, held, (new, beyond)
    return catalogue, found, news


def split_of(rows, rules=RULES):
    data, _ = earliest_of_repeated(log_of(rows))
    return split_by_time(data, rules)[0]


@settings(max_examples=60, deadline=None)
@given(clicks(0, 99, 25), clicks(100, 160, 1), st.randoms(use_true_random=False))
def test_the_split_is_the_literal_protocol(early, late, random):
    rows = [*early, *late]
    random.shuffle(rows)
    try:
        split = split_of(rows)
    except DataError:
        return  # a part without clicks
    catalogue, expected, news = literal(rows, RULES)
    assert list(map(int, split.item_ids)) == catalogue
    for name in NAMES:
        assert triples(split, name) == expected[name], name
    for name, (new, beyond) in news.items():
        users = [int(user) for user in split.user_ids[name]]
        assert users == sorted(beyond)
        assert {user for user, is_new in zip(users, split.arrivals[name].new_users, strict=True) if is_new} == new
        assert dict(zip(users, split.arrivals[name].new_item_clicks.tolist(), strict=True)) == beyond


@settings(max_examples=60, deadline=None)
@given(clicks(0, 99, 25), clicks(100, 160, 1), clicks(100, 160, 1), st.randoms(use_true_random=False))
def test_another_future_changes_nothing_before_the_cutoff(early, future, other, random):
    """The catalogue, training and validation are functions of the clicks before the cutoff, in their order."""
    found = []
    for late in (future, other):
        places = sorted(random.choices(range(len(early) + 1), k=len(late)))  # anywhere among the file's rows
        rows = list(early)
        for place, row in sorted(zip(places, late, strict=True), reverse=True):
            rows.insert(place, row)
        try:
            found.append(split_of(rows))
        except DataError as error:
            found.append(str(error))
    if isinstance(found[0], str) or isinstance(found[1], str):
        assert str(found[0]) == str(found[1]) or "at or after the cutoff" in f"{found}"
        return
    one, two = found
    assert list(one.item_ids) == list(two.item_ids)
    for name in ("train", "validation"):
        assert list(one.user_ids[name]) == list(two.user_ids[name])
    for name in NAMES[:3]:
        assert (getattr(one, name) != getattr(two, name)).nnz == 0
    assert one.arrivals["validation"].new_item_clicks.tolist() == two.arrivals["validation"].new_item_clicks.tolist()


# A log in which every way to look ahead would pay: each planted click belongs to the future.
HONEST = [(user, item, 10 + user) for user in range(6) for item in (1, 2, 3, (4, 5)[user % 2])]
WINDOW = [(user, (5, 4)[user % 2], 90) for user in range(6)]


def planted(rows, **filters):
    """Return the training matrix and catalogue, with and without a planted future."""
    rules = replace(RULES, validation_share=0.2, min_items_per_user=0, min_users_per_item=0, **filters)
    future = [(user, 9, 120) for user in range(6)]
    with_leak, without = (
        split_of([*rows, *HONEST, *WINDOW, *future], rules),
        split_of([*HONEST, *WINDOW, *future], rules),
    )
    assert (with_leak.train != without.train).nnz == 0
    assert list(with_leak.item_ids) == list(without.item_ids)
    return with_leak


def test_a_planted_click_of_the_future_is_not_trained_on():
    split = planted([(0, 5, 150)])
    assert (0, 5) not in triples(split, "train")
    assert (0, 5) in triples(split, "test_in")  # clicked in the window too, so it is history, and not to be found
    assert "9" not in split.item_ids
    assert split.arrivals["test"].new_item_clicks.sum() == 6


def test_a_repeated_click_that_comes_first_in_the_file_does_not_displace_the_earlier_one():
    assert (0, 1) in triples(planted([(0, 1, 150)]), "train")


def test_filters_do_not_count_clicks_of_the_future():
    """User 7 has one item, and item 8 one user, in the training period; the future lifts both over the minimum."""
    early, future = [(7, 1, 5), (1, 8, 6)], [(7, 2, 150), (7, 3, 150), (2, 8, 150), (3, 8, 150)]
    rules = replace(RULES, validation_share=0.2)
    for core in (False, True):
        split = split_of([*early, *HONEST, *WINDOW, *future], replace(rules, k_core=core))
        assert "8" not in split.item_ids
        assert "7" not in split.user_ids["train"]
        assert (7, 1) in triples(split, "test_in")  # a user who is not trained on is ranked from all clicks
        assert split.dropped["test_clicks_on_items_that_filters_removed"] == 2


def test_a_frame_is_prepared_saved_and_read_again(tmp_path):
    frame = pd.DataFrame(HONEST + WINDOW + [(0, 9, 120), (8, 1, 121), (8, 2, 122), (8, 9, 123)], columns=list("uit"))
    wanted = {"user_column": "u", "item_column": "i", "time_column": "t", "min_items_per_user": 2}
    data = prepare(frame, **wanted, split="time", cutoff=100, validation_share=0.2)
    about = data.manifest["arrivals"]["test"]
    assert about == {"new_users": 1, "clicks_of_new_users": 1, "clicks_of_known_users": 1, "clicks_on_new_items": 2}
    assert data.manifest["protocol"]["test_from"] == 100
    data.save(tmp_path / "d")
    again = Dataset.load(tmp_path / "d")
    again.verify()
    assert again.manifest["arrivals"] == data.manifest["arrivals"]
    assert again.arrivals("test").new_users.tolist() == [False, True]
    assert again.arrivals("test").new_item_clicks.tolist() == [1, 1]
    assert again.arrivals("train") is None
    assert again.describe()["splits"]["test"]["users_without_held_out"] == 0
    again.save(tmp_path / "copy")
    assert (tmp_path / "copy" / "arrivals.csv").read_text() == (tmp_path / "d" / "arrivals.csv").read_text()
    file = tmp_path / "d" / "arrivals.csv"
    file.write_text(file.read_text().replace("test,1,1,1", "test,1,0,1"))
    with pytest.raises(FormatError, match=r"arrivals.csv was altered"):
        Dataset.load(tmp_path / "d").arrivals("test")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cutoff": 1000}, "No click of the data frame lies at or after the cutoff 1000"),
        ({"cutoff": 1}, "too few for a validation window"),
        ({"cutoff": "soon"}, "must be a date such as 2020-01-31"),
        ({"cutoff": "1999-01-01"}, "no number of seconds since 1970"),
        ({"validation_share": 1.0}, "between 0 and 1"),
        ({"first_clicks": -1}, "number of first clicks"),
        ({"held_out_users": 3}, "holds out what lies after the cutoff"),
        ({"held_out_share": 0.5}, "holds out what lies after the cutoff"),
        ({"ratings": True}, "strong split alone"),
        ({"time_column": None}, "needs times"),
        ({"split": "temporal", "cutoff": 100}, "leave out --cutoff"),
        ({"split": "tim"}, "Did you mean 'time'"),
    ],
)
def test_mistakes_get_a_sentence(options, words):
    frame = pd.DataFrame(HONEST + WINDOW + [(0, 9, 120)], columns=list("uit"))
    wanted = {"user_column": "u", "item_column": "i", "time_column": "t", "split": "time", "cutoff": 100}
    with pytest.raises(InputError, match=words):
        prepare(frame, **wanted | options)


def test_too_many_equal_times_get_a_sentence():
    with pytest.raises(DataError, match="leaves no training clicks"):
        split_of([(user, item, 50) for user in range(4) for item in range(4)] + [(0, 9, 120)])


def test_moments_are_read_in_the_unit_of_the_times():
    day = 86_400
    assert moment("0.25").among(4, [1, 2, 3, 4].__getitem__, "x") == 2
    assert moment("1970-01-11").date.timestamp() == 10 * day
    for ticks in (1, 10**3, 10**6, 10**9):
        latest = 1_600_000_000 * ticks
        assert per_second(latest, "x") == ticks
        assert moment("2020-01-31").among(1, lambda _, t=latest: t, "x") == 1_580_428_800 * ticks
        assert moment("2020-01-31T01:00:00+01:00").among(1, lambda _, t=latest: t, "x") == 1_580_428_800 * ticks
        assert duration("7d", latest, "x") == 7 * day * ticks
        assert written(1_580_428_800 * ticks, latest) == "2020-01-31"
    assert moment("20200131").date == moment("2020-01-31").date
    assert moment("893286638").number == 893286638
    assert duration("30", 5, "x") == 30
    assert written(30, 50) == "30"
    for wrong in ("", "-3d", "0d", "7 days", "d", None):
        with pytest.raises(InputError, match="time span"):
            duration(wrong, 1e9, "x")
    for wrong in (True, None, "nan", [1], "2020-13-01"):
        with pytest.raises(InputError, match="must be a date"):
            moment(wrong)
