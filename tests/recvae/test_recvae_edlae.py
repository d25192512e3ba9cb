"""RecVAE with a linear path: each path is the model of its own name, and the sum is kept, loaded and resumed."""

import numpy as np
import torch
from conftest import random_clicks
from small_models import BOARD, SETTINGS, equal

import recvae
from recvae.vae import RecVAEEDLAE

PATH = {"path_weight": 3.0, "path_dropout": 0.3, "path_l2": 7.0}
COMMON = {**SETTINGS["recvae"], "epochs": 4, "average": 0.0, "patience": 0, "seed": 4, "device": "cpu"}


def test_its_scores_are_those_of_the_two_models_added():
    histories = random_clicks(15, 40, 0.2, seed=2)
    both = RecVAEEDLAE(**COMMON, **PATH).fit(BOARD)
    deep = recvae.RecVAE(**COMMON).fit(BOARD)
    linear = recvae.EDLAE(dropout=0.3, l2=7.0).fit(BOARD)
    expected = deep.scores(histories).double() + 3.0 * linear.scores(histories).double()
    np.testing.assert_allclose(both.scores(histories).detach(), expected.detach(), rtol=1e-5, atol=1e-5)


def test_click_weights_leave_the_linear_path_alone():
    heavy = BOARD.copy()
    heavy.data = np.random.default_rng(1).integers(1, 500, heavy.nnz).astype(np.float32)
    histories = heavy[:9]
    weighted = RecVAEEDLAE(**COMMON, **PATH, weighted=True).fit(heavy)
    deep = recvae.RecVAE(**COMMON, weighted=True).fit(heavy)
    linear = recvae.EDLAE(dropout=0.3, l2=7.0).fit(BOARD)
    expected = deep.scores(histories).double() + 3.0 * linear.scores(BOARD[:9]).double()
    np.testing.assert_allclose(weighted.scores(histories).detach(), expected.detach(), rtol=1e-5, atol=1e-5)


def test_the_linear_path_does_not_change_what_the_deep_one_learns(tmp_path):
    both = RecVAEEDLAE(**COMMON, **PATH).fit(BOARD, folder=tmp_path / "run")
    deep = recvae.RecVAE(**COMMON).fit(BOARD)
    of_both = both.tensors()
    path = of_both.pop("path")
    assert equal(of_both, deep.tensors())
    assert torch.equal(path.diagonal(), torch.zeros(40))
    loaded = recvae.load(tmp_path / "run", "cpu").tensors()
    assert torch.equal(loaded.pop("path"), path)
    assert equal(loaded, of_both)


def test_the_epoch_is_chosen_for_the_sum_and_in_memory_is_as_in_a_folder(tmp_path):
    held_out = random_clicks(60, 40, 0.2, seed=9)

    def validation(model):
        return float(model.recommend(held_out, k=5)[1].mean())

    places = ({}, {"folder": tmp_path / "run"})
    models = [RecVAEEDLAE(**COMMON, **PATH).fit(BOARD, validation=validation, **place) for place in places]
    assert models[0].best_epoch == models[1].best_epoch
    assert models[0].metrics == models[1].metrics
    assert equal(models[0].tensors(), models[1].tensors())
    assert validation(models[0]) == models[0].metrics["validation"]
