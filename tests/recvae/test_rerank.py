"""Lists by rules about tags and by diversity: equal to slow loops, full, and the same whoever else is asked about."""

from unittest import mock

import numpy as np
import oracles_ranking as oracle
import pytest
import torch
from conftest import checkerboard, random_clicks
from hypothesis import given, settings
from hypothesis import strategies as st
from quick_models import quick
from scipy.sparse import csr_array

import recvae
from recvae.errors import InputError, WorkError
from recvae.queries import Query
from recvae.ranking.lists import rank
from recvae.ranking.rerank import Reranker
from recvae.registry import MODELS
from recvae.training.vocabulary import Vocabulary

NAMES = ["a", "b", "c", "d", "e"]
CLEAR = 1e-4  # a lead that no rounding turns round


class World:
    """Users with scores, items with tags, and how alike items are, of random numbers with many ties."""

    def __init__(self, seed, n, n_items, levels, tags_each, n_tags):
        rng = np.random.default_rng(seed)
        self.scores = rng.integers(0, levels, (n, n_items)).astype(np.float32)
        self.scores[rng.random((n, n_items)) < 0.1] = -np.inf
        self.alike = rng.integers(-2, 9, (n_items, n_items)).astype(np.float32) / 8
        names = [f"t{t}" for t in range(n_tags)]
        self.tags = [
            tuple(sorted(rng.choice(names, rng.integers(0, min(n_tags, tags_each) + 1), replace=False)))
            for _ in range(n_items)
        ]
        self.items = Vocabulary([str(i) for i in range(n_items)], [""] * n_items, self.tags)

    def answer(self, rows=slice(None), batch_size=None, **rules):
        scores = torch.from_numpy(self.scores[rows])
        query = self.items.with_columns(Query(csr_array(scores.shape), exclude_seen=False, **rules))
        starts = iter(range(0, len(scores), batch_size or max(1, len(scores))))

        def score(part):
            start = next(starts)
            return scores[start : start + part.shape[0]].clone()

        def among(items):
            table = torch.from_numpy(self.alike)
            return lambda places: table[items.gather(1, places[:, None]), items]

        return rank(score, query, batch_size=batch_size, item_tags=self.items.tag_table, alike=among)


@st.composite
def worlds(draw):
    return World(
        draw(st.integers(0, 10_000)),
        n=draw(st.integers(1, 6)),
        n_items=draw(st.integers(1, 60)),
        levels=draw(st.sampled_from([1, 3, 1000])),
        tags_each=draw(st.integers(1, 4)),
        n_tags=draw(st.sampled_from([1, 3, 70])),
    )


RULES = {
    "k": st.integers(1, 9),
    "most_per_tag": st.sampled_from([None, 1, 2, 3]),
    "diversity": st.sampled_from([0.0, 0.25, 0.7, 1.0]),
    "allow_tags": st.sampled_from([None, ["t0"], ["t0", "t1"]]),
    "deny_tags": st.sampled_from([None, ["t2"]]),
}


@settings(max_examples=150, deadline=None)
@given(world=worlds(), **RULES)
def test_lists_equal_the_slow_loop(world, k, most_per_tag, diversity, allow_tags, deny_tags):
    there = set(world.items.tag_names)
    rules = {"k": k, "diversity": diversity}
    if there:
        rules["most_per_tag"] = most_per_tag
    if set(allow_tags or []) <= there:
        rules["allow_tags"] = allow_tags
    if set(deny_tags or []) <= there:
        rules["deny_tags"] = deny_tags
    ids, scores = world.answer(**rules)
    for user, of_user in enumerate(world.scores):
        masked = [
            float(score)
            if oracle.allowed(item, world.tags, rules.get("allow_tags"), rules.get("deny_tags"))
            else -np.inf
            for item, score in enumerate(of_user)
        ]
        expected = oracle.greedy(
            masked,
            k,
            tags=world.tags,
            most=rules.get("most_per_tag"),
            diversity=diversity,
            alike=lambda chosen, other: float(world.alike[chosen, other]),
        )
        listed = ids[user][ids[user] >= 0].tolist()
        if expected.lead > CLEAR:
            assert listed == expected.items
        assert (ids[user][len(listed) :] == -1).all()
        assert np.isneginf(scores[user][len(listed) :]).all()
        assert scores[user][: len(listed)].tolist() == [masked[item] for item in listed]  # the model's own
        check_list(listed, k, masked, world.tags, rules.get("most_per_tag"))


def check_list(listed, k, scores, tags, most):
    """No item twice, none that is left out, no tag on too many, and short only where no item could be added."""
    assert len(set(listed)) == len(listed)
    assert all(scores[item] > -np.inf for item in listed)
    held = {tag: sum(tag in tags[item] for item in listed) for item in listed for tag in tags[item]}
    if most is not None:
        assert all(count <= most for count in held.values())
    if len(listed) < k:
        rest = [item for item in range(len(scores)) if scores[item] > -np.inf and item not in listed]
        assert all(most is not None and any(held.get(tag, 0) >= most for tag in tags[item]) for item in rest)


@settings(max_examples=50, deadline=None)
@given(world=worlds(), batch_size=st.integers(1, 4), k=RULES["k"], diversity=RULES["diversity"])
def test_other_users_change_nothing(world, batch_size, k, diversity):
    rules = {"k": k, "diversity": diversity, "most_per_tag": 2 if world.items.tag_names else None}
    together = world.answer(**rules)
    for one, two in zip(together, world.answer(batch_size=batch_size, **rules), strict=True):
        np.testing.assert_array_equal(one, two)
    for user in range(len(world.scores)):
        for one, two in zip(together, world.answer(rows=[user], **rules), strict=True):
            np.testing.assert_array_equal(one[user], two[0])


@settings(max_examples=50, deadline=None)
@given(world=worlds(), k=RULES["k"], diversity=RULES["diversity"], most=RULES["most_per_tag"])
def test_the_steps_on_a_device_choose_the_same(world, k, diversity, most):
    def as_there(self, left, items, words, places):
        self.steps_on_a_device(torch.from_numpy(left), items, words, torch.from_numpy(places))

    rules = {"k": k, "diversity": diversity, "most_per_tag": most if world.items.tag_names else None}
    with mock.patch.object(Reranker, "steps", as_there):
        there = world.answer(**rules)
    for one, two in zip(world.answer(**rules), there, strict=True):
        np.testing.assert_array_equal(one, two)


def test_tags_for_each_user_are_as_for_all():
    world = World(3, n=4, n_items=50, levels=1000, tags_each=2, n_tags=3)
    lists = [["t0"], [], ["t1", "t2"], ["t0"]]
    for name in ("allow_tags", "deny_tags"):
        ids, _ = world.answer(k=8, **{name: lists})
        for user, tags in enumerate(lists):
            np.testing.assert_array_equal(ids[user], world.answer(rows=[user], k=8, **{name: tags}).ids[0])


def test_candidates_widen_until_the_list_is_full():
    n_items = 3000
    tags = [("many",)] * (n_items - 2) + [("few",), ()]
    items = Vocabulary([str(i) for i in range(n_items)], [""] * n_items, tags)
    scores = torch.arange(n_items, 0, -1, dtype=torch.float32)[None]
    calls = []

    def among(candidates):
        calls.append(candidates.shape[1])
        return lambda places: torch.zeros(candidates.shape)

    for diversity in (0.0, 0.5):
        query = Query(csr_array((1, n_items)), 4, most_per_tag=2, diversity=diversity)
        ids, best = rank(lambda part: scores.clone(), query, item_tags=items.tag_table, alike=among)
        assert ids.tolist() == [[0, 1, n_items - 2, n_items - 1]]
        assert best.tolist() == [[3000.0, 2999.0, 2.0, 1.0]]
    assert calls == [40, 80, 160, 320, 640, 1280, 2560, 3000]


def test_more_tags_than_bits_in_a_word():
    n_items = 400
    tags = [(f"own{i}", f"t{i % 100}", "all" if i % 2 else "none") for i in range(n_items)]
    items = Vocabulary([str(i) for i in range(n_items)], [""] * n_items, tags)
    scores = np.random.default_rng(0).random((3, n_items)).astype(np.float32)
    query = Query(csr_array(scores.shape), 30, most_per_tag=9)
    ids, _ = rank(lambda part: torch.from_numpy(scores.copy()), query, item_tags=items.tag_table)
    for user in range(3):
        expected = oracle.greedy(scores[user].tolist(), 30, tags=tags, most=9)
        assert ids[user][ids[user] >= 0].tolist() == expected.items
        assert len(expected.items) == 18


@pytest.mark.parametrize("most", [1, 3, None])
def test_scores_at_the_ends_of_their_range(most):
    world = World(5, n=3, n_items=30, levels=1000, tags_each=2, n_tags=5)
    world.scores[0, :4] = [np.inf, 3e38, -3e38, np.inf]
    world.scores[1] = -np.inf
    world.scores[2, 1:] = -np.inf
    ids, scores = world.answer(k=6, diversity=0.5, most_per_tag=most)
    assert ids[0, 0] == 0
    assert np.isinf(scores[0, 0])
    assert not np.isnan(scores).any()
    assert ids[1].tolist() == [-1] * 6
    assert (ids[2].tolist() == [0, *[-1] * 5]) == (world.scores[2, 0] > -np.inf)
    world.scores[0, 7] = np.nan
    with pytest.raises(WorkError, match="not numbers"):
        world.answer(k=6, diversity=0.5)


# --- models ---------------------------------------------------------------------------------------------------------

TAGS = {str(i): [NAMES[i % 5], *(["x"] if i % 3 == 0 else [])] for i in range(36)}
SOME = random_clicks(8, 40, 0.2, seed=4)


@pytest.fixture(scope="module", params=[*MODELS, "blend"])
def model(request):
    """Each model, trained for a moment on items with tags."""
    if request.param == "blend":
        parts = [recvae.EASE().fit(checkerboard(), item_tags=TAGS), recvae.ItemKNN().fit(checkerboard())]
        return recvae.Blend(parts, SOME, [0.7, 0.3], device="cpu")
    return quick(request.param).fit(checkerboard(), item_tags=TAGS)


def similarity(model):
    """How alike two items are by a model's own words, float64 (n_items, n_items)."""
    if model.name == "blend":
        return sum(w * similarity(part) for w, part in zip(model.weights, model.components, strict=True))
    table = model.similarity(torch.arange(model.n_items)).numpy().astype(np.float64)
    table[np.isneginf(table)] = 0
    return np.sign(table) * np.sqrt(np.maximum(table * table.T, 0)) if model.name in ("ease", "edlae") else table


def test_every_model_gives_the_lists_of_the_slow_loop(model):
    every, found = model.recommend(SOME, 40)
    table = np.zeros((40, 40)) if model.name == "popularity" else similarity(model)
    clear = 0
    for rules in ({"most_per_tag": 2}, {"diversity": 0.4}, {"most_per_tag": 1, "diversity": 0.8}):
        if model.name == "popularity" and "diversity" in rules:
            with pytest.raises(InputError, match="not which are alike"):
                model.recommend(SOME, 5, **rules)
            continue
        ids, scores = model.recommend(SOME, 5, **rules)
        for user in range(len(ids)):
            of_user = np.full(40, -np.inf)
            kept = every[user] >= 0
            of_user[every[user][kept]] = found[user][kept]
            expected = oracle.greedy(
                of_user.tolist(),
                5,
                tags=model.items.tags,
                most=rules.get("most_per_tag"),
                diversity=rules.get("diversity", 0.0),
                alike=lambda chosen, other: float(table[chosen, other]),
            )
            listed = ids[user][ids[user] >= 0].tolist()
            if expected.lead > CLEAR:
                clear += 1
                assert listed == expected.items, rules
            np.testing.assert_allclose(scores[user][: len(listed)], of_user[listed], rtol=1e-5, atol=1e-5)
            check_list(listed, 5, of_user, model.items.tags, rules.get("most_per_tag"))
    assert clear >= 8


def test_every_model_names_the_same_pairs_as_alike(model):
    if model.name == "popularity":
        return
    items = torch.from_numpy(np.random.default_rng(1).permuted(np.tile(np.arange(40), (5, 1)), axis=1)[:, :11])
    places, table = torch.tensor([0, 3, 10, 7, 3]), similarity(model)
    found = model.similarity_among(items)(places).numpy()
    expected = [[table[row[place], item] for item in row] for row, place in zip(items, places, strict=True)]
    for user, place in enumerate(places):  # a model's similarity of an item to itself means nothing here
        found[user, place] = expected[user][place] = 0
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    default = recvae.Recommender.similarity_among(model, items)(places).numpy()
    if model.name not in ("ease", "edlae", "blend"):
        np.testing.assert_allclose(np.delete(default[0], 0), np.delete(found[0], 0), rtol=1e-5, atol=1e-6)


def test_no_rule_is_the_plain_list_to_the_bit(model):
    plain = model.recommend(SOME, 10)
    for rules in ({"diversity": 0.0}, {"most_per_tag": 10}, {"diversity": 0, "most_per_tag": None}):
        for one, two in zip(model.recommend(SOME, 10, **rules), plain, strict=True):
            np.testing.assert_array_equal(one, two)


def test_tags_narrow_every_models_lists(model):
    every, _ = model.recommend(SOME, 40)
    ids, _ = model.recommend(SOME, 40, allow_tags=["a", "x"], deny_tags=["b"])
    alike = None if model.name == "popularity" else model.similar_items([3, 4], 40, allow_tags=["a"], deny_tags=["x"])
    for user in range(len(every)):
        kept = [i for i in every[user] if i >= 0 and oracle.allowed(i, model.items.tags, ["a", "x"], ["b"])]
        assert ids[user][ids[user] >= 0].tolist() == kept
    if alike is not None:
        listed = alike.ids[alike.ids >= 0]
        assert all(oracle.allowed(i, model.items.tags, ["a"], ["x"]) for i in listed)
    matrix = csr_array(np.array([[name in ("a", "x") for name in model.items.tag_names]] * 8, np.float32))
    np.testing.assert_array_equal(model.recommend(SOME, 40, allow_tags=matrix, deny_tags=["b"]).ids, ids)


def test_a_tag_that_is_not_there_is_one_sentence_with_the_nearest():
    model = recvae.EASE().fit(checkerboard(), item_tags={"1": ["Comedy"], "2": ["Horror", "Comedy"]})
    said = "The model's items have no tag 'Comdy'. Did you mean 'Comedy'? They have 'Comedy', 'Horror'."
    for call in (
        lambda: model.recommend(SOME, 3, allow_tags=["Comdy"]),
        lambda: model.recommend(SOME, 3, deny_tags=[["Comdy"]] * 8),
        lambda: model.recommend_ids([["1"]], 3, allow_tags=["Comdy"]),
        lambda: model.similar_items([1], 3, deny_tags=["Comdy"]),
    ):
        with pytest.raises(InputError) as error:
            call()
        assert str(error.value) == said
    with pytest.raises(InputError, match="denied tags are 8 x 3, but there are 8 histories and 2 tags"):
        model.recommend(SOME, 3, deny_tags=csr_array((8, 3)))
    bare = recvae.EASE().fit(checkerboard())
    for rules in ({"allow_tags": ["Comedy"]}, {"most_per_tag": 2}, {"deny_tags": csr_array((8, 0))}):
        with pytest.raises(InputError, match="items have no tags: the model was trained without any"):
            bare.recommend(SOME, 3, **rules)


def test_raw_ids_allowed_for_each_user():
    model = recvae.EASE().fit(checkerboard(), item_tags=TAGS)
    lists, _ = model.recommend_ids([["1"], ["2"]], 5, allow=[["3", "4"], ["5"]], deny=[["4"], []])
    assert lists == [["3"], ["5"]]
    with pytest.raises(InputError, match="for all users, or one such list for each user, not both"):
        model.recommend_ids([["1"], ["2"]], 5, allow=[["3"], "5"])
    with pytest.raises(InputError, match="'allow' has shape"):
        model.recommend_ids([["1"], ["2"]], 5, allow=[["3"]])


def test_tags_are_kept_with_every_model(model, tmp_path):
    model.save(tmp_path / "run")
    again = recvae.load(tmp_path / "run", "cpu")
    assert list(again.items.tags) == list(model.items.tags)
    assert again.items.tags[:2] == [("a", "x"), ("b",)]
    assert again.items.tags[39] == ()
    np.testing.assert_array_equal(
        again.recommend(SOME, 5, most_per_tag=1).ids, model.recommend(SOME, 5, most_per_tag=1).ids
    )
