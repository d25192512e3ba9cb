"""``recvae promote`` beside a service that watches the run in service."""

import json
import shutil
import threading

import pytest
from conftest import checkerboard
from serving_process import served

from recvae.cli import main
from recvae.training.run_folder import version_of

ASKED = {"history": ["000", "002", "004"], "k": 5}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A dataset, a run of EASE and a run of popularity, which is worse."""
    folder = tmp_path_factory.mktemp("place")
    matrix = checkerboard(users=200).tocoo()
    rows = [f"u{user},{item:03}\n" for user, item in zip(matrix.row, matrix.col, strict=True)]
    (folder / "clicks.csv").write_text("user,item\n" + "".join(rows))
    columns = ("--user-column", "user", "--item-column", "item", "--held-out-users", "20")
    assert main(["prepare", str(folder / "clicks.csv"), *columns, "--out", str(folder / "data"), "--quiet"]) == 0
    for name in ("ease", "popularity"):
        arguments = ["--model", name, "--out", str(folder / name), "--quiet"]
        assert main(["train", str(folder / "data"), *arguments]) == 0
    return folder


def test_a_service_takes_a_promoted_run_and_no_refused_one(cli, place, tmp_path):
    """A real server answers without a failure all the while, first from the one run and then from the other."""
    live = tmp_path / "live"
    shutil.copytree(place / "popularity", live)
    versions, failed, ended = [], [], threading.Event()

    with served(tmp_path, live) as service:

        def ask():
            with service.client() as client:
                while not ended.is_set():
                    answer = client.post("/v1/recommend", json=ASKED)
                    if answer.status_code != 200:
                        failed.append(answer.text)
                    versions.append(answer.json()["model"]["version"])

        asking = threading.Thread(target=ask)
        asking.start()
        promoted = cli("promote", place / "ease", live, place / "data", "--json")
        [swapped] = service.wait_for("model swapped")
        refused = cli("promote", place / "popularity", live, place / "data", "--json")
        ended.set()
        asking.join(60)
        with service.client() as client:
            now = client.post("/v1/recommend", json=ASKED).json()["model"]["version"]
        assert service.end() == 0
        events = [json.loads(line)["event"] for line in service.out.read_text().splitlines()]

    assert (promoted.status, refused.status) == (0, 3)
    old, new = version_of(place / "popularity"), version_of(place / "ease")
    assert (promoted.json["live"]["version"], promoted.json["new"]["version"]) == (old, new)
    assert (swapped["before"], swapped["version"]) == (old, new)
    assert now == new == version_of(live)
    assert versions == sorted(versions, key=[old, new].index)
    assert {*versions} == {old, new}
    assert failed == []
    assert events.count("model swapped") == 1
    assert "swap refused" not in events
