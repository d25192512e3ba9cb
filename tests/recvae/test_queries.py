"""One object for all that is asked: checked once, sliced without loss, the same by every way that makes it."""

import dataclasses

import numpy as np
import oracles
import pytest
import torch
from conftest import checkerboard, random_clicks
from hypothesis import given, settings
from hypothesis import strategies as st
from quick_models import quick
from scipy.sparse import csr_array

import recvae
from eval import evaluate, per_user_metrics, validator
from recvae.errors import DataError, InputError
from recvae.experiments.groups import recall_by_group
from recvae.queries import Answer, Query
from recvae.ranking.lists import rank
from recvae.registry import MODELS

BOARD = checkerboard()
TAGS = {str(item): ["even" if item % 2 == 0 else "odd"] for item in range(40)}
SOME = random_clicks(7, 40, 0.2, seed=4)


class Table:
    """Ranks by a table of scores (n, n_items), row by the first column that only histories here have: the user."""

    def __init__(self, scores):
        self.table = np.hstack((np.full((len(scores), len(scores)), -1.0), scores)).astype(np.float32)

    def answer(self, query):
        return rank(lambda part, *_: torch.from_numpy(self.table[part.indices[part.indptr[:-1]]].copy()), query)


@st.composite
def questions(draw):
    """A table of scores with many ties, and the arguments of a query about its users, whose own columns come first."""
    n, n_items = draw(st.integers(1, 6)), draw(st.integers(1, 14))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    scores = rng.integers(0, draw(st.integers(1, 4)), (n, n_items)).astype(np.float32)
    histories = np.hstack((np.eye(n), rng.random((n, n_items)) < 0.3))

    def rule(share):
        kind = draw(st.sampled_from(["none", "for all", "for each"]))
        if kind == "none":
            return None
        mask = rng.random((n, n + n_items) if kind == "for each" else n + n_items) < share
        return csr_array(mask.astype(np.float32)) if kind == "for each" else np.flatnonzero(mask)

    rules = {"allow": rule(0.6), "deny": rule(0.3)}
    return scores, histories, {"k": draw(st.integers(1, 20)), "exclude_seen": draw(st.booleans()), **rules}


def permitted(histories, arguments):
    """Whether each user may be given each item, as the contract says it."""
    allowed = np.ones(histories.shape, dtype=bool)
    for name, sense in (("allow", True), ("deny", False)):
        mask = arguments[name]
        if mask is not None:
            named = mask.toarray() > 0 if hasattr(mask, "toarray") else np.isin(np.arange(histories.shape[1]), mask)
            allowed &= named if sense else ~named
    return allowed & (histories == 0) if arguments["exclude_seen"] else allowed


@given(asked=questions())
@settings(max_examples=200, deadline=None)
def test_lists_are_full_while_items_remain_and_ties_go_to_the_lower_index(asked):
    scores, histories, arguments = asked
    table = Table(scores)
    answer = table.answer(Query(csr_array(histories), **arguments))
    allowed = permitted(histories, arguments)
    for user, (ids, values) in enumerate(zip(*answer, strict=True)):
        expected_ids, expected = oracles.ranking(table.table[user], arguments["k"], allowed[user])
        assert (ids >= 0).sum() == min(arguments["k"], allowed[user].sum())
        assert ids.tolist() == expected_ids
        assert values.tolist() == expected


@given(asked=questions(), seed=st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_the_query_about_some_users_has_their_part_of_the_answer(asked, seed):
    scores, histories, arguments = asked
    rng, n = np.random.default_rng(seed), len(scores)
    names = [[f"c{c}" for c in np.flatnonzero(rng.random(3) < 0.5)] for _ in range(n)]
    query, table = Query(csr_array(histories), conditions=names, **arguments), Table(scores)
    whole = table.answer(query)
    rows = rng.integers(0, n, 4)
    for part in (slice(1, n), rows):
        asked_of_part = query.of(part)
        assert asked_of_part.conditions == tuple(map(tuple, np.array(names, dtype=object)[part]))
        found = table.answer(asked_of_part)
        np.testing.assert_array_equal(found.ids, whole.ids[part])
        np.testing.assert_array_equal(found.scores, whole.scores[part])
    np.testing.assert_array_equal(table.answer(query.of(rows, k=1)).ids, whole.ids[rows, :1])
    assert (query.k, query.n_users) == (arguments["k"], n)


@pytest.mark.parametrize("name", MODELS)
def test_recommend_raw_ids_and_a_query_give_the_same_bits(name):
    ids = [f"i{n}" for n in range(40)]
    tagged = {f"i{item}": tags for item, tags in TAGS.items()}
    model = quick(name).fit(BOARD, item_ids=ids, **({"item_tags": tagged} if name == "conditional-vae" else {}))
    each = random_clicks(7, 40, 0.5, seed=9)
    conditions = ["odd"] if name == "conditional-vae" else None
    for rules in ({"allow": [3, 1, 2, 30, 31, 8]}, {"deny": each}, {"allow": each, "deny": np.arange(9)}, {}):
        expected = model.recommend(SOME, 6, conditions=conditions, **rules)
        query = Query(SOME, 6, conditions=conditions, **rules)
        parts = [model.answer(query), model.answer(query.of(np.arange(7)))]
        for found in parts:
            np.testing.assert_array_equal(found.ids, expected.ids)
            np.testing.assert_array_equal(found.scores, expected.scores)
    raw = [[ids[column] for column in SOME[[user]].indices] for user in range(7)]
    found, scores = model.recommend_ids(raw, 6, allow=ids[:20], deny=["i3"], conditions=conditions)
    values = SOME.copy()
    values.data[:] = model.named_value
    expected = model.recommend(values, 6, allow=np.arange(20), deny=[3], conditions=conditions)
    assert found == [[ids[column] for column in row if column >= 0] for row in expected.ids]
    assert scores == [row[row > -np.inf].tolist() for row in expected.scores]


@pytest.mark.parametrize("name", ["ease", "item-knn", "mult-vae"])
def test_similar_items_within_rules(name):
    model = quick(name).fit(BOARD)
    everything, _ = model.similar_items([6, 7], 40)
    ids, _ = model.similar_items([6, 7], 40, allow=np.arange(20), deny=[1, 2])
    for all_of_them, kept in zip(everything, ids, strict=True):
        expected = [i for i in all_of_them if 0 <= i < 20 and i not in (1, 2)]
        assert kept[kept >= 0].tolist() == expected


def test_a_query_keeps_what_it_was_given_in_one_form():
    odd = csr_array((np.ones(3, np.int8), np.array([4, 1, 1]), np.array([0, 3, 3])), shape=(2, 5))
    query = Query(odd, np.int64(3), np.True_, [2, 0], csr_array((2, 5)), [["a"], []])
    assert query.histories.toarray().tolist() == [[0, 2, 0, 0, 1], [0] * 5]
    assert query.histories.has_canonical_format
    assert odd.nnz == 3  # the caller's own is left alone
    assert type(query.k) is int
    assert query.exclude_seen is True
    assert query.allow.tolist() == [2, 0]
    assert query.allow.dtype == np.int64
    assert query.conditions == (("a",), ())
    assert Query(odd, conditions=iter(["a", "b"])).conditions == ("a", "b")
    table = Query(odd, conditions=np.array([[0, 3.0], [0, 0]])).conditions
    assert table.toarray().tolist() == [[0, 1], [0, 0]]
    assert Query(SOME).histories is SOME  # canonical already: not copied
    with pytest.raises(dataclasses.FrozenInstanceError):
        query.k = 4
    again = dataclasses.replace(query, k=4)
    assert (again.k, again.allow.tolist(), again.conditions) == (4, [2, 0], (("a",), ()))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"k": 0}, "k must be a whole number of at least 1, and is 0"),
        ({"k": 2**30}, r"k is too large: 7 lists .* 40 items. Use a k of at most 40"),
        ({"exclude_seen": "no"}, "exclude_seen must be True or False, and is 'no'"),
        ({"allow": [40]}, r"'allow' names an item outside 0 \.\. 39"),
        ({"deny": [0.5]}, "'deny' must be a one-dimensional array of item indices"),
        ({"deny": ["i1"]}, "'deny' must be a one-dimensional array of item indices"),
        ({"allow": csr_array((7, 39))}, r"'allow' has shape \(7, 39\), but the histories have \(7, 40\)"),
        ({"conditions": "Comedy"}, r"Conditions are a list of names, not one text. Write \['Comedy'\]"),
        ({"conditions": [1]}, "A condition is a name, and not 1"),
        ({"conditions": [["a"], ["b"]]}, "or one such list for each of the 7 histories"),
        ({"conditions": csr_array((6, 3))}, "The conditions are 6 x 3, but there are 7 histories"),
    ],
)
def test_a_mistake_is_one_sentence_when_the_query_is_made(arguments, said):
    with pytest.raises(InputError, match=said) as error:
        Query(SOME, **arguments)
    assert "\n" not in str(error.value)


def test_histories_that_are_no_matrix():
    with pytest.raises(DataError, match="users x items"):
        Query([[1, 2]])
    model = recvae.EASE().fit(BOARD)
    with pytest.raises(InputError, match=r"answer takes a recvae\.Query, and not 7; recommend takes its arguments"):
        model.answer(7)
    with pytest.raises(InputError, match="The histories have 39 columns, but the model knows 40 items"):
        model.answer(Query(csr_array((1, 39))))


def test_an_answer_comes_apart_into_ids_and_scores():
    answer = Answer(np.zeros((1, 2), np.int32), np.ones((1, 2), np.float32))
    ids, scores = answer
    assert ids is answer.ids
    assert scores is answer.scores
    assert (recvae.Answer, recvae.Query) == (Answer, Query)


# --- whoever takes a query ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def split():
    clicks = random_clicks(40, 40, 0.5, seed=3).toarray()
    hidden = np.random.default_rng(1).random(clicks.shape) < 0.4
    return csr_array(clicks * ~hidden), csr_array(clicks * hidden)


def test_what_is_measured_is_what_a_query_is_answered_with(split):
    fold_in, held_out = split
    model, allow = recvae.EASE().fit(BOARD), np.arange(0, 40, 3)
    query = Query(fold_in, k=1, allow=allow, deny=[6])  # the metrics say how long lists are
    ids, _ = model.recommend(fold_in, 5, allow=allow, deny=[6])
    expected = per_user_metrics(ids, held_out, "recall@5")["recall@5"]
    found = evaluate(model, query, held_out, "recall@5", batch_size=7)
    np.testing.assert_array_equal(found.per_user["recall@5"], expected)
    assert validator(query, held_out, "recall@5", batch_size=9)(model) == pytest.approx(np.nanmean(expected))
    longer, _ = model.recommend(fold_in, 20, allow=allow, deny=[6])
    by_group = recall_by_group(model, query, held_out, np.arange(40))
    mean = np.nanmean(per_user_metrics(longer, held_out, "recall@20")["recall@20"])
    assert by_group["overall"]["mean"] == pytest.approx(mean)
    plain = evaluate(model, fold_in, held_out, "recall@5").metrics
    assert plain == evaluate(model, Query(fold_in), held_out, "recall@5").metrics != found.metrics
    with pytest.raises(InputError, match="not seen before: evaluate a query with exclude_seen=True"):
        evaluate(model, Query(fold_in, exclude_seen=False), held_out)


def test_batches_and_blocks_check_nothing_again(split, monkeypatch):
    fold_in, held_out = split
    model, counted = recvae.EASE().fit(BOARD), []
    canonical = recvae.queries.canonical
    monkeypatch.setattr(recvae.queries, "canonical", lambda matrix: counted.append(matrix.shape) or canonical(matrix))
    monkeypatch.setattr(recvae.ranking.lists, "SCORES_IN_MEMORY", 80)  # two users at a time
    validate = validator(fold_in, held_out, batch_size=4)
    for _ in range(2):
        validate(model)
    evaluate(model, fold_in, held_out, batch_size=4)
    assert counted == [fold_in.shape] * 2
