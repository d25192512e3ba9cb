"""quickstart: what it promises on the sample, on the screen and in JSON."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from urllib.request import urlopen

import pytest

from data_prep import Dataset, sample
from recvae.cli import main
from recvae.cli.quickstart import models_shown
from recvae.defaults import Size, recommended
from recvae.recommender import load

FLAGSHIP = "recvae-edlae"


def test_the_recommended_model_is_among_the_five_that_are_shown():
    assert models_shown() == [FLAGSHIP, "mult-vae", "ease", "implicit-als", "popularity"]
    assert recommended(Size.of_training(sample().dataset().manifest)) == FLAGSHIP


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("quickstart") / "kept"


@pytest.mark.slow
def test_models_beat_popularity_and_come_near_the_ceiling(cli, folder):
    """Both figures are promises of the project: 1.5 times popularity, and 80 % of a ranking that knows the truth."""
    answer = cli("quickstart", "--out", folder, "--device", "cpu")
    assert answer.status == 0, answer.err
    for said in ("Who ranks best?", "the ceiling", "RecVAE", "Films for member", "has watched", "Next:"):
        assert said in answer.out
    assert answer.err.count("trained") == len(models_shown())
    document = json.loads((folder / "results.json").read_text())
    assert set(document["models"]) == set(models_shown())
    for name in (FLAGSHIP, "mult-vae"):
        assert document["times_popularity"][name] >= 1.5
        assert document["share_of_ceiling"][name] >= 0.8
        assert document["models"][name]["metrics"]["ndcg@10"]["users"] == document["ceiling"]["ndcg@10"]["users"]
    assert max(document["share_of_ceiling"].values()) <= 1
    by_model = {name: result["metrics"]["ndcg@10"] for name, result in document["models"].items()}
    assert by_model[FLAGSHIP]["mean"] + by_model[FLAGSHIP]["se"] >= max(metric["mean"] for metric in by_model.values())
    recommended = document["recommended"]
    assert len(recommended["items"]) == 10
    assert all(item["title"] for item in recommended["items"] + recommended["history"])
    assert not {item["item_id"] for item in recommended["items"]} & {item["item_id"] for item in recommended["history"]}
    assert max(len(line) for line in answer.out.splitlines() if str(folder) not in line) <= 80


@pytest.mark.slow
def test_what_is_kept_can_be_used(cli, folder):
    if not folder.exists():
        pytest.skip("the test before made it")
    data = Dataset.load(folder / "dataset")
    data.verify()
    document = json.loads((folder / "results.json").read_text())
    assert load(folder / FLAGSHIP).items.hash() == data.vocabulary_hash
    answer = cli("evaluate", folder / FLAGSHIP, folder / "dataset", "--metrics", "ndcg@10", "--json")
    expected = document["models"][FLAGSHIP]["metrics"]["ndcg@10"]["mean"]
    assert answer.json["models"][FLAGSHIP]["metrics"]["ndcg@10"]["mean"] == pytest.approx(expected, abs=1e-6)
    title = document["recommended"]["history"][0]["title"]
    assert cli("recommend", folder / FLAGSHIP, "--item", title).status == 0
    assert cli("quickstart", "--out", folder).status == 2


def test_quickstart_refuses_early(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("kept")
    assert main(["quickstart", "--out", str(tmp_path), "--overwrite"]) == 2
    assert "has no results.json, so it is not replaced" in capsys.readouterr().err


def test_a_page_and_a_document_exclude_each_other(capsys):
    assert main(["quickstart", "--serve", "--json"]) == 2
    assert "leave one of them out" in capsys.readouterr().err


@pytest.mark.slow
def test_quickstart_ends_on_the_page(tmp_path):
    """The trained models answer at the address that is printed, until Ctrl-C, and leave nothing behind."""
    command = [sys.executable, "-m", "recvae", "quickstart", "--serve", "--quiet", "--device", "cpu"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        limit = threading.Timer(400, process.kill)
        limit.start()
        found = next(
            filter(None, (re.search(r"The page: (http://127\.0\.0\.1:\d+/)", line) for line in process.stdout))
        )
        with urlopen(found[1], timeout=20) as page:
            assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")
            assert b"What do you like?" in page.read()
        with urlopen(f"{found[1]}v1/models", timeout=20) as answer:
            assert [each["name"] for each in json.load(answer)] == models_shown()
        assert list(tmp_path.glob("recvae-*"))
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        limit.cancel()
    assert not list(tmp_path.glob("recvae-*"))
