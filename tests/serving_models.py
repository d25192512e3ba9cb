"""Run folders of every model that trains in a moment, and random questions to ask them."""

import numpy as np
from conftest import checkerboard
from quick_models import quick
from scipy.sparse import csr_array

from recvae.baselines.popularity import Popularity
from recvae.models.blend import Blend
from recvae.models.vaeac import VAEAC
from recvae.queries import Query
from recvae.registry import MODELS

N_ITEMS = 60
IDS = [f"{column:03}" for column in range(N_ITEMS)]
TITLES = [f"Film {column}, The ({1950 + column})" for column in range(N_ITEMS)]
TAGS = {item: [["Comedy", "Drama", "Horror"][column % 3], *(["Old"] if column < 20 else [])]
        for column, item in enumerate(IDS)}  # fmt: skip
TAG_NAMES = ["Comedy", "Drama", "Horror", "Old"]
CONDITIONS = ["Comedy", "Drama", "Horror"]
NAMES = [*MODELS, "blend", "rated vaeac"]


def fitted(name, seed=0):
    """A model of a name; 'rated vaeac' is one of ratings."""
    clicks = checkerboard(users=120, items=N_ITEMS, seed=seed)
    named = {"item_ids": IDS, "titles": TITLES, "item_tags": TAGS}
    if name == "blend":
        ease, popular = quick("ease").fit(clicks, **named), Popularity(seed=1).fit(clicks, **named)
        return Blend([ease, popular], clicks[:30], [0.7, 0.3], device="cpu")
    if name == "rated vaeac":
        rated = csr_array((1.0 + np.arange(clicks.nnz) % 5, clicks.indices, clicks.indptr), shape=clicks.shape)
        options = {"hidden": 16, "latent": 8, "epochs": 2, "batch_size": 60, "ratings": True, "liked_from": 4.0}
        return VAEAC(likelihood="gaussian", device="cpu", seed=1, **options).fit(rated, **named)
    if name == "conditional-vae":
        return quick(name, epochs=3).fit(clicks, **named)
    return quick(name).fit(clicks, **named)


def random_question(model, rng):
    """A question as JSON has it."""
    length = int(rng.integers(0, 15))
    history = [IDS[column] for column in rng.choice(N_ITEMS, length, replace=False)]
    asked = {"history": history, "k": int(rng.choice([1, 3, 10, 10, 10, 100]))}
    if rng.random() < 0.2:
        asked["exclude_seen"] = False
    if rng.random() < 0.2:
        asked["allow"] = [IDS[column] for column in rng.choice(N_ITEMS, 25, replace=False)]
    if rng.random() < 0.2:
        asked["deny"] = [IDS[column] for column in rng.choice(N_ITEMS, 10, replace=False)]
    if model.of_ratings and history and rng.random() < 0.7:
        asked["ratings"] = [float(value) for value in rng.integers(1, 6, length)]
    if model.condition_names and rng.random() < 0.6:
        asked["conditions"] = [str(rng.choice(CONDITIONS))]
    if rng.random() < 0.2:
        asked["reasons"] = int(rng.integers(1, 4))
    if rng.random() < 0.15:
        asked["allow_tags"] = [str(tag) for tag in rng.choice(TAG_NAMES, 2, replace=False)]
    if rng.random() < 0.15:
        asked["deny_tags"] = [str(rng.choice(TAG_NAMES))]
    if rng.random() < 0.15:
        asked["most_per_tag"] = int(rng.integers(1, 4))
    if rng.random() < 0.15 and model.name not in ("popularity", "blend"):  # which know no similar items
        asked["diversity"] = float(rng.choice([0.2, 0.5, 1.0]))
    return asked


def plainly(model, asked):
    """The answer to one question alone, by Query and model.answer: pairs of id and score, and reasons."""
    ids, place = model.items.ids, model.items.columns
    values = asked.get("ratings", [model.named_value] * len(asked["history"]))
    columns = [place[item] for item in asked["history"]]
    row = csr_array((np.array(values, np.float32), ([0] * len(columns), columns)), shape=(1, model.n_items))
    rules = {name: [place[item] for item in asked[name]] for name in ("allow", "deny") if name in asked}
    same = ("exclude_seen", "conditions", "reasons", "allow_tags", "deny_tags", "most_per_tag", "diversity")
    answer = model.answer(Query(row, asked["k"], **rules, **{name: asked[name] for name in same if name in asked}))
    found = [(ids[i], float(score)) for i, score in zip(answer.ids[0], answer.scores[0], strict=True) if i >= 0]
    if answer.reasons is None:
        return found, None
    r = answer.reasons
    because = [
        [(ids[i], float(score), int(rank)) for i, score, rank in zip(*three, strict=True) if i >= 0]
        for three in zip(r.items[0], r.scores[0], r.ranks_without[0], strict=True)
    ]
    return found, list(zip(r.ranks[0].tolist(), because, strict=True))[: len(found)]


def close(one, other):
    return abs(one - other) <= 1e-6 * max(1.0, abs(one), abs(other))


def assert_same(answer, expected, tags=TAGS):
    """The items and scores of an answer are those expected; equal scores may be in another order."""
    found, because = expected
    items = answer["items"]
    assert len(items) == len(found)
    scores = dict(found)
    assert all(item["tags"] == tags[item["item"]] and item["title"] for item in items)
    for item, (name, score) in zip(items, found, strict=True):
        assert close(item["score"], score), (item, name, score)
        assert item["item"] == name or close(scores.get(item["item"], item["score"]), score), (item, name, score)
    if because is None:
        assert all(item["reasons"] == [] for item in items)
        assert [item["rank"] for item in items] == list(range(1, len(items) + 1))
        return
    for item, (name, _), (rank, reasons) in zip(items, found, because, strict=True):
        if item["item"] == name:
            assert item["rank"] == rank
            said = [(one["item"], one["score"], one["rank"]) for one in item["reasons"]]
            assert [one[0::2] for one in said] == [one[0::2] for one in reasons]
            assert all(close(a[1], b[1]) for a, b in zip(said, reasons, strict=True))
