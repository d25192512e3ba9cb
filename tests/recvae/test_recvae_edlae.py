"""RecVAE with a linear path: each path is the model of its own name, and the sum is kept, loaded and resumed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_clicks
from safetensors.torch import save_file
from sealing import reseal
from small_models import BOARD, SETTINGS, equal

import recvae
from recvae.errors import FormatError
from recvae.models.recvae_edlae import RecVAEEDLAE
from recvae.training import run_folder as checkpoint

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
        return float(model.recommend(held_out, k=5).scores.mean())

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

    monkeypatch.setattr("recvae.training.tensor_files.save_file", save)
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
    monkeypatch.setattr("recvae.models.recvae_edlae.edlae_weights", None)  # not to be called
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


def test_weights_of_before_the_first_state_do_not_keep_their_path(tmp_path, monkeypatch):
    """A run killed before its first state begins anew, on another machine with a path of other bits."""

    def killed(*_):
        raise KeyboardInterrupt

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("recvae.training.run_folder.write_state", killed)
        with pytest.raises(KeyboardInterrupt):
            RecVAEEDLAE(**COMMON, **PATH).fit(BOARD, folder=run)
    (first,) = run.glob("fixed-*")
    path = recvae.load(run, "cpu").network.path
    monkeypatch.setattr("recvae.models.recvae_edlae.edlae_weights", lambda *_: path * (1 + 1e-6))
    model = RecVAEEDLAE(**COMMON, **PATH).fit(BOARD, folder=run, resume=True)
    (second,) = run.glob("fixed-*")
    assert second.name != first.name
    assert not torch.equal(model.network.path, path)
    assert equal(recvae.load(run, "cpu").tensors(), model.tensors())
    assert checkpoint.verify(run)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_that_never_has_weights_leaves_no_path(tmp_path, monkeypatch, overwrite):
    run = tmp_path / "run"
    if overwrite:
        RecVAEEDLAE(**COMMON, **PATH).fit(BOARD, folder=run)
    before = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    found = []

    def killed(folder, *_):
        found.extend(folder.glob("fixed-*"))
        raise KeyboardInterrupt

    monkeypatch.setattr("recvae.training.run_folder.write_best", killed)
    with pytest.raises(KeyboardInterrupt):
        RecVAEEDLAE(**{**COMMON, "seed": 5}, **PATH).fit(BOARD, folder=run, overwrite=overwrite)
    assert len(found) == 1  # it comes before the weights that name it
    assert (found[0].parent == run) != overwrite
    assert {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda rest, path: path.update(path=torch.zeros(40, 41)), "40 x 41"),
        (lambda rest, path: path.update(path=torch.full((40, 40), torch.nan)), "not finite"),
        (lambda rest, path: path.update(other=torch.zeros(2)), "'other'"),
        (lambda rest, path: rest.update(path=torch.zeros(40, 40)), "do not belong together"),
        (lambda rest, path: path.clear(), "lacks the tensor 'path'"),
    ],
)
def test_a_crafted_path_is_refused(tmp_path, change, reason):
    """Its digests are right, and it is of no use."""
    run = tmp_path / "run"
    RecVAEEDLAE(**{**COMMON, "stop_after": 1}, **PATH).fit(BOARD, folder=run)
    rest, facts = checkpoint.read_weights(run)
    path = {"path": rest.pop("path")}
    change(rest, path)
    checkpoint.write_weights(run, rest, {**facts, "fixed": checkpoint.write_fixed(run, path)})
    reseal(run)
    with pytest.raises(FormatError, match=reason):
        recvae.load(run, "cpu")


@pytest.mark.parametrize("name", ["../../../../other", "", 3])
def test_a_digest_that_is_none_is_refused(tmp_path, name):
    run = tmp_path / "run"
    RecVAEEDLAE(**{**COMMON, "stop_after": 1}, **PATH).fit(BOARD, folder=run)
    tensors, facts = checkpoint.read_weights(run)
    checkpoint.write_weights(run, tensors, {**facts, "fixed": name})
    with pytest.raises(FormatError, match="'fixed' is of another kind"):
        recvae.load(run, "cpu")
