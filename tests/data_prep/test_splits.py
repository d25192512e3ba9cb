import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import SPLIT_METHODS, Interactions, make_split
from data_prep.matrices import check_matrix
from recvae.errors import DataError, InputError


def random_data(seed: int, n_users: int = 40, n_items: int = 30, clicks: int = 500) -> Interactions:
    draw = np.random.default_rng(seed)
    pairs = np.unique(draw.integers(0, [n_users, n_items], (clicks, 2)), axis=0)
    pairs = draw.permutation(pairs).astype(np.int32)
    return Interactions(
        user=pairs[:, 0].copy(),
        item=pairs[:, 1].copy(),
        user_ids=draw.permutation(np.arange(1, 3 * n_users, 2)[:n_users]).astype(str).astype(object),
        item_ids=draw.permutation(n_items).astype(str).astype(object),
        time=draw.integers(0, 200, len(pairs)),
    )


def triples(split, name):
    matrix = getattr(split, name).tocoo()
    ids = split.user_ids[name.split("_")[0]]
    return {(ids[r], split.item_ids[c]) for r, c in zip(matrix.row, matrix.col, strict=True)}


def clicks_of(data):
    return list(zip(data.user_ids[data.user], data.item_ids[data.item], strict=True))


def literal_protocol(data: Interactions, held_out: int, share: float, seed: int):
    """The protocol of Liang et al. step by step with pandas, written from the reference page's description."""
    frame = pd.DataFrame(clicks_of(data), columns=["user", "item"])
    frame["user"] = frame["user"].astype(int)
    users = np.array(sorted(frame["user"].unique()))
    shuffled = users[np.random.RandomState(seed).permutation(len(users))]
    n = len(users)
    parts = [set(shuffled[: n - 2 * held_out]), set(shuffled[n - 2 * held_out : n - held_out])]
    parts.append(set(shuffled[n - held_out :]))
    train = frame[frame["user"].isin(parts[0])]
    catalogue = list(dict.fromkeys(train["item"]))
    result = [{(str(u), i) for u, i in train.itertuples(index=False)}]
    for part in parts[1:]:
        rows = frame[frame["user"].isin(part) & frame["item"].isin(catalogue)]
        generator = np.random.RandomState(seed)
        shown, hidden = set(), set()
        for user in sorted(part):
            mine = list(rows[rows["user"] == user]["item"])
            chosen = set()
            if len(mine) >= 5:
                chosen = set(generator.choice(len(mine), size=int(share * len(mine)), replace=False).tolist())
            for place, item in enumerate(mine):
                (hidden if place in chosen else shown).add((str(user), item))
        result += [shown, hidden]
    return catalogue, result


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.sampled_from([0.1, 0.2, 0.5]), st.integers(0, 2**32 - 1))
def test_strong_agrees_with_the_literal_protocol(data_seed, held_out, share, seed):
    data = random_data(data_seed)
    split = make_split(data, "strong", held_out_users=held_out, held_out_share=share, seed=seed)
    catalogue, expected = literal_protocol(data, held_out, share, seed)
    assert list(split.item_ids) == catalogue
    names = ["train", "validation_in", "validation_out", "test_in", "test_out"]
    for name, clicks in zip(names, expected, strict=True):
        assert triples(split, name) == clicks
    for part in ("train", "validation", "test"):
        assert list(split.user_ids[part]) == sorted(split.user_ids[part], key=int)
    assert sum(map(len, split.user_ids.values())) == data.n_users


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(SPLIT_METHODS), st.sampled_from([0.1, 0.2, 0.4]))
def test_splits_are_disjoint_lossless_and_deterministic(seed, method, share):
    data = random_data(seed)
    options = {"held_out_users": 6} if method == "strong" else {}
    split = make_split(data, method, held_out_share=share, seed=seed, **options)
    again = make_split(data, method, held_out_share=share, seed=seed, **options)
    for name in ("train", "validation_in", "validation_out", "test_in", "test_out"):
        matrix = getattr(split, name)
        check_matrix(name, matrix)
        assert (matrix != getattr(again, name)).nnz == 0
    for part in ("validation", "test"):
        assert not triples(split, f"{part}_in") & triples(split, f"{part}_out")
        assert getattr(split, f"{part}_in").shape == getattr(split, f"{part}_out").shape
    train = triples(split, "train")
    assert {i for _, i in train} == set(split.item_ids)
    in_catalogue = {click for click in clicks_of(data) if click[1] in set(split.item_ids)}
    everything = set().union(
        *(triples(split, n) for n in ("train", "validation_in", "validation_out", "test_in", "test_out"))
    )
    if method == "strong":
        assert everything == in_catalogue
        assert sum(split.dropped.values()) == len(data) - len(in_catalogue)
    else:
        assert everything <= in_catalogue
        lost = {user for user, _ in in_catalogue - everything}
        assert not lost & set(split.user_ids["train"])  # only users without a training click are left out
        validation, test = triples(split, "validation_out"), triples(split, "test_out")
        assert not train & (validation | test)
        assert not validation & test
        assert triples(split, "validation_in") <= train
        assert triples(split, "test_in") <= train | validation


def test_a_user_without_rows_has_no_say_in_the_order_of_ids():
    """A filter took all clicks of a user whose id is no number; the others' ids are still in numeric order."""
    data = random_data(3)
    ids = np.array([*data.user_ids, "x"], dtype=object)
    more = Interactions(user=data.user, item=data.item, user_ids=ids, item_ids=data.item_ids, label=data.label)
    one, two = (make_split(given, "strong", held_out_users=5) for given in (data, more))
    for name in ("train", "validation", "test"):
        assert one.user_ids[name].tolist() == two.user_ids[name].tolist()


def test_random_takes_the_share_of_each_user():
    data = random_data(3)
    split = make_split(data, "random", held_out_share=0.2)
    counts = pd.Series(user for user, _ in clicks_of(data)).value_counts()
    test = pd.Series([user for user, _ in triples(split, "test_out")]).value_counts()
    for user, n in counts.items():
        assert test.get(user, 0) == int(0.2 * n)
    other = make_split(data, "random", held_out_share=0.2, seed=1)
    assert (split.train.shape != other.train.shape) or (split.train != other.train).nnz > 0


def test_last_out_takes_the_last_two_by_time_and_file_order():
    data = random_data(4)
    split = make_split(data, "last-out")
    frame = pd.DataFrame(clicks_of(data), columns=["user", "item"]).assign(time=data.time)
    last = frame.sort_values("time", kind="stable").groupby("user").filter(lambda rows: len(rows) >= 3).groupby("user")
    for place, name in ((-1, "test_out"), (-2, "validation_out")):
        expected = {(r.user, r.item) for r in last.nth(place).itertuples() if r.item in set(split.item_ids)}
        assert triples(split, name) == expected


def test_temporal_cuts_between_times():
    data = random_data(5)
    split = make_split(data, "temporal")
    when = dict(zip(clicks_of(data), data.time.tolist(), strict=True))
    train, validation, test = (
        [when[click] for click in triples(split, name)] for name in ("train", "validation_out", "test_out")
    )
    assert max(train) < min(validation) <= max(validation) < min(test)


def test_a_click_outside_the_catalogue_is_counted_once():
    clicks = [("a", "1"), ("a", "2"), ("a", "3"), ("b", "1"), ("b", "only validation"), ("b", "only test")]
    user, item = (dict.fromkeys(ids) for ids in zip(*clicks, strict=True))
    data = Interactions(
        user=np.array([list(user).index(u) for u, _ in clicks], dtype=np.int32),
        item=np.array([list(item).index(i) for _, i in clicks], dtype=np.int32),
        user_ids=np.array(list(user), dtype=object),
        item_ids=np.array(list(item), dtype=object),
        time=np.arange(len(clicks)),
    )
    dropped = make_split(data, "last-out").dropped
    # Trained on: item 1 alone. "2" and "3" of a, and both of b, are outside.
    assert dropped["validation_clicks_outside_catalogue"] == 2
    assert dropped["test_clicks_outside_catalogue"] == 2


def test_users_with_few_clicks_stay_as_rows():
    draw = np.random.default_rng(0)
    pairs = [(user, item) for user in range(40) for item in draw.permutation(20)[: 3 if user % 2 else 12].tolist()]
    data = Interactions(
        user=np.array([u for u, _ in pairs], dtype=np.int32),
        item=np.array([i for _, i in pairs], dtype=np.int32),
        user_ids=np.arange(40).astype(str).astype(object),
        item_ids=np.arange(20).astype(str).astype(object),
    )
    split = make_split(data, "strong", held_out_users=10)
    held_out = np.diff(split.test_out.indptr)
    shown = np.diff(split.test_in.indptr)
    assert split.test_in.shape[0] == 10
    assert ((held_out == 0) == (shown + held_out < 5)).all()
    assert (held_out == 0).any()
    assert (held_out[held_out > 0] == 2).all()


def test_bad_requests_get_a_sentence():
    data = random_data(0)
    with pytest.raises(DataError, match=r"has 40 users after the filters, too few to hold out 20 for validation"):
        make_split(data, held_out_users=20)
    assert make_split(data, held_out_users=19).train.shape[0] == 2
    with pytest.raises(InputError, match="Did you mean 'strong'"):
        make_split(data, "stron")
    with pytest.raises(InputError, match="at least 1"):
        make_split(data, held_out_users=0)
    with pytest.raises(InputError, match="between 0 and 1"):
        make_split(data, held_out_share=1.0)
    with pytest.raises(InputError, match="seed"):
        make_split(data, seed=-1)
    with pytest.raises(InputError, match="belongs to the strong split"):
        make_split(data, "random", held_out_users=3)
    timeless = Interactions(data.user, data.item, data.user_ids, data.item_ids)
    for method in ("last-out", "temporal"):
        with pytest.raises(InputError, match="time column"):
            make_split(timeless, method)
    with pytest.raises(DataError, match="no clicks"):
        make_split(data.select(np.zeros(len(data), bool)))
    same = Interactions(data.user, data.item, data.user_ids, data.item_ids, time=np.zeros(len(data)))
    with pytest.raises(DataError, match="no training clicks"):
        make_split(same, "temporal")


@pytest.mark.parametrize("method", SPLIT_METHODS)
def test_duplicates_are_refused(method):
    data = random_data(1)
    rows = np.sort(np.concatenate([np.arange(len(data)), np.arange(len(data))]))
    with pytest.raises(DataError, match="collapse duplicates"):
        make_split(data.select(rows), method)
