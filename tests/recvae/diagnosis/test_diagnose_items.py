"""Recall by groups of users and items, and the map of the items."""

import re

import numpy as np
import oracles
import pytest
import torch
from conftest import checkerboard
from scipy.sparse import csr_array, vstack
from small_diagnoses import diagnosed, whole

from eval import evaluate
from recvae.experiments import item_map
from recvae.experiments.groups import recall_by_group
from recvae.queries import Query
from recvae.ranking.lists import rank
from recvae.reports import item_map as report
from recvae.reports.diagnosis_page import page

# --- recall by groups -------------------------------------------------------------------------------------------------


class Popular:
    """Ranks by clicks, the same for everybody."""

    def __init__(self, clicks):
        self.clicks = clicks

    def answer(self, query):
        return rank(lambda part: torch.from_numpy(np.tile(self.clicks, (part.shape[0], 1))).float(), query)


def test_recall_by_groups_against_counting_one_by_one(data):
    clicks = np.bincount(data.train.indices, minlength=data.n_items)
    fold_in, held_out = data.test_in[:90], data.test_out[:90].copy()
    empty = csr_array((1, data.n_items), dtype=np.float32)
    held_out = csr_array(vstack([empty, held_out[1:]], format="csr"))  # a user to be left out
    ranker = Popular(clicks)
    found = recall_by_group(ranker, Query(fold_in), held_out, clicks)
    expected = evaluate(ranker, fold_in, held_out, "recall@20")
    assert found["overall"] == expected.metrics["recall@20"].to_dict()
    values, sizes = expected.per_user["recall@20"], np.diff(fold_in.indptr)
    assert sum(group["users"] for group in found["by_activity"]) == 89
    last = 0
    for group in found["by_activity"]:
        low, high = group["clicks"]
        assert last < low <= high
        last = high
        members = (sizes >= low) & (sizes <= high) & ~np.isnan(values)
        assert group["users"] == members.sum()
        assert group["mean"] == pytest.approx(values[members].mean())
    ids, _ = ranker.answer(Query(fold_in, 20))
    order = sorted(range(data.n_items), key=lambda i: (-clicks[i], i))
    tenth = {item: place // 50 for place, item in enumerate(order)}  # 500 items
    hits, hidden, credit = np.zeros(10), np.zeros(10), np.zeros(10)
    for user in range(1, 90):
        wanted = set(held_out[[user]].indices.tolist())
        for item in wanted:
            hidden[tenth[item]] += 1
            if item in ids[user]:
                hits[tenth[item]] += 1
                credit[tenth[item]] += 1 / min(20, len(wanted)) / 89
    of = {key: [group[key] for group in found["by_popularity"]] for key in found["by_popularity"][0]}
    assert of["hits"] == hits.tolist()
    assert of["held_out"] == hidden.tolist()
    np.testing.assert_allclose(of["contribution"], credit, atol=1e-12)
    assert sum(of["contribution"]) == pytest.approx(found["overall"]["mean"])
    assert sum(of["share_of_training_clicks"]) == pytest.approx(1)


def test_users_alike_in_activity_share_a_group():
    shown, hidden = np.zeros((40, 40), np.float32), checkerboard(users=40).toarray()
    shown[:, 0], hidden[:, 0] = 1, 0
    found = recall_by_group(Popular(np.arange(40)), Query(csr_array(shown)), csr_array(hidden), np.arange(40))
    assert len(found["by_activity"]) == 1
    assert found["by_activity"][0]["clicks"] == [1, 1]


def test_fewer_items_than_groups():
    fold_in, held_out = csr_array(np.eye(3, dtype=np.float32)), csr_array(np.eye(3, k=1, dtype=np.float32))
    found = recall_by_group(Popular(np.array([3, 2, 1])), Query(fold_in), held_out, np.array([3, 2, 1]))
    assert [group["items"] for group in found["by_popularity"]] == [1, 1, 1]
    assert found["by_popularity"][0]["found"] is None  # nobody held the most popular one out
    assert found["overall"] == {"mean": 1.0, "se": 0.0, "users": 2}


# --- the map ----------------------------------------------------------------------------------------------------------


def test_principal_components_are_those_of_the_svd():
    rows = oracles.fixed(30, 5)
    rows -= rows.mean(0)
    places, explained = item_map.principal_components(rows)
    _, singular, axes = np.linalg.svd(rows, full_matrices=False)
    np.testing.assert_allclose(np.abs(places), np.abs(rows @ axes[:2].T), atol=1e-10)
    np.testing.assert_allclose(explained, singular[:2] ** 2 / (singular**2).sum(), rtol=1e-10)
    assert (np.abs(places.max(0)) >= np.abs(places.min(0))).all()


def test_what_is_left_without_popularity_has_none_of_it():
    clicks = np.random.default_rng(2).integers(0, 5000, 60)
    logs = np.log1p(clicks)
    vectors = oracles.fixed(60, 5) + np.outer(logs, [30.0, 0, -10, 0, 0])
    rest, share = item_map.without_popularity(vectors, clicks)
    slope = [np.polyfit(logs, column, 1) for column in vectors.T]  # an independent regression, column by column
    wanted = np.stack([c - np.polyval(line, logs) for c, line in zip(vectors.T, slope, strict=True)], axis=1)
    np.testing.assert_allclose(rest, wanted, atol=1e-9)
    assert share == pytest.approx(1 - wanted.var(0).sum() / vectors.var(0).sum())
    places, _ = item_map.principal_components(rest)
    with_it, _ = item_map.principal_components(vectors - vectors.mean(0))
    assert abs(np.corrcoef(with_it[:, 0], logs)[0, 1]) > 0.99
    assert np.abs(np.corrcoef(np.c_[places, logs].T)[2, :2]).max() < 1e-9
    assert item_map.without_popularity(vectors, np.full(60, 3))[1] == 0


def test_unit_rows():
    vectors = oracles.fixed(6, 3)
    vectors[4] = 0
    norms = np.linalg.norm(item_map.unit_rows(vectors), axis=1)
    np.testing.assert_allclose(norms, [1, 1, 1, 1, 0, 1])


@pytest.mark.parametrize("vectors", [np.ones((4, 3)), np.zeros((4, 3)), oracles.fixed(4, 1)])
def test_items_that_span_no_plane(vectors):
    rest, share = item_map.without_popularity(item_map.unit_rows(vectors), np.arange(4))
    places, explained = item_map.principal_components(rest)
    assert places.shape == (4, 2)
    assert np.isfinite(places).all()
    assert all(0 <= part <= 1 + 1e-12 for part in [share, *explained])


def test_the_map_has_the_most_clicked_items_first(data, healthy, monkeypatch):
    found = diagnosed(*healthy, data)["items"]
    clicks = [point["clicks"] for point in found["points"]]
    assert len(clicks) == found["items_in_all"] == 500
    assert clicks == sorted(clicks, reverse=True)
    places = np.array([[point["x"], point["y"]] for point in found["points"]])
    assert np.abs(np.corrcoef(np.c_[places, np.log1p(clicks)].T)[2, :2]).max() < 1e-4  # of five digits
    monkeypatch.setattr(item_map, "MAP_POINTS", 30)
    fewer = diagnosed(*healthy, data)
    assert fewer["items"]["points"] == found["points"][:30]
    assert "470 least clicked items are left out" in page(whole(fewer))


def test_a_point_has_the_colour_of_its_rarest_frequent_tag(data, healthy, monkeypatch):
    model = healthy[0]
    tags = {item: ["all", "half"] if place % 2 else ["all"] for place, item in enumerate(model.items.ids)}
    tags[model.items.ids[0]] = ["all", "rare <&>"]
    monkeypatch.setattr(item_map, "TAGS", 2)
    monkeypatch.setattr(model, "items", model.items.tagged(tags))
    found = diagnosed(*healthy, data)
    assert found["items"]["tags"] == ["all", "half"]
    of = {point["item_id"]: point["tag"] for point in found["items"]["points"]}
    assert [of[item] for item in model.items.ids[:4]] == ["all", "half", "all", "half"]
    text = page(whole(found))
    assert re.findall(r'<p class="key">(.*?)</p>', text)[0].count("<circle") == 3
    assert (
        len(re.findall(r'<circle class="c1(?: named)?" cx="[\d.]+" cy="[\d.]+" r="[\d.]+"><title>[^<]*, half<', text))
        == 250
    )
    monkeypatch.setattr(model, "items", model.items.tagged({}))
    plain = page(whole(diagnosed(*healthy, data)))
    assert "The items have no tags to colour them by" in plain
    assert '<p class="key">' not in plain


def test_the_key_shows_a_tag_as_text():
    items = {"tags": ["<b>"], "points": []}
    assert "&lt;b&gt;" in report.key(items)
    assert report.key({"tags": [], "points": []}) == ""
