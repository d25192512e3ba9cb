"""RecVAE with a linear path: each path is the model of its own name, and the sum is kept, loaded and resumed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_clicks
from safetensors.torch import save_file
from small_models import BOARD, SETTINGS, equal

import recvae
from recvae.errors import FormatError
from recvae.vae import RecVAEEDLAE

PATH = {"path_weight": 3.0, "path_dropout": 0.3, "path_l2": 7.0}
COMMON = {**SETTINGS["recvae"], "epochs": 4, "seed": 4, "device": "cpu"}


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


def counted(monkeypatch):
    """Names of the safetensors files as they are written, with the tensors in each."""
    written = []

    def save(tensors, path, **more):
        written.append((Path(path).name.lstrip("."), sorted(tensors)))
        save_file(tensors, path, **more)

    monkeypatch.setattr("recvae.fixed.save_file", save)
    monkeypatch.setattr("recvae.checkpoint.save_file", save)
    return written


def test_the_linear_path_is_written_once_a_run(tmp_path, monkeypatch):
    """It is the largest tensor by far, and each of the best epochs wrote it again."""
    written = counted(monkeypatch)
    run = tmp_path / "run"
    RecVAEEDLAE(**{**COMMON, "stop_after": 2}, **PATH).fit(BOARD, folder=run)
    RecVAEEDLAE(**COMMON, **PATH).fit(BOARD, folder=run, resume=True)
    with_path = [name for name, tensors in written if "path" in tensors]
    assert len(with_path) == 1
    assert with_path[0].startswith("fixed-")
    assert sum(name.startswith("model.") for name, _ in written) == 4  # each epoch was best
    assert len(list(run.glob("fixed-*"))) == 1


def test_a_resumed_run_keeps_the_path_that_it_began_with(tmp_path, monkeypatch):
    """Made again with another number of threads it would be other bits, and best weights of two kinds."""
    whole = RecVAEEDLAE(**COMMON, **PATH).fit(BOARD).tensors()
    run = tmp_path / "run"
    RecVAEEDLAE(**{**COMMON, "stop_after": 2}, **PATH).fit(BOARD, folder=run)
    monkeypatch.setattr("recvae.vae.edlae_weights", None)  # not to be called
    again = RecVAEEDLAE(**COMMON, **PATH).fit(BOARD, folder=run, resume=True)
    assert equal(again.tensors(), whole)
    assert equal(recvae.load(run, "cpu").tensors(), whole)


def test_a_folder_of_an_earlier_version_loads_and_goes_on(tmp_path, monkeypatch):
    """Its weights hold the path themselves."""
    whole = RecVAEEDLAE(**COMMON, **PATH).fit(BOARD).tensors()
    run = tmp_path / "run"
    with monkeypatch.context() as earlier:
        earlier.setattr(RecVAEEDLAE, "fixed", ())
        RecVAEEDLAE(**{**COMMON, "stop_after": 2}, **PATH).fit(BOARD, folder=run)
    assert not list(run.glob("fixed-*"))
    assert recvae.load(run, "cpu").tensors().keys() == whole.keys()
    again = RecVAEEDLAE(**COMMON, **PATH).fit(BOARD, folder=run, resume=True)
    assert equal(again.tensors(), whole)
    assert equal(recvae.load(run, "cpu").tensors(), whole)
    assert len(list(run.glob("fixed-*"))) == 1


@pytest.mark.parametrize("damage", ["missing", "cut off", "altered", "another"])
def test_a_path_that_is_not_the_run_s_is_refused(tmp_path, damage):
    run = tmp_path / "run"
    RecVAEEDLAE(**{**COMMON, "stop_after": 1}, **PATH).fit(BOARD, folder=run)
    (file,) = run.glob("fixed-*")
    content = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    elif damage == "cut off":
        file.write_bytes(content[:100])
    elif damage == "altered":
        content[-100] ^= 1
        file.write_bytes(content)
    else:
        save_file({"path": torch.zeros(40, 40)}, file)
    with pytest.raises(FormatError, match="fixed-"):
        recvae.load(run, "cpu")


def test_a_saved_model_has_everything_in_one_file(tmp_path):
    RecVAEEDLAE(**{**COMMON, "stop_after": 1}, **PATH).fit(BOARD, folder=tmp_path / "run")
    loaded = recvae.load(tmp_path / "run", "cpu")
    loaded.save(tmp_path / "copy")
    assert not list((tmp_path / "copy").glob("fixed-*"))
    assert equal(recvae.load(tmp_path / "copy", "cpu").tensors(), loaded.tensors())
