"""The client that loads a server, and the programs of the service under load."""

import contextlib
import json
import math
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from benchmarks.speed import soak
from benchmarks.speed.serving import generator, servers
from benchmarks.speed.serving.generator import drive, post
from benchmarks.speed.serving.verdicts import ALS, CONNECTIONS, RECVAE, SINGLY, STACK, judge, sentence, table, verdict
from recvae.errors import FormatError
from recvae.serving.reload import read_served

ROOT = Path(__file__).resolve().parent.parent
TAKES = 0.02  # seconds of the slow server, which answers one request at a time


@pytest.fixture
def slow_server():
    turn = threading.Lock()

    class Slow(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with turn:
                time.sleep(TAKES)
            status = 400 if body == b"bad" else 200
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if body == b"last":
                self.send_header("Connection", "close")
                self.close_connection = True
            self.end_headers()
            with contextlib.suppress(BrokenPipeError):  # the client has gone: its time was over
                self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_a_closed_loop_waits_for_its_answers(slow_server):
    outcome = drive(slow_server, [post("/", b"x")], 2, 0.6)
    assert outcome.statuses.keys() <= {200, 0}
    assert 0.3 / TAKES <= outcome.rate <= 1 / TAKES
    assert TAKES <= outcome.quantile(0.5) < 10 * TAKES


def test_an_open_loop_counts_from_the_moment_a_request_was_due(slow_server):
    """At twice the rate that the server can do, the last requests wait for about half of the time, however few the
    connections are on which they wait."""
    seconds = 1.0
    outcome = drive(slow_server, [post("/", b"x")], 4, seconds, rate=2 / TAKES)
    assert outcome.failed == 0
    assert outcome.statuses[200] > 1.5 * seconds / TAKES, "all that were due were sent"
    assert outcome.rate <= 1.05 / TAKES
    assert outcome.quantile(0.9) > 0.5 * seconds > 10 * TAKES


def test_every_answer_is_heard_with_its_request_also_where_the_server_hangs_up(slow_server):
    bodies = [b"one", b"last", b"bad"]
    heard = []
    outcome = drive(
        slow_server, [post("/", body) for body in bodies], 3, 0.5, heard=lambda *answer: heard.append(answer)
    )
    assert {(place, status, body) for place, status, body in heard} == {
        (0, 200, b"one"), (1, 200, b"last"), (2, 400, b"bad")
    }  # fmt: skip
    assert outcome.failed == outcome.statuses[400] > 0
    assert outcome.statuses.total() == len(heard)


def test_requests_that_are_never_answered_count(slow_server, monkeypatch):
    monkeypatch.setattr(generator, "PATIENCE", 0.1)
    outcome = drive(slow_server, [post("/", b"x")], 4, 0.5, rate=4 / TAKES)
    assert outcome.statuses[0] > 1.5 * outcome.statuses[200] > 0
    assert outcome.statuses.total() > 3 * 0.5 / TAKES, "all that were due are counted"
    assert outcome.quantile(0.9) == math.inf > outcome.quantile(0.1)


def rows(**changed):
    """Return rows that fulfil every verdict, but for the changes: rates at 64 connections, p50 of one, p99 at half."""
    rates = {RECVAE: 2000.0, SINGLY: 400.0, STACK: 4000.0, ALS: 300.0} | changed.get("rates", {})
    made = [
        {"contender": contender, "load": f"{n} connection{'s' * (n > 1)}", "rate": rate, "p50": 0.003, "p99": 0.01,
         "failed": 0, "rates": [rate, 1.1 * rate, 0.9 * rate]}
        for n in CONNECTIONS
        for contender, rate in rates.items()
    ]  # fmt: skip
    made[0] |= {"p50": changed.get("p50", 0.003), "failed": changed.get("failed", 0)}
    half = {"load": "50% of the greatest rate", "p99": changed.get("p99", 0.02), "failed": 7, "asked": 1000.0}
    return [*made, {"contender": RECVAE, "rate": 1000.0, "p50": 0.004} | half]


@pytest.mark.parametrize(
    ("changed", "wrk", "broken"),
    [
        ({}, {RECVAE: [2100.0, 2300.0, 1900.0]}, ""),
        ({"p50": 0.0045}, {}, "p50 in ms above the p50 in process"),
        ({"rates": {SINGLY: 501.0}}, {}, "one request a batch"),
        ({"rates": {STACK: 5001.0}}, {}, "the web stack alone"),
        ({"rates": {ALS: 2001.0}}, {}, "implicit ALS"),
        ({"p99": 0.0251}, {}, "p99 in ms"),
        ({"failed": 1}, {}, "closed loops that failed"),
        ({}, {STACK: [3000.0, 4000.0, 3100.0]}, "ratio of wrk's rate and ours"),
    ],
)
def test_a_verdict_breaks_with_its_figure_alone(changed, wrk, broken):
    verdicts = judge(rows(**changed), 0.002, wrk)
    fallen = [one["what"] for one in verdicts if not one["holds"]]
    assert len(fallen) == bool(broken)
    assert all(broken in what for what in fallen)


def test_verdicts_and_rows_as_text():
    assert sentence(verdict("lists", 3.0, at_most=2)) == "DOES NOT HOLD: lists: 3 (at most 2)"
    assert sentence(verdict("versions", 2, at_most=2, at_least=2)) == "holds: versions: 2 (at least 2, at most 2)"
    assert not verdict("p99", math.inf, at_most=25)["holds"]
    lines = table(rows())
    assert lines[0] == f"| load | {RECVAE} | {SINGLY} | {STACK} | {ALS} |"
    assert lines[2].startswith("| 1 connection | 2,000/s, 3 ms, 10 ms |")
    assert lines[-1].startswith("| 50% of the greatest rate | 1,000/s, 4 ms, 20 ms, 7 refused |")


def answer(version, *items):
    return json.dumps({"items": [{"item": item} for item in items], "model": {"version": version}}).encode()


def test_a_list_of_another_model_than_its_version_is_found():
    models = [[("a", "b"), ("c", "d"), ("e", "f")], [("b", "a"), ("d", "c"), ("f", "e")]]
    heard = soak.Heard([(200, 0), (200, 1), (200, 2), (422, 0)])
    for version, lists in zip(("one", "two"), models, strict=True):
        for place, items in enumerate(lists):
            heard(place, 200, answer(version, *items))
            heard(place, 503, b"{}")
    heard(3, 422, b"{}")
    assert (heard.mixed(models), heard.wrong) == (0, {})
    heard(1, 200, answer("one", "d", "c"))
    assert heard.mixed(models) == 1
    heard(3, 200, b"{}")
    heard(0, 500, b"{}")
    assert heard.wrong == {"200 in place of 422": 1, "500 in place of 200": 1}


@pytest.mark.parametrize("place", range(len(soak.DAMAGE)))
def test_a_damaged_folder_cannot_be_served(place, tmp_path):
    servers.saved_model(tmp_path / "run", "RecVAE", 500, 8, 4)
    assert read_served("run", tmp_path / "run", "cpu").version
    soak.DAMAGE[place](tmp_path / "run")
    with pytest.raises(FormatError):
        read_served("run", tmp_path / "run", "cpu")


def ran(name, out):
    command = [sys.executable, "-m", "benchmarks.speed", name, "--small", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(out.read_text())


@pytest.mark.slow
def test_the_load_program_runs_and_writes_its_record(tmp_path):
    load = ran("serving", tmp_path / "serving.json")["load"]
    assert {row["contender"] for row in load["rows"]} == {RECVAE, SINGLY, STACK, ALS}
    assert all(row["rate"] > 0 for row in load["rows"])
    assert not any(row["failed"] for row in load["rows"] if "asked" not in row)
    assert load["versions"].keys() >= {"fastapi", "uvicorn"}


@pytest.mark.slow
def test_twenty_seconds_of_the_soak(tmp_path):
    """Everything holds but the range of the memory, for which the time is too short."""
    found = ran("soak", tmp_path / "soak.json")
    broken = [one for one in found["verdicts"] if not one["holds"] and "memory" not in one["what"]]
    assert broken == []
    assert found["swaps"] == 8
