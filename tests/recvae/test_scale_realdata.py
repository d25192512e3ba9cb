"""MovieLens-1M by one process and by four: validation ndcg@100 after 10 epochs is the same within .003.

    RECVAE_TEST_DATA=DIR pytest -n 0 -m slow tests/recvae/test_scale_realdata.py --basetemp FOLDER

It needs ml-1m in the folder that RECVAE_TEST_DATA names, takes some minutes, and leaves the figures in
FOLDER/*/scores.json.
"""

import json

import pytest
from ranked.launched import torchrun

from recvae.training import run_folder

pytestmark = [pytest.mark.realdata, pytest.mark.slow]
EPOCHS = 10
SMALL = ("--set", "model.latent=50", "--set", f"train.epochs={EPOCHS}", "--set", "train.validate_every=10")
MODELS = {
    "recvae": ("recvae", "--set", "model.hidden=100"),
    "mult-vae": ("mult-vae", "--set", "model.hidden=[100]"),
    "mult-vae, bernoulli": ("mult-vae", "--set", "model.hidden=[100]", "--set", "model.likelihood=bernoulli"),
    "conditional-vae": ("conditional-vae", "--set", "model.hidden=[100]"),
}


@pytest.fixture(scope="module")
def ml_1m(real_data, tmp_path_factory):
    from recvae.cli import main

    folder = tmp_path_factory.mktemp("data") / "ml-1m"
    words = ("--held-out-users", "600", "--seed", "98765", "--quiet")
    assert main(["prepare", "ml-1m", "--source", str(real_data / "ml-1m"), *words, "--out", str(folder)]) == 0
    return folder


@pytest.mark.parametrize("name", MODELS)
def test_four_processes_validate_as_one_does(name, ml_1m, tmp_path, cli):
    def words(out):
        return "train", ml_1m, "--out", out, "--model", *MODELS[name], *SMALL, "--quiet"

    def score(out):
        last = run_folder.read_metrics(out)[-1]
        assert last["epoch"] == EPOCHS
        return last["score"]

    assert cli(*words(tmp_path / "one")).status == 0
    scores = {"one process": score(tmp_path / "one")}
    for data_parallel in (1, 2):
        out = tmp_path / f"four-{data_parallel}"
        status, text = torchrun(*words(out), "--data-parallel", data_parallel, ranks=4, seconds=1800)
        assert status == 0, text
        scores[f"four, --data-parallel {data_parallel}"] = score(out)
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    assert all(one == pytest.approx(scores["one process"], abs=0.003) for one in scores.values()), scores
    assert scores["one process"] > 0.2
