"""get_params, set_params and sklearn.base.clone; the conformance suite tests the first two for every model."""

import pytest
from conftest import checkerboard
from sklearn.base import clone
from sklearn.model_selection import ParameterGrid

import recvae
from recvae.errors import ConfigError, InputError
from recvae.registry import MODELS


@pytest.mark.parametrize("name", MODELS)
def test_scikit_learn_clones_every_model(name):
    kind = MODELS[name].model_class()
    model = kind(seed=5, device="cpu")
    copy = clone(model)
    assert type(copy) is kind
    assert copy is not model
    assert copy.get_params() == model.get_params()
    assert copy.config == model.config
    assert kind(**model.get_params()).config == model.config
    assert [type(part) for part in clone([model, copy])] == [kind, kind]


def test_a_clone_of_a_fitted_or_loaded_model_is_not_fitted_and_follows_the_data_again(tmp_path):
    model = recvae.EASE().fit(checkerboard())
    assert "l2" not in model.get_params()  # it followed the data
    copy = clone(model)
    assert copy.n_items == 0
    assert copy.config.open == {"model.l2"}
    assert clone(recvae.EASE(l2=model.config.model.l2)).config.open == frozenset()
    model.save(tmp_path / "run")
    assert clone(recvae.load(tmp_path / "run")).fit(checkerboard()).config == model.config


def test_a_grid_of_options():
    scores = {}
    for options in ParameterGrid({"l2": [1.0, 10.0], "seed": [1]}):
        model = clone(recvae.EASE(device="cpu")).set_params(**options).fit(checkerboard())
        scores[options["l2"]] = model.config.model.l2
    assert scores == {1.0: 1.0, 10.0: 10.0}


def test_mistakes():
    model = recvae.RecVAE(device="cpu")
    with pytest.raises(ConfigError, match="Did you mean 'gamma'"):
        model.set_params(gama=1)
    with pytest.raises(ConfigError, match="epochs"):
        model.set_params(epochs=-1)
    assert model.set_params(epochs=3, gamma=0.01).get_params()["epochs"] == 3
    fitted = recvae.EASE(device="cpu").fit(checkerboard())
    with pytest.raises(InputError, match="stays on its device"):
        fitted.set_params(device="meta")
    assert fitted.set_params(device="cpu") is fitted
    blend = recvae.Blend([fitted, recvae.Popularity().fit(checkerboard())], checkerboard(), [1, 1])
    for use in (lambda: clone(blend), lambda: blend.set_params(seed=1)):
        with pytest.raises(InputError):
            use()
