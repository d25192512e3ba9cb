"""A training run in the place of an earlier one, which stays until the new run has a model."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from small_models import BOARD, equal, model

import recvae
from recvae.errors import InputError, WorkError
from recvae.files import swap
from recvae.training import run_folder
from recvae.training.keepers import InFolder


def test_a_failed_overwrite_gives_the_earlier_run_its_place_again(tmp_path):
    before = model("mult-dae").fit(BOARD, folder=tmp_path / "run").tensors()
    with pytest.raises(WorkError, match="inf"):
        model("mult-dae", seed=8).fit(BOARD, folder=tmp_path / "run", overwrite=True, validation=lambda _: float("inf"))
    assert equal(before, recvae.load(tmp_path / "run", "cpu").tensors())
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_earlier_run_stays_where_it_cannot_be_moved(tmp_path, monkeypatch):
    before = model("mult-dae").fit(BOARD, folder=tmp_path / "run").tensors()

    def refused(*_):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refused)
        patch.setattr(swap, "exchange", refused)
        with pytest.raises(WorkError, match="Permission denied"):
            model("mult-dae", seed=8).fit(BOARD, folder=tmp_path / "run", overwrite=True)
    assert equal(before, recvae.load(tmp_path / "run", "cpu").tensors())
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_folder_one_is_in_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="the folder you are in"):
        model("mult-dae").fit(BOARD, folder=".")
    with pytest.raises(InputError, match="the folder you are in"):
        recvae.Popularity().fit(BOARD).save(tmp_path)


@pytest.mark.parametrize("then", ["resume", "overwrite"])
def test_a_killed_overwrite_leaves_the_earlier_run(then, tmp_path, monkeypatch):
    """Killed before its first best epoch, and failing again afterwards: the earlier run is there all the time."""
    before = model("mult-dae").fit(BOARD, folder=tmp_path / "run").tensors()
    with monkeypatch.context() as patch:
        patch.setattr(InFolder, "end", lambda self: self.held.close())  # a dead process does nothing at the end
        with pytest.raises(WorkError):
            model("mult-dae", seed=8).fit(BOARD, folder=tmp_path / "run", overwrite=True, validation=lambda _: np.inf)
    assert equal(before, recvae.load(tmp_path / "run", "cpu").tensors())
    with pytest.raises(WorkError):
        model("mult-dae", seed=8).fit(BOARD, folder=tmp_path / "run", **{then: True}, validation=lambda _: np.inf)
    assert equal(before, recvae.load(tmp_path / "run", "cpu").tensors())
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_run_that_an_earlier_version_set_aside_is_found(tmp_path):
    """It set a run aside before the new one had a model, and was killed: a reader finds the earlier one, once more."""
    before = model("mult-dae").fit(BOARD, folder=tmp_path / "run").tensors()
    aside = swap.set_aside(tmp_path / "run")
    with pytest.raises(WorkError):
        model("mult-dae", seed=8).fit(BOARD, folder=tmp_path / "begun", validation=lambda _: np.inf)
    (tmp_path / "run").mkdir()
    shutil.copy(aside / run_folder.RUN, tmp_path / "run")
    assert equal(before, recvae.load(tmp_path / "run", "cpu").tensors())
    assert (swap.next_of(tmp_path / "run") / run_folder.RUN).is_file()
    model("mult-dae").fit(BOARD, folder=tmp_path / "run", resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    swap.set_aside(tmp_path / "run")
    assert equal(before, recvae.load(tmp_path / "run", "cpu").tensors())


def test_an_existing_folder_is_refused_or_replaced_if_it_is_a_run(tmp_path):
    folder = tmp_path / "run"
    model("mult-dae").fit(BOARD, folder=folder)
    with pytest.raises(InputError, match="exists already"):
        model("mult-dae").fit(BOARD, folder=folder)
    model("mult-dae", epochs=1).fit(BOARD, folder=folder, overwrite=True)
    assert len(run_folder.read_metrics(folder)) == 1
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "letter.txt").write_text("do not lose me")
    with pytest.raises(InputError, match="not replaced"):
        model("mult-dae").fit(BOARD, folder=precious, overwrite=True)
    assert (precious / "letter.txt").exists()
