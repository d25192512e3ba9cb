"""The command line under torchrun: runs of several processes, their faults, and how they go on."""

import json
import os
import re
import shutil
import signal
import time

import numpy as np
import pytest
from ranked.launched import ended, torchrun
from scipy.sparse import csr_array

from recvae.errors import InputError
from recvae.recommender import load, model_class
from recvae.training import run_folder
from recvae.training.distributed import Processes

SMALL = ("--set", "model.hidden=16", "--set", "model.latent=4", "--set", "train.batch_size=20")
REPEATS = range(int(os.environ.get("RECVAE_REPEATS", "1")))  # of each fault
ERROR = re.compile(r"^(?:Error: |Stopped)", re.MULTILINE)


def training(dataset, out, *more, model="recvae", epochs=3):
    return "train", dataset, "--out", out, "--model", model, *SMALL, "--set", f"train.epochs={epochs}", *more


@pytest.mark.slow
def test_two_processes_write_the_run_that_one_process_loads(cli, dataset, tmp_path):
    status, text = torchrun(*training(dataset, tmp_path / "two", "--set", "train.checkpoint_every=5", epochs=2))
    assert status == 0, text
    assert cli(*training(dataset, tmp_path / "one", epochs=2)).status == 0
    two, one = load(tmp_path / "two"), load(tmp_path / "one")
    assert run_folder.verify(tmp_path / "two")
    assert two.best_epoch == one.best_epoch
    assert two.metrics["validation"] == pytest.approx(one.metrics["validation"], abs=0.003)
    for name, tensor in one.tensors().items():
        np.testing.assert_allclose(two.tensors()[name], tensor, atol=1e-4)
    histories = csr_array(np.eye(two.n_items, dtype=np.float32))
    np.testing.assert_allclose(two.scores(histories).detach(), one.scores(histories).detach(), atol=1e-3)
    assert text.count("epoch 1/2") == 1  # one process prints


def test_a_verb_of_one_process_is_refused_once(cli, dataset, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    for rank, said in (("0", "Error: 'recvae info' runs in one process: start it without torchrun.\n"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        answer = cli("info", dataset)
        assert (answer.status, answer.err) == (2, said)


def test_a_model_without_parts_is_refused():
    with pytest.raises(InputError, match=r"share the items of 'ease'.*mult-dae"):
        model_class("ease").refuse_parts()


def test_a_run_of_several_processes_is_not_continued_by_one_alone(tmp_path):
    model = model_class("mult-vae")(epochs=2, hidden=(8,), latent=4)
    matrix = csr_array(np.eye(6, dtype=np.float32))
    model.fit(matrix, folder=tmp_path / "run")
    (tmp_path / "run" / run_folder.HELD).write_text("{}")
    with pytest.raises(InputError, match=r"trained by several processes. Go on with: torchrun --nproc-per-node N"):
        model.fit(matrix, folder=tmp_path / "run", resume=True)


def test_states_within_an_epoch_need_torchrun(tmp_path):
    model = model_class("mult-vae")(epochs=1, hidden=(8,), latent=4, checkpoint_every=3)
    with pytest.raises(InputError, match=r"torchrun --nproc-per-node 1"):
        model.fit(csr_array(np.eye(6, dtype=np.float32)), folder=tmp_path / "run")


@pytest.fixture(scope="module")
def uninterrupted(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    for model in ("recvae", "mult-vae"):
        status, text = torchrun(*training(dataset, folder / model, model=model))
        assert status == 0, text
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("repeat", REPEATS)
@pytest.mark.parametrize("model", ["recvae", "mult-vae"])
def test_a_killed_process_costs_no_bit(model, repeat, dataset, tmp_path, uninterrupted):
    update = 10 + 3 * repeat % 11
    status, text = torchrun(
        *training(dataset, tmp_path / "run", "--resume", "--set", "train.checkpoint_every=4", model=model),
        restarts=1,
        fault=f"kill:{update}",
        once=tmp_path / "once",
    )
    assert status == 0, text
    assert (tmp_path / "once").exists()
    weights = run_folder.WEIGHTS
    assert (tmp_path / "run" / weights).read_bytes() == (uninterrupted / model / weights).read_bytes()


FAULTS = [
    ("kill:9", "Another process of this run ended"),
    ("nan:9", "The loss stopped being a finite number in epoch"),
    ("full:9", "Cannot write .* File too large"),
]


@pytest.mark.slow
@pytest.mark.parametrize("repeat", REPEATS)
@pytest.mark.parametrize(("fault", "sentence"), FAULTS)
@pytest.mark.parametrize(("ranks", "data_parallel"), [(2, 1), (4, 2)])
def test_one_process_that_fails_ends_all_with_one_sentence(
    ranks, data_parallel, fault, sentence, repeat, dataset, tmp_path
):
    words = training(dataset, tmp_path / "run", "--data-parallel", data_parallel, epochs=20)
    status, text = torchrun(*words, ranks=ranks, fault=fault, moment=tmp_path / "moment")
    seconds = time.time() - float((tmp_path / "moment").read_text())
    assert status == 1, text
    assert len(ERROR.findall(text)) == 1, text
    assert re.search(sentence, text), text
    assert seconds < 30
    assert not list((tmp_path / "run").rglob("*.part"))


def test_a_launcher_that_ends_the_others_does_not_silence_them():
    """Its SIGTERM comes while the error of the lost connection is on its way to the user."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        for sentence, then in (("Connection closed by peer", signal.SIG_IGN), ("of another kind", handler)):
            with pytest.raises(RuntimeError, match=sentence), Processes.__new__(Processes).signals():
                raise RuntimeError(sentence)
            assert signal.getsignal(signal.SIGTERM) is then
            signal.signal(signal.SIGTERM, handler)
    finally:
        signal.signal(signal.SIGTERM, handler)


@pytest.mark.slow
@pytest.mark.parametrize("repeat", REPEATS)
def test_ctrl_c_on_the_launcher_ends_all_and_the_run_goes_on(repeat, dataset, tmp_path):
    out = tmp_path / "run"
    process = torchrun(*training(dataset, out, epochs=2000), start=False)
    while not (out / run_folder.HELD).is_file():
        time.sleep(0.1)
        assert process.poll() is None
    time.sleep(0.1 * repeat)
    os.killpg(process.pid, signal.SIGINT)
    began = time.monotonic()
    _, text = ended(process)
    assert time.monotonic() - began < 40
    assert len(ERROR.findall(text)) == 1, text
    assert re.search(r"Stopped. .* holds the best model so far .* Continue with: torchrun --nproc-per-node 2 -m", text)
    done = len(run_folder.read_metrics(out))
    status, text = torchrun("train", dataset, "--out", out, "--resume", "--set", f"train.epochs={done + 1}")
    assert status == 0, text


@pytest.mark.slow
@pytest.mark.parametrize("model", ["recvae", "mult-vae", "mult-dae"])
def test_saved_by_two_continued_by_four_and_by_one(model, dataset, tmp_path, cli):
    for ranks in (2, 4, 1):
        out, epochs = tmp_path / str(ranks), 2
        words = training(dataset, out, "--resume", "--set", "train.checkpoint_every=3", model=model, epochs=epochs)
        status, text = torchrun(*words, ranks=2, fault="kill:11")  # within the first epoch, or the second
        assert status == 1, text
        held = json.loads((out / run_folder.HELD).read_text())
        assert held["values"]["within"] is not None
        status, text = torchrun(*words, ranks=ranks)
        assert status == 0, text
        assert text.count("was made by 2 processes") == (ranks != 2)
    assert cli(*training(dataset, tmp_path / "one", model=model, epochs=2)).status == 0
    one = load(tmp_path / "one").tensors()
    for ranks in (2, 4, 1):
        for name, tensor in load(tmp_path / str(ranks)).tensors().items():
            np.testing.assert_allclose(tensor, one[name], atol=1e-4, err_msg=f"{ranks} {name}")


@pytest.mark.slow
def test_evaluate_is_the_same_under_torchrun(dataset, tmp_path, cli):
    assert cli(*training(dataset, tmp_path / "run", epochs=2)).status == 0
    alone = cli("evaluate", tmp_path / "run", dataset, "--json").json
    status, text = torchrun("evaluate", tmp_path / "run", dataset, "--json", ranks=3)
    assert status == 0, text
    together = json.loads(text[text.index("{") :])
    name = "recvae"
    assert together["models"][name]["metrics"] == alone["models"][name]["metrics"]


def test_data_parallel_is_for_processes_of_torchrun(cli, dataset, tmp_path):
    answer = cli(*training(dataset, tmp_path / "run", "--data-parallel", "2"))
    said = (
        "Error: --data-parallel 2 is for processes that torchrun starts: torchrun --nproc-per-node 2 -m recvae train\n"
    )
    assert (answer.status, answer.err) == (2, said)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_data_parallel_that_does_not_divide_the_processes_is_one_sentence(dataset, tmp_path):
    status, text = torchrun(*training(dataset, tmp_path / "run", "--data-parallel", "3"), ranks=4)
    assert status == 1, text  # torchrun's own
    assert ERROR.findall(text) == ["Error: "], text
    assert "--data-parallel 3 does not divide 4 processes. Start a multiple of it: --nproc-per-node 3." in text
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("model", ["recvae", "mult-vae"])
def test_a_run_with_data_parallel_goes_on_bit_for_bit_and_with_other_processes_to_rounding(
    model, dataset, tmp_path, cli
):
    def words(out, data_parallel, *more):
        return training(dataset, out, "--data-parallel", data_parallel, *more, model=model, epochs=2)

    every = ("--set", "train.checkpoint_every=3", "--resume")
    status, text = torchrun(*words(tmp_path / "whole", 2), ranks=4)
    assert status == 0, text
    assert "4, each with a part of the items; 2 have the same part" in text
    assert run_folder.verify(tmp_path / "whole")
    assert cli(*training(dataset, tmp_path / "one", model=model, epochs=2)).status == 0
    one = load(tmp_path / "one")
    status, text = torchrun(*words(tmp_path / "killed", 2, *every), ranks=4, fault="kill:11")
    assert status == 1, text
    held = json.loads((tmp_path / "killed" / run_folder.HELD).read_text())
    assert (held["processes"], held["data_parallel"]) == (4, 2)
    for ranks, data_parallel in ((4, 2), (4, 1), (2, 2), (1, 1)):
        out = tmp_path / f"{ranks}-{data_parallel}"
        shutil.copytree(tmp_path / "killed", out)
        status, text = torchrun(*words(out, data_parallel, *every), ranks=ranks)
        assert status == 0, text
        same = (ranks, data_parallel) == (4, 2)
        assert text.count("was made by 4 processes and --data-parallel 2") == (not same)
        if same:
            weights = run_folder.WEIGHTS
            assert (out / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()
        found = load(out)
        assert found.best_epoch == one.best_epoch
        for name, tensor in found.tensors().items():
            np.testing.assert_allclose(tensor, one.tensors()[name], atol=1e-4, err_msg=f"{out} {name}")
