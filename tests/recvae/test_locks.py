"""One writer for each output: real processes that race, holders that are named, killed holders that do not block."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import recvae
from data_prep import Dataset
from recvae.errors import WorkError
from recvae.files import whole_folder, writing

LONG = 120  # seconds after which a process hangs

HOLD = """
import sys
from pathlib import Path
from recvae.files import writing
with writing(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""

# Reads a command a line, as JSON; says its status and its last line on stderr.
RACER = """
import contextlib, io, json, sys
import torch
import data_prep, recvae.models.neural, recvae.baselines.ease, recvae.experiments.benchmark
from recvae.cli import main
torch.set_num_threads(1)
out = sys.stdout
print(json.dumps("ready"), file=out, flush=True)
for line in sys.stdin:
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        status = main(json.loads(line))
    print(json.dumps([status, said.getvalue()]), file=out, flush=True)
"""


def start(program: str, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def read(process: subprocess.Popen) -> str:
    """Return a process's next line; a process that hangs is killed, and then has none."""
    timer = threading.Timer(LONG, process.kill)
    timer.start()
    try:
        return process.stdout.readline()
    finally:
        timer.cancel()


def test_the_second_writer_is_told_who_is_first(tmp_path):
    with start(HOLD, tmp_path / "out") as process:
        assert read(process) == "held\n"
        (tmp_path / "link").symlink_to("out")
        for name in ("out", "link"):
            with pytest.raises(WorkError) as error, writing(tmp_path / name):
                pass
            said = str(error.value)
            assert f"{tmp_path / name} is being written by process {process.pid} on {socket.gethostname()}" in said
            assert "since 20" in said
        with whole_folder(tmp_path / "other", marker="x") as folder:
            (folder / "x").write_text("x")
        process.stdin.close()
    assert process.returncode == 0
    with writing(tmp_path / "out"), writing(tmp_path / "out"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "other"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_writer_that_enters_again_keeps_what_it_has_begun(tmp_path):
    out = tmp_path / "out"
    left, begun = (tmp_path / f".out.{name}.part" for name in ("aaaaaaaa", "bbbbbbbb"))
    left.mkdir()
    with writing(out):
        assert not left.exists()
        begun.mkdir()
        with writing(out):
            assert begun.exists()


def test_a_killed_holder_does_not_block(tmp_path):
    with start(HOLD, tmp_path / "new" / "out") as process:
        assert read(process) == "held\n"
        process.kill()
    with writing(tmp_path / "new" / "out"):
        pass
    assert list((tmp_path / "new").iterdir()) == []


def test_another_thread_is_another_writer(tmp_path):
    found: list[str] = []

    def second() -> None:
        try:
            with writing(tmp_path / "out"):
                found.append("written")
        except WorkError as error:
            found.append(str(error))

    with writing(tmp_path / "out"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(LONG)
    assert f"process {os.getpid()}" in found[0]


@pytest.mark.slow
def test_two_writers_race(dataset, clicks, tmp_path):
    """Twice at once: one of them writes, the other writes too or says why not, and what is there is whole."""
    neural = ("train", dataset, "--model", "mult-dae", "--set", "train.epochs=3", "-q", "--out", tmp_path / "run")
    columns = ("--user-column", "user", "--item-column", "item", "--held-out-users", 20)
    prepare = ("prepare", clicks, *columns, "-q", "--out", tmp_path / "data")
    rounds = {
        "fresh": neural,
        "overwrite": (*neural, "--overwrite"),
        "resume": ("train", dataset, "--set", "train.epochs=6", "--out", tmp_path / "run", "--resume", "-q"),
        "fresh without epochs": ("train", dataset, "--model", "ease", "--out", tmp_path / "ease", "-q"),
        "prepare": prepare,
        "prepare over": (*prepare, "--overwrite"),
    }
    with start(RACER) as one, start(RACER) as two:
        assert [json.loads(read(process)) for process in (one, two)] == ["ready"] * 2
        for name, arguments in rounds.items():
            for process in (one, two):
                process.stdin.write(json.dumps([str(a) for a in arguments]) + "\n")
                process.stdin.flush()
            answers = [json.loads(read(process)) for process in (one, two)]
            assert 0 in [status for status, _ in answers], (name, answers)
            for status, said in answers:
                refused = "is being written by process" in said or "exists already" in said
                assert status == 0 or (refused and said.count("\n") == 1), (name, answers)
            place = Path(arguments[arguments.index("--out") + 1])
            if place.name == "data":
                Dataset.load(place).verify()
            else:
                assert recvae.load(place, "cpu").n_items == 40, name
            assert not list(tmp_path.glob(".*")), name
        for process in (one, two):
            process.stdin.close()
