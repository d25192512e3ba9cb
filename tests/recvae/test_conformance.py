"""What every registered model must do. A new model gets all of this by being registered."""

from dataclasses import fields

import numpy as np
import pytest
from conftest import checkerboard
from scipy.sparse import csr_array

import recvae
from recvae.errors import InputError
from recvae.models.neural import NeuralRecommender
from recvae.registry import MODELS
from recvae.testing import Conformance, NeuralConformance

# Settings that learn a small matrix in a moment; each model takes those it has.
SMALL = {
    "hidden": 32, "latent": 16, "epochs": 25, "batch_size": 10, "learning_rate": 0.01, "gamma": 0.001,
    "dropout": 0.3, "pseudo_inputs": 10, "factors": 8, "regularization": 0.1, "alpha": 5.0,
}  # fmt: skip


def settings(kind):
    known = {f.name: getattr(d, f.name) for d in (kind.model_defaults, kind.train_defaults) if d for f in fields(d)}
    options = {key: value for key, value in SMALL.items() if key in known}
    if isinstance(known.get("hidden"), tuple):
        options["hidden"] = (options["hidden"],)
    if "encoder_passes" in known:
        options["layers"] = 5  # the paper's, where a board this small would get two
    return options


def suite(kind, name=None, **more):
    """The test class of a model with some settings."""
    base = NeuralConformance if issubclass(kind, NeuralRecommender) else Conformance
    members = {"kind": kind, "settings": {**settings(kind), **more}, "personal": kind is not recvae.Popularity}
    members["weighs"] = more.get("likelihood") != "bernoulli"
    return type(name or f"Test{kind.__name__}", (base,), members)


for _entry in MODELS.values():
    _suite = suite(_entry.model_class())
    globals()[_suite.__name__] = _suite

# Priors and likelihoods that are not a model's default.
TestRecVAEBernoulliVamp = pytest.mark.slow(
    suite(recvae.RecVAE, "TestRecVAEBernoulliVamp", likelihood="bernoulli", prior="vamp", gamma=0.05)
)
TestRecVAEGaussian = pytest.mark.slow(
    suite(recvae.RecVAE, "TestRecVAEGaussian", likelihood="gaussian", confidence=10.0, gamma=0.05)
)
TestMultVAEComposite = pytest.mark.slow(suite(recvae.MultVAE, "TestMultVAEComposite", prior="composite"))
TestMultVAEVamp = pytest.mark.slow(suite(recvae.MultVAE, "TestMultVAEVamp", prior="vamp"))


@pytest.mark.parametrize("name", [n for n, entry in MODELS.items() if entry.model_class().train_defaults is None])
def test_a_baselines_list_for_an_empty_history_is_the_most_popular_items(name):
    kind = MODELS[name].model_class()
    model = kind(seed=1, device="cpu", **settings(kind)).fit(checkerboard())
    popular = recvae.Popularity().fit(checkerboard())
    ids, _ = model.recommend(csr_array((2, 40)), k=10)
    np.testing.assert_array_equal(ids, popular.recommend(csr_array((2, 40)), k=10).ids)


def test_raw_ids_with_masks_and_slips():
    model = recvae.EASE().fit(checkerboard(), item_ids=[f"i{n}" for n in range(40)])
    every = [f"i{n}" for n in range(40)]
    assert set(model.recommend_ids([["i2"]], k=9, allow=every[:6])[0][0]) == {"i0", "i1", "i3", "i4", "i5"}
    assert set(model.recommend_ids([["i2"]], k=40, deny=every[6:])[0][0]) == {"i0", "i1", "i3", "i4", "i5"}
    with pytest.raises(InputError, match="'i77'"):
        model.recommend_ids([["i2"]], deny=["i77"])
    with pytest.raises(InputError, match="not one text"):
        model.recommend_ids(["i2", "i4"])
    with pytest.raises(InputError, match="Did you mean"):
        model.recommend_ids([["i222"]])


@pytest.mark.parametrize("text", ["cr\rhere", "line\nbreak", 'say "hi", twice', " spaced ", "é", "007"])
def test_any_id_and_title_survives_a_run_folder(text, tmp_path):
    model = recvae.Popularity().fit(csr_array(np.ones((2, 2))), item_ids=[text, "other"], titles=["", text])
    model.save(tmp_path / "run")
    again = recvae.load(tmp_path / "run")
    assert (again.items.ids, again.items.titles) == ([text, "other"], ["", text])


def test_a_blend_says_what_it_is_made_of():
    parts = [kind(**settings(kind), device="cpu").fit(checkerboard()) for kind in (recvae.EASE, recvae.RecVAE)]
    assert repr(recvae.Blend(parts, checkerboard(), [1, 3])) == "Blend(0.25 EASE + 0.75 RecVAE; fitted: 40 items)"
