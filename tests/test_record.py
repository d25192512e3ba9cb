"""Numbers that a change of structure must leave as they are, and folders of format 1, which must keep loading."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from record import made, record

import recvae
from data_prep import Dataset
from recvae.registry import MODELS

HERE = Path(__file__).parent
FORMAT_1 = HERE / "fixtures" / "format-1"
CLOSE = 2e-3  # of a mean metric, on another processor: two epochs of training apart


def kept(name):
    return json.loads((HERE / "record" / name).read_text(encoding="utf-8"))


def compare_models(found, before):
    assert found["models"].keys() == before["models"].keys()
    exact = found["machine"] == before["machine"]
    for name, model in found["models"].items():
        was = before["models"][name]
        if exact:
            assert model == was, name
        for metric, value in model["metrics"].items():
            assert value == pytest.approx(was["metrics"][metric], abs=CLOSE), (name, metric)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return record.small(tmp_path_factory.mktemp("record"))


def test_weights_lists_and_metrics_of_every_model_are_those_of_the_record(small):
    compare_models(small, kept("small.json"))


def test_every_document_is_that_of_the_record(small):
    before = kept("small.json")
    assert small["documents"].keys() == before["documents"].keys()
    for verb, document in small["documents"].items():
        if small["machine"] == before["machine"]:
            assert document == before["documents"][verb], verb
        else:
            assert shape(document) == shape(before["documents"][verb]), verb


def shape(value):
    """A document without its numbers: keys, texts and lengths."""
    if isinstance(value, dict):
        return {key: shape(v) for key, v in value.items()}
    if isinstance(value, list):
        return len(value)
    return "number" if isinstance(value, int | float) else type(value).__name__


@pytest.mark.slow
@pytest.mark.realdata
def test_two_epochs_on_movielens_100k_are_those_of_the_record(real_data, tmp_path):
    compare_models(record.ml_100k(real_data, tmp_path), kept("ml-100k.json"))


@pytest.mark.parametrize("name", [*MODELS, "blend", "refit"])
def test_a_run_folder_of_format_1_gives_the_same_lists(name):
    answer = json.loads((FORMAT_1 / "answers.json").read_text())[name]
    data = Dataset.load(FORMAT_1 / "dataset")
    ids, scores = recvae.load(FORMAT_1 / name, device="cpu").recommend(data.test_in, k=5)
    np.testing.assert_allclose(scores, answer["scores"], atol=2e-5)
    swapped = ids != np.array(answer["ids"])
    assert not swapped.any() or np.ptp(scores[swapped]) < 2e-5


def test_a_run_of_format_1_is_resumed_and_joined(tmp_path):
    run = tmp_path / "recvae"
    shutil.copytree(FORMAT_1 / "recvae", run)
    again = made.document("train", FORMAT_1 / "dataset", "--out", run, "--resume", "--set", "train.epochs=3")
    assert again["epochs"] == 3
    parts = (FORMAT_1 / "ease", FORMAT_1 / "mult-vae", FORMAT_1 / "dataset")
    made.document("blend", *parts, "--metric", "ndcg@10", "--out", tmp_path / "blend")
