"""``recvae serve`` as a process: how it starts, is refused, is asked to end, and serves with several processes."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest
from serving_models import IDS, fitted
from serving_process import PATIENCE, problem, served

from recvae import arguments

POSIX = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
ASKED = {"history": IDS[:9], "k": 20, "reasons": 2}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name in ("ease", "recvae"):
        fitted(name).save(folder / name)
    return folder


@pytest.fixture
def token(tmp_path):
    path = tmp_path / "token"
    path.write_text("0123456789-secret-0123456789\n")
    return path


REFUSED = [
    (["missing"], "missing does not exist."),
    (["ease", "--port", "99999"], "--port must be a number from 0 to 65535"),
    (["ease", "--host", "0.0.0.0"], "Add --token-file FILE, or --no-auth if everybody may ask."),
    (["ease", "--host", "no.such.host.invalid", "--no-auth"], "The service cannot listen at no.such.host.invalid"),
    (["ease", "--max-k", "0"], "--max-k must be at least 1, and is 0."),
    (["ease", "--max-batch", "9", "--max-queue", "3"], "a full batch would never be answered"),
    (["ease", "ease"], "Two runs are called 'ease'."),
    (["a/b=ease"], "cannot be a model's name"),
    (["ease", "--token-file", "missing"], "The token file missing cannot be read"),
    (["ease", "--token-file", "short"], "short must hold one token of at least 16 characters without spaces."),
    (["ease", "--threads", "0"], "--threads needs a whole number"),
    (["damaged"], "was altered"),
]


@pytest.mark.parametrize(("arguments", "sentence"), REFUSED, ids=lambda value: str(value)[:30])
def test_what_cannot_be_served_is_refused_in_a_sentence(runs, cli, monkeypatch, arguments, sentence):
    monkeypatch.chdir(runs)
    (runs / "short").write_text("abc")
    if arguments == ["damaged"]:
        fitted("popularity").save(runs / "damaged", overwrite=True)
        (runs / "damaged" / "items.csv").write_bytes(b"index,item_id,title\n")
    answer = cli("serve", "--port", "0", *arguments)
    assert answer.status == 2, answer
    assert sentence in answer.err
    assert "abc" not in answer.err
    assert answer.err.startswith("Error: ")


def test_a_port_in_use_is_refused_in_a_sentence(runs, cli):
    with socket.create_server(("127.0.0.1", 0)) as other:
        answer = cli("serve", runs / "ease", "--port", other.getsockname()[1])
    assert answer.status == 2
    assert "Address already in use. Choose another --port or --host." in answer.err


def test_a_missing_extra_is_named_with_its_command(runs, cli, monkeypatch):
    monkeypatch.setattr(arguments, "find_spec", lambda name: None if name == "uvicorn" else find_spec(name))
    answer = cli("serve", runs / "ease")
    assert answer.status == 2
    assert "The service needs uvicorn, which is not installed." in answer.err
    assert "pip install 'recvae[serve]'" in answer.err.replace("\n", " ")


@pytest.mark.slow
def test_a_token_is_asked_for_and_never_logged(runs, token, tmp_path):
    secret = token.read_text().strip()
    with served(tmp_path, runs / "ease", "--token-file", token, "--host", "127.0.0.1") as service:
        with service.client() as client:
            for headers in ({}, {"authorization": f"Bearer {secret}x"}, {"authorization": f"Basic {secret}"},
                            {"authorization": "Bearer"}, {"authorization": secret}):  # fmt: skip
                for method, path in (("POST", "/v1/recommend"), ("GET", "/v1/model"), ("GET", "/metrics"),
                                     ("GET", "/openapi.json"), ("GET", "/nothing")):  # fmt: skip
                    answer = client.request(method, path, headers=headers)
                    problem(answer, 401)
                    assert answer.headers["www-authenticate"] == "Bearer"
            assert client.get("/health/ready").status_code == 200
            assert client.get("/health/live").status_code == 200
            good = client.post("/v1/recommend", json=ASKED, headers={"authorization": f"bearer {secret}"})
            assert good.status_code == 200
            document = client.get("/openapi.json", headers={"authorization": f"Bearer {secret}"}).json()
            assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
        assert service.end() == 0
        for text in (service.out.read_text(), service.said):
            assert secret not in text


@POSIX
@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_finishes_what_is_under_way(runs, tmp_path, workers):
    body = json.dumps({"queries": [ASKED] * 250})
    with served(tmp_path, runs / "recvae", "--workers", workers) as service:
        connections = [http.client.HTTPConnection("127.0.0.1", service.port, timeout=PATIENCE) for _ in range(4)]
        for connection in connections:  # accepted, and not only in the system's queue
            connection.request("GET", "/health/live")
            assert connection.getresponse().read()
        for connection in connections:
            connection.request("POST", "/v1/recommend/batch", body, {"content-type": "application/json"})
        time.sleep(0.3)  # read, and not all answered
        assert service.end() == 0
        for connection in connections:
            answer = connection.getresponse()
            assert answer.status == 200
            assert len(json.loads(answer.read())["answers"]) == 250
            connection.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", service.port), timeout=1)
        assert "Traceback" not in service.said


def half_a_request(port):
    connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    connection.sendall(
        b"POST /v1/recommend HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"
    )
    time.sleep(0.3)
    return connection


@POSIX
@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "second", "status"), [("SIGTERM", "SIGTERM", 143), ("SIGINT", "SIGINT", 130), ("SIGTERM", "SIGINT", 130)]
)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_signal_ends_at_once(runs, tmp_path, first, second, status, workers):
    with served(tmp_path, runs / "ease", "--workers", workers) as service, half_a_request(service.port):
        service.process.send_signal(getattr(signal, first))
        time.sleep(1.0)
        assert service.process.poll() is None  # it waits for the rest of the request
        began = time.monotonic()
        assert service.end(getattr(signal, second)) == status
        assert time.monotonic() - began < 5


@POSIX
@pytest.mark.slow
def test_ctrl_c_ends_in_order(runs, tmp_path):
    with served(tmp_path, runs / "ease") as service:
        with service.client() as client:
            assert client.get("/health/ready").json() == {"status": "ready"}
        assert service.end(signal.SIGINT) == 130
        assert "Traceback" not in service.said


@POSIX
@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_sighup_looks_for_a_new_run(runs, tmp_path, workers):
    run = tmp_path / "run"
    fitted("ease").save(run)
    with served(tmp_path, f"films={run}", "--no-watch", "--workers", workers) as service:
        with service.client() as client:
            before = client.get("/v1/model").json()["version"]
            fitted("ease", seed=9).save(run, overwrite=True)
            time.sleep(2)
            assert client.get("/v1/model").json()["version"] == before  # --no-watch
            service.process.send_signal(signal.SIGHUP)
            events = service.wait_for("model swapped", workers)
            assert {event["before"] for event in events} == {before}
        with service.client() as client:
            assert client.get("/v1/model").json()["version"] == events[0]["version"]
            text = client.get("/metrics").text
            assert f'recvae_swaps_total{{model="films"}} {workers}.0' in text
            assert f'version="{before}"' not in text
        assert service.end() == 0


@POSIX
@pytest.mark.slow
def test_workers_count_together_and_are_replaced(runs, tmp_path):
    with served(tmp_path, runs / "ease", f"other={runs / 'recvae'}", "--workers", 2) as service:
        for _ in range(30):  # a connection each, so that both processes get some
            with service.client() as client:
                assert client.post("/v1/recommend", json=ASKED).status_code == 200
        with service.client() as client:
            text = client.get("/metrics").text
            assert 'recvae_requests_total{method="POST",route="/v1/recommend",status="200"} 30.0' in text
            assert text.count(" 2.0\n") >= 2  # both processes serve both models
            assert [one["name"] for one in client.get("/v1/models").json()] == ["ease", "other"]
        found = subprocess.run(["pgrep", "-P", str(service.process.pid)], capture_output=True, text=True, check=True)
        os.kill(int(found.stdout.split()[-1]), signal.SIGKILL)
        [died] = service.wait_for("worker died")
        assert died["status"] == -signal.SIGKILL
        service.wait_for("model loaded", 6)
        with service.client() as client:
            assert client.post("/v1/recommend", json=ASKED).status_code == 200
        assert service.end() == 0


@POSIX
@pytest.mark.slow
def test_workers_that_cannot_load_a_run_say_so_once(runs, tmp_path):
    fitted("popularity").save(tmp_path / "damaged")
    (tmp_path / "damaged" / "items.csv").write_bytes(b"index,item_id,title\n")
    with served(tmp_path, tmp_path / "damaged", "--workers", 2, ready=False) as service:
        assert service.process.wait(2 * PATIENCE) == 2
        assert service.said.count("Error: ") == 1
        assert "Traceback" not in service.said


@POSIX
@pytest.mark.slow
def test_workers_end_with_the_process_that_started_them(runs, tmp_path):
    with served(tmp_path, runs / "ease", "--workers", 2) as service:
        service.process.kill()
        service.process.wait(PATIENCE)
        end = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", service.port), timeout=1).close()
            except OSError:
                break
            assert time.monotonic() < end
            time.sleep(0.2)


@pytest.mark.slow
def test_a_log_that_nobody_reads_holds_up_no_request(runs):
    """stdout is a full pipe: the service answers all the same."""
    command = [sys.executable, "-m", "recvae", "serve", str(runs / "ease"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stderr:
                if "Serving at" in line:
                    port = int(line.split(":")[2].split("/")[0])
                    break
            import httpx

            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as client:
                for _ in range(1500):
                    assert client.get("/health/live").status_code == 200
            process.send_signal(signal.SIGTERM)
            first = json.loads(process.stdout.readline())
            assert first["event"] == "model loaded"
            process.communicate(timeout=PATIENCE)
            assert process.returncode == 0
        finally:
            process.kill()
