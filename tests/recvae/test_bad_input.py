"""Bad input: one sentence that names the thing, the right exit status, nothing on stdout, nothing left behind."""

import numpy as np
import pytest
import torch
from bad_inputs import CASES, COLUMNS, Place, prepare, train
from conftest import checkerboard
from disks import disk_of, resource, snapshot
from scipy.sparse import csr_array

from recvae import EASE, MultVAE, Popularity, RecvaeError
from recvae.errors import DataError


@pytest.fixture
def place(tmp_path, clicks, dataset, ease) -> Place:
    return Place(tmp_path, clicks, dataset, ease)


@pytest.mark.parametrize("name", CASES)
def test_bad_input(cli, place, name):
    command, status, named = CASES[name]
    if name == "no GPU" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    arguments = command(place)
    before = snapshot(place.folder)
    answer = cli(*arguments)
    assert answer.status == status, answer.err
    said = "".join(line for line in answer.err.splitlines(True) if not line.endswith(" ...\n"))  # progress
    assert said.startswith("Error: ")
    assert "bug" not in said
    for part in named:
        assert part in said
    if name != "several mistakes":  # one line each
        assert said.count("\n") == 1
    assert answer.out == ""
    assert snapshot(place.folder) == before


FULL = {
    "prepare": lambda p: prepare(p, p.clicks, *COLUMNS),
    "train a baseline": lambda p: train(p, "--model", "ease"),
    "train a network": lambda p: train(p, "--model", "mult-vae", "--set", "train.epochs=2"),
    "recommend": lambda p: ["recommend", p.run, "--histories", p.clicks, "--out", p.folder / "lists.csv"],
}


@pytest.mark.skipif(resource is None, reason="the system has no limit for the size of a file")
@pytest.mark.parametrize("name", FULL)
def test_disk_full_while_saving(cli, place, name):
    arguments = FULL[name](place)
    before = snapshot(place.folder)
    with disk_of(4_000):
        answer = cli(*arguments)
    assert answer.status == 1
    said = answer.err.splitlines()[-1]
    assert said.startswith("Error: Cannot write ")
    assert "Free some space" in said
    assert snapshot(place.folder) == before


@pytest.mark.skipif(resource is None, reason="the system has no limit for the size of a file")
def test_disk_full_leaves_the_earlier_dataset(cli, place):
    command = prepare(place, place.clicks, *COLUMNS)
    assert cli(*command).status == 0
    before = snapshot(place.folder)
    with disk_of(4_000):
        assert cli(*command, "--overwrite").status == 1
    assert snapshot(place.folder) == before


def test_duplicate_clicks_are_counted_and_collapsed(cli, place):
    rows = place.clicks.read_text().splitlines()
    file = place.file("double.csv", "\n".join([*rows, *rows[1:6]]) + "\n")
    answer = cli(*prepare(place, file, *COLUMNS))
    assert answer.status == 0
    assert "5 duplicate clicks" in answer.out


def test_ids_are_kept_as_they_are_written(cli, place):
    ids = [" 007", "7", "007", 'the "best", ever', "a b", "10.0"]
    quoted = ['"' + item.replace('"', '""') + '"' for item in ids]
    rows = "".join(f"user {u:02},{item}\n" for u in range(40) for item in quoted)
    answer = cli(*prepare(place, place.file("odd.csv", "user,item\n" + rows), *COLUMNS))
    assert answer.status == 0, answer.err
    run = place.folder / "run"
    assert cli("train", place.out, "--model", "ease", "--out", run).status == 0
    for item in ids:
        similar = cli("similar", run, "--item", item, "-k", 9, "--json").json
        assert similar["item"]["item_id"] == item
        assert sorted([item, *(row["item_id"] for row in similar["similar"])]) == sorted(ids)


@pytest.mark.parametrize("weight", [np.nan, -1.0, np.inf])
@pytest.mark.parametrize("model", [MultVAE, EASE, Popularity])
def test_click_weights_that_are_no_weights(model, weight):
    matrix = csr_array(checkerboard())
    matrix.data[5] = weight
    with pytest.raises(DataError):
        model(device="cpu").fit(matrix)
    assert issubclass(DataError, RecvaeError)


@pytest.mark.parametrize("verb", ["prepare", "train", "evaluate", "recommend"])
@pytest.mark.parametrize("whose", ["Python", "PyTorch", "PyTorch's shapes"])
def test_too_little_memory_is_a_sentence_for_the_verb(verb, whose, cli, place, monkeypatch):
    def refused(*_, **__):
        if whose == "Python":
            raise MemoryError
        torch.empty(10**15 if whose == "PyTorch" else 2**61)

    command, target, advice = {
        "prepare": (prepare(place, place.clicks, *COLUMNS), "data_prep.pipeline.prepare", "--min-users-per-item"),
        "train": (train(place, "--model", "ease"), "recvae.baselines.ease.EASE.fit", "train.batch_size"),
        "evaluate": (["evaluate", place.run, place.dataset], "recvae.recommender.load", "a machine with more memory"),
        "recommend": (["recommend", place.run, "--item", "002"], "recvae.recommender.load", "a smaller -k"),
    }[verb]
    monkeypatch.setattr(target, refused)
    if verb == "prepare":
        monkeypatch.setattr("data_prep.prepare", refused)
    answer = cli(*command)
    assert answer.status == 1
    assert answer.err.startswith("Error: There is not enough memory")
    assert advice in answer.err
    assert ("batch" in answer.err) == (verb == "train")
    assert answer.err.count("\n") == 1
