"""What models declare of themselves, and that nobody finds it out in another way."""

import re
from pathlib import Path

import numpy as np
import pytest
from outside_models import CoLike, entry_of
from scipy.sparse import csr_array

import recvae
from data_prep import Dataset, Split
from recvae.capabilities import METRIC, R2
from recvae.cli import options
from recvae.errors import InputError
from recvae.experiments.space import plan
from recvae.options import OneOf
from recvae.registry import JOINED, MODELS, adopt, entry

SOURCE = Path(recvae.__file__).parent
OWN = {"models/vaeac.py", "models/conditional.py"}


@pytest.fixture(scope="module")
def graded():
    """Six training, two validation and two test users of five items; of what was rated, 4 and more are the clicks."""
    draw = np.random.default_rng(3)
    stars = draw.integers(1, 6, size=(10, 5)).astype(np.float32)
    stars[:, 0], stars[:, 1] = 5, 4
    hidden = np.zeros_like(stars, dtype=bool)
    hidden[:, 0] = True
    rows = {"train": (range(6), stars), "validation_in": (range(6, 8), np.where(hidden, 0, stars)),
            "validation_out": (range(6, 8), np.where(hidden, stars, 0)), "test_in": (range(8, 10),
            np.where(hidden, 0, stars)), "test_out": (range(8, 10), np.where(hidden, stars, 0))}  # fmt: skip
    ratings = {name: csr_array(values[list(part)]) for name, (part, values) in rows.items()}
    clicks = {}
    for name, matrix in ratings.items():
        liked = matrix.copy()
        liked.data = (liked.data >= 4).astype(np.float32)
        liked.eliminate_zeros()
        clicks[name] = liked
    users = {"train": range(6), "validation": range(6, 8), "test": range(8, 10)}
    ids = {split: np.array([f"u{n}" for n in part], dtype=object) for split, part in users.items()}
    return Dataset.from_split(
        Split(**clicks, user_ids=ids, item_ids=np.array(list("abcde"), dtype=object)),
        name="graded",
        about={"filters": {"min_rating": 4}},
        ratings=ratings,
    )


def same(one, two):
    return one.shape == two.shape and (one != two).nnz == 0


@pytest.mark.parametrize("name", MODELS)
def test_every_model_learns_from_clicks_unless_it_says_so(graded, name):
    kind = entry(name).model_class()
    expected = {"conditional-vae": ("item_tags",)}
    assert kind.reads(kind.model_defaults) == expected.get(name, ())
    model = kind(device="cpu")
    assert not model.of_ratings
    assert not model.predicts_ratings
    assert model.named_value == 1.0
    assert model.default_metric == METRIC
    if name not in expected:
        inputs = model.training_inputs(graded)
        assert inputs["item_ids"] == list("abcde")
        assert same(inputs["train"], graded.train)
        assert same(model.training_inputs(graded, refit=True)["train"], graded.refit_matrix())
    for split in ("validation", "test"):
        query, clicks = model.held_out_inputs(graded, split)
        assert same(query.histories, graded.matrix(f"{split}_in"))
        assert same(clicks, graded.matrix(f"{split}_out"))
        assert query.conditions is None
    assert model.held_out_inputs(graded, "train").clicks is None


@pytest.mark.parametrize("name", ["vaeac", "co-like"])
def test_a_model_that_reads_ratings_gets_them(graded, name, monkeypatch):
    monkeypatch.setitem(MODELS, CoLike.name, entry_of(CoLike))
    model = recvae.VAEAC(ratings=True, device="cpu") if name == "vaeac" else CoLike(device="cpu")
    assert model.of_ratings
    assert same(model.training_inputs(graded)["train"], graded.ratings("train"))
    assert same(model.training_inputs(graded, refit=True)["train"], graded.refit_matrix(ratings=True))
    query, clicks = model.held_out_inputs(graded, "test")
    assert same(query.histories, graded.ratings("test_in"))
    assert same(clicks, graded.matrix("test_out"))  # clicks are to be found
    assert same(model.held_out_inputs(graded, "train").query.histories, graded.ratings("train"))


def test_ratings_have_a_metric_and_a_border_of_their_own(graded):
    gaussian = recvae.VAEAC(ratings=True, likelihood="gaussian", device="cpu")
    assert gaussian.predicts_ratings
    assert gaussian.default_metric == R2
    assert recvae.VAEAC(ratings=True, device="cpu").default_metric == METRIC
    assert recvae.VAEAC(ratings=True, liked_from=3.5, device="cpu").named_value == 3.5
    with pytest.raises(InputError, match=r"ratings from 4 on, and this model calls those from 3.5 on liked"):
        recvae.VAEAC(ratings=True, liked_from=3.5, device="cpu").training_inputs(graded)


def test_the_parts_that_any_trial_of_a_search_reads():
    assert plan("mult-vae").reads() == set()
    assert plan("conditional-vae").reads() == {"item_tags"}
    assert plan("conditional-vae", settings=["model.item_tags=false"]).reads() == set()
    tags = {"model.item_tags": OneOf(False, True), "model.user_attributes": OneOf((), ("age",))}
    assert plan("conditional-vae", settings=[], space=tags).reads() == {"item_tags", "user_tags"}
    assert plan("vaeac", settings=["model.ratings=true"]).reads() == {"ratings"}


def test_the_command_line_names_the_metric_that_rankings_have():
    assert options.METRIC == METRIC  # which --help must not import


def test_a_joined_model_is_not_adopted_as_one_that_trains():
    adopt(JOINED["blend"])
    assert "blend" not in MODELS


def test_nobody_else_asks_for_a_class_or_an_option():
    """The prior's sentence in diagnose.py alone goes by the network's class, until the network says it."""
    asked = re.compile(
        r"isinstance\(.*(ConditionalVAE|VAEAC)\b|(get|has)attr\(.*\"(ratings|weighted|user_attributes)\""
    )
    named = re.compile(r"(==|!=|\bin\b) *[(\[{]*\"(" + "|".join(MODELS) + r")\"")
    found = [
        f"{path.relative_to(SOURCE)}: {line.strip()}"
        for path in sorted(SOURCE.rglob("*.py"))
        if path.relative_to(SOURCE).as_posix() not in OWN
        for line in path.read_text(encoding="utf-8").splitlines()
        if asked.search(line) or named.search(line)
    ]
    assert found == []
