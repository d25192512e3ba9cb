"""An export answers as the model of torch that it was made from: over Query, over HTTP, rules and reasons included."""

from dataclasses import replace

import numpy as np
import pytest
from hand_made_exports import CONDITIONS, linear, registered, write_export
from scipy.sparse import csr_array
from serving_models import IDS, N_ITEMS, TAGS, TITLES, assert_same, plainly, random_question
from serving_process import here

from recvae.errors import InputError
from recvae.matrices import Rows
from recvae.queries import Query
from recvae.ranking import best
from recvae.serving import onnx_runtime
from recvae.testing import random_clicks

NAMED = {"item_ids": IDS, "titles": TITLES, "item_tags": TAGS}


@pytest.fixture(scope="module")
def models():
    with registered():
        yield {name: linear(N_ITEMS, conditions=name == "conditions", **NAMED) for name in ("plain", "conditions")}


@pytest.fixture(scope="module")
def folders(models, tmp_path_factory):
    place = tmp_path_factory.mktemp("exports")
    return {name: write_export(place / name, model) for name, model in models.items()}


def same(answer, expected):
    np.testing.assert_array_equal(answer.ids, expected.ids)
    np.testing.assert_allclose(answer.scores, expected.scores, rtol=1e-5, atol=1e-5)
    assert answer.ids.dtype == np.int32
    assert answer.scores.dtype == np.float32
    assert (answer.reasons is None) == (expected.reasons is None)
    if answer.reasons is not None:
        for name in ("ranks", "items", "ranks_without"):
            np.testing.assert_array_equal(getattr(answer.reasons, name), getattr(expected.reasons, name))
        np.testing.assert_allclose(answer.reasons.scores, expected.reasons.scores, rtol=1e-5, atol=1e-5)


RULES = {
    "plain": {},
    "seen too": {"exclude_seen": False},
    "more than there are": {"k": N_ITEMS + 5},
    "allow": {"allow": [3, 8, 21, 40, 41]},
    "nothing": {"allow": []},
    "deny": {"deny": list(range(0, N_ITEMS, 2))},
    "all denied": {"deny": list(range(N_ITEMS))},
    "tags": {"allow_tags": ["Comedy", "Drama"], "deny_tags": ["Old"]},
    "tags of each": {"allow_tags": [["Comedy"], ["Old"], [], ["Drama", "Old"], ["Horror"], ["Comedy"], ["Old"]]},
    "allow each": {"allow": random_clicks(7, N_ITEMS, 0.3, 4), "deny": random_clicks(7, N_ITEMS, 0.2, 6)},
    "most per tag": {"most_per_tag": 2},
    "one per tag, all items": {"most_per_tag": 1, "k": N_ITEMS},
    "diversity": {"diversity": 0.4},
    "both": {"diversity": 0.7, "most_per_tag": 3, "deny": [1, 2, 3]},
    "reasons": {"reasons": 3},
    "reasons under rules": {"reasons": 2, "deny_tags": ["Old"], "diversity": 0.3, "exclude_seen": False},
}


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("users_at_once", [None, 2])
def test_lists_are_those_of_torch(models, folders, monkeypatch, rules, users_at_once):
    histories = random_clicks(7, N_ITEMS, 0.1, seed=3)
    histories[[2]].data[:] = 1
    dense = histories.toarray()
    dense[5] = 0
    query = Query(csr_array(dense), **{"k": 9, **RULES[rules]})
    if users_at_once is not None:
        monkeypatch.setattr(onnx_runtime, "SCORES_IN_MEMORY", users_at_once * N_ITEMS)
    same(onnx_runtime.load(folders["plain"]).answer(query), models["plain"].answer(query))


def test_rows_without_scipy_ask_the_same(models, folders):
    dense = random_clicks(7, N_ITEMS, 0.1, seed=3).toarray()
    lists = [np.flatnonzero(row).tolist() for row in dense]
    exported, rows = onnx_runtime.load(folders["plain"]), Rows.of_lists(lists, N_ITEMS)
    query = Query(csr_array(dense), 9, deny=random_clicks(7, N_ITEMS, 0.2, 6), reasons=2)
    deny = Rows.of_lists([np.flatnonzero(row).tolist() for row in query.deny.toarray()], N_ITEMS)
    plain = Query(rows, 9, deny=deny, reasons=2)
    expected = models["plain"].answer(query)
    same(exported.answer(plain), expected)
    same(exported.answer(query), expected)
    same(models["plain"].answer(plain), expected)


@pytest.mark.parametrize("asked", [["low"], [["low"], ["high", "gender=F"], []], "matrix", None])
def test_conditions_are_those_of_torch(models, folders, asked):
    if asked == "matrix":
        asked = csr_array(np.array([[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]], np.float32))
    query = Query(random_clicks(3, N_ITEMS, 0.2, seed=1), 8, conditions=asked, reasons=1)
    same(onnx_runtime.load(folders["conditions"]).answer(query), models["conditions"].answer(query))


@pytest.mark.parametrize(
    "rules",
    [{"conditions": ["lo"]}, {"conditions": ["gender=F", "gender=M"]}, {"conditions": csr_array((3, 2))},
     {"allow_tags": ["Comdy"]}, {"k": 3, "histories": csr_array((3, 7))}],
)  # fmt: skip
def test_questions_are_refused_in_the_same_words(models, folders, rules):
    query = Query(**{"histories": random_clicks(3, N_ITEMS, 0.2, seed=1), **rules})
    with pytest.raises(InputError) as ours:
        onnx_runtime.load(folders["conditions"]).answer(query)
    with pytest.raises(InputError) as theirs:
        models["conditions"].answer(query)
    assert str(ours.value) == str(theirs.value)
    with pytest.raises(InputError, match="This Linear model has no conditions"):
        onnx_runtime.load(folders["plain"]).answer(replace_conditions(query))


def replace_conditions(query):
    return replace(Query(csr_array((2, N_ITEMS))), conditions=["low"])


@pytest.mark.parametrize("rules", [{}, {"allow": [1, 2, 3]}, {"deny_tags": ["Old"]}, {"k": N_ITEMS}])
def test_similar_items_are_those_of_torch(models, folders, rules, monkeypatch):
    monkeypatch.setattr(onnx_runtime, "SCORES_IN_MEMORY", 2 * N_ITEMS)
    exported = onnx_runtime.load(folders["plain"])
    same(exported.similar_items([3, 0, 59], **rules), models["plain"].similar_items([3, 0, 59], **rules))
    same(exported.similar_items(4, **rules), models["plain"].similar_items(4, **rules))
    with pytest.raises(InputError, match=r"0 \.\. 59; got \[60\]"):
        exported.similar_items([60])


def test_without_similarities_the_sentence_is_the_models(models, tmp_path):
    exported = onnx_runtime.load(write_export(tmp_path / "out", models["plain"], similar=False))
    with pytest.raises(InputError, match="Linear knows no similar items"):
        exported.similar_items([1])
    with pytest.raises(InputError, match="Linear knows no similar items"):
        exported.answer(Query(csr_array((1, N_ITEMS)), diversity=0.5))


def test_scores_that_are_no_numbers_are_refused(models, tmp_path):
    from recvae.errors import WorkError

    broken = linear(N_ITEMS, seed=2, **NAMED)
    broken.weights[:] = np.nan
    exported = onnx_runtime.load(write_export(tmp_path / "out", broken))
    with pytest.raises(WorkError, match="not numbers"):
        exported.answer(Query(csr_array(np.ones((1, N_ITEMS), np.float32)), 2, exclude_seen=False))
    assert best.NOT_NUMBERS


@pytest.mark.parametrize("name", ["plain", "conditions"])
def test_lists_over_http_are_those_of_torch(models, folders, name):
    model, rng = models[name], np.random.default_rng(5)
    questions = [random_question(model, rng) for _ in range(60)]
    for asked in questions:
        if "conditions" in asked:
            asked["conditions"] = [str(rng.choice(CONDITIONS))]
    with here({"films": folders[name]}) as service, service.client() as client:
        for asked in questions:
            answer = client.post("/v1/recommend", json=asked)
            assert answer.status_code == 200, answer.text
            assert_same(answer.json(), plainly(model, asked))
        batch = client.post("/v1/recommend/batch", json={"queries": questions}).json()["answers"]
        for asked, answer in zip(questions, batch, strict=True):
            assert_same(answer, plainly(model, asked))
        about = client.get("/v1/model").json()
        assert (about["title"], about["items"], about["similar"]) == ("Linear", N_ITEMS, True)
        assert (about["dataset"], about["metrics"]) == ("toy", {"validation": 0.25})
        assert about["conditions"] == list(model.condition_names)
        assert client.get("/v1/items", params={"q": "film 7,"}).json()["items"][0]["item"] == IDS[7]
        similar = client.post("/v1/similar", json={"item": IDS[3], "k": 4}).json()
        assert [one["item"] for one in similar["items"]] == [IDS[i] for i in model.similar_items([3], 4).ids[0]]
        assert client.get("/").status_code == 200
