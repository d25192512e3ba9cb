"""A new run in the place of a served one: taken in between two batches, or refused while the old one serves on."""

import json
import shutil
import threading
import time

import pytest
from serving_models import IDS, TAGS, TITLES, assert_same, fitted, plainly
from serving_process import PATIENCE, here, problem

from recvae.baselines.ease import EASE
from recvae.errors import FormatError
from recvae.serving.reload import identity, read_served
from recvae.training import seals
from recvae.training.run_folder import version_of

ASKED = {"history": IDS[:6:2], "k": 5}


def ease(l2):
    from conftest import checkerboard

    return EASE(l2=l2, device="cpu").fit(checkerboard(users=120, items=60), item_ids=IDS, titles=TITLES, item_tags=TAGS)


@pytest.fixture(scope="module")
def models():
    return [ease(1.0), ease(500.0)]


@pytest.fixture
def run(models, tmp_path):
    models[0].save(tmp_path / "run")
    return tmp_path / "run"


def ask(client):
    answer = client.post("/v1/recommend", json=ASKED)
    assert answer.status_code == 200, answer.text
    return answer.json()


def figure(client, name):
    [line] = [line for line in client.get("/metrics").text.splitlines() if line.startswith(f"{name}{{")]
    return float(line.rpartition(" ")[2])


def test_a_new_run_is_noticed_within_seconds(models, run):
    with here({"films": run}) as service, service.client() as client:
        before = ask(client)
        assert_same(before, plainly(models[0], ASKED))
        models[1].save(run, overwrite=True)
        end = time.monotonic() + PATIENCE
        while (after := ask(client))["model"] == before["model"]:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert_same(after, plainly(models[1], ASKED))
        assert after["model"] == {"name": "films", "version": version_of(run)}
        [event] = service.events("model swapped")
        assert (event["before"], event["version"]) == (before["model"]["version"], after["model"]["version"])
        assert figure(client, "recvae_swaps_total") == 1
        assert figure(client, "recvae_refused_swaps_total") == 0
        assert client.get("/metrics").text.count("recvae_model_info{") == 1
        assert client.get("/v1/model").json()["version"] == after["model"]["version"]


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def another_format(run):
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "format": 99}))
    (run / "seal.json").unlink()


def no_run(run):
    shutil.rmtree(run)
    run.mkdir()
    (run / "run.json").write_text("{}")


def a_file(run):
    shutil.rmtree(run)
    run.write_text("no folder")


DAMAGE = {
    "weights": lambda run: flip(run / "model.safetensors"),
    "run.json": lambda run: flip(run / "run.json"),
    "seal": lambda run: flip(run / "seal.json"),
    "items altered": lambda run: flip(run / "items.csv"),
    "items missing": lambda run: (run / "items.csv").unlink(),
    "weights missing": lambda run: (run / "model.safetensors").unlink(),
    "weights cut": lambda run: (run / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes()[:-9]),
    "format": another_format,
    "no run": no_run,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_run_that_cannot_be_used_is_refused(models, run, tmp_path, damage):
    """The damaged run is put in place as a whole; then a good one is taken again."""
    with here({"films": run}, watch=False) as service, service.client() as client:
        before = ask(client)
        models[1].save(tmp_path / "new")
        DAMAGE[damage](tmp_path / "new")
        shutil.rmtree(run)
        (tmp_path / "new").rename(run)
        service.service.shelf.look()
        assert ask(client) == before
        [event] = service.events("swap refused")
        assert event["version"] == before["model"]["version"]
        assert str(run) in event["reason"]
        assert figure(client, "recvae_refused_swaps_total") == 1
        service.service.shelf.look()  # said once
        assert len(service.events("swap refused")) == 1
        service.service.shelf.look(again=True)  # SIGHUP
        assert len(service.events("swap refused")) == 2
        models[1].save(tmp_path / "good")
        shutil.rmtree(run)
        service.service.shelf.look()
        assert ask(client) == before
        (tmp_path / "good").rename(run)
        service.service.shelf.look()
        assert_same(ask(client), plainly(models[1], ASKED))


def test_a_run_without_its_folder_serves_on(run):
    with here({"films": run}, watch=False) as service, service.client() as client:
        before = ask(client)
        shutil.rmtree(run)
        service.service.shelf.look()
        assert ask(client) == before
        assert service.events("swap refused") == []
        service.service.shelf.look(again=True)
        assert "does not exist" in service.events("swap refused")[0]["reason"]
        assert ask(client) == before


def test_a_file_in_the_place_of_a_run_is_refused(run):
    with here({"films": run}, watch=False) as service, service.client() as client:
        before = ask(client)
        a_file(run)
        service.service.shelf.look(again=True)
        assert len(service.events("swap refused")) == 1
        assert ask(client) == before


def test_a_model_of_another_kind_and_catalogue_is_taken(run):
    with here({"films": run}, watch=False) as service, service.client() as client:
        ask(client)
        other = fitted("recvae")
        other.save(run, overwrite=True)
        service.service.shelf.look()
        assert client.get("/v1/model").json()["title"] == "RecVAE"
        assert_same(ask(client), plainly(other, ASKED))


def test_a_folder_that_was_touched_is_not_loaded_again(run):
    with here({"films": run}, watch=False) as service:
        served = service.service.shelf.default
        (run / "run.json").write_bytes((run / "run.json").read_bytes())
        service.service.shelf.look()
        assert service.service.shelf.default is served


def test_items_that_are_gone_are_unknown_after_a_swap(models, run):
    with here({"films": run}, watch=False) as service, service.client() as client:
        small = EASE(device="cpu").fit(__import__("conftest").checkerboard(users=60, items=20), item_ids=IDS[:20])
        small.save(run, overwrite=True)
        service.service.shelf.look()
        asked = {"history": ["000", "050"], "k": 3}
        assert client.post("/v1/recommend", json=asked).json()["unknown"] == ["050"]
        problem(client.post("/v1/similar", json={"item": "050"}), 404)
        assert client.get("/v1/items", params={"id": ["001", "050"]}).json()["unknown"] == ["050"]


def test_no_answer_is_of_two_versions(models, run):
    """Under load from several connections, ten swaps; every answer is wholly of the version that it names."""
    versions, expected = {}, {}
    for number, model in enumerate(models):
        model.save(run, overwrite=True)
        versions[version_of(run)] = number
        expected[number] = plainly(model, ASKED)
    counts, wrong, ended = {0: 0, 1: 0}, [], threading.Event()

    def load(client):
        while not ended.is_set():
            try:
                answer = ask(client)
                number = versions[answer["model"]["version"]]
                assert_same(answer, expected[number])
                counts[number] += 1
            except Exception as error:  # noqa: BLE001 - it is raised below
                wrong.append(error)
                return

    with here({"films": run}, watch=False) as service, service.client() as client:
        threads = [threading.Thread(target=load, args=(client,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in range(10):
            models[number % 2].save(run, overwrite=True)
            service.service.shelf.look()
            time.sleep(0.05)
        ended.set()
        for thread in threads:
            thread.join(PATIENCE)
        assert wrong == []
        assert len(service.events("model swapped")) >= 9
    assert min(counts.values()) > 5


def test_a_version_is_of_the_files_that_make_the_model(models, run, tmp_path):
    version = version_of(run)
    assert len(version) == 12
    models[0].save(tmp_path / "same")
    assert version_of(tmp_path / "same") == version
    models[1].save(tmp_path / "other")
    assert version_of(tmp_path / "other") != version
    (run / "seal.json").unlink()
    assert version_of(run) == version  # of a folder that an older version wrote
    assert identity(run)[2] is None


def test_a_run_is_checked_before_it_is_served(run):
    flip(run / "seal.json")
    with pytest.raises(FormatError, match="was altered"):
        read_served("films", run, "cpu")
    assert seals.SEAL == "seal.json"
