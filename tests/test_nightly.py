"""docs/nightly.md: its script is run as it stands, two nights with kills in between, and a third that is refused."""

import glob
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import checkerboard

from recvae.cli import main
from recvae.cli.promote import REFUSED

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "nightly.md").read_text(encoding="utf-8")
[SCRIPT] = re.findall(r"^```bash\n(#!/usr/bin/env bash\n.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
TOOLS = all(shutil.which(tool) for tool in ("bash", "flock", "setsid")) and sys.platform == "linux"
LONG = 300  # seconds after which a night hangs

# `recvae` as the script calls it. STAND_IN: until `recvae train` has --warm-start and `recvae recommend` reads folders,
# a cold start stands in for the warm one, and a command for each part; to be removed with `stands_in` below.
RECVAE = """#!{python}
import os, sys
from pathlib import Path
from recvae.cli import main
arguments = sys.argv[1:]
def value(option):
    place = arguments.index(option)
    found = arguments[place + 1]
    del arguments[place : place + 2]
    return found
if arguments[0] == "train" and "TONIGHT" in os.environ:
    arguments[2:] = ["--model", os.environ["TONIGHT"], "--out", value("--out"), "--quiet"]
if {stands_in} and "--warm-start" in arguments:
    value("--warm-start")
    arguments += {first}
if {stands_in} and arguments[0] == "recommend":
    histories, out = Path(value("--histories")), Path(value("--out"))
    arguments.remove("--resume")
    for part in sorted(histories.iterdir()):
        done = out / part.with_suffix(".parquet").name
        status = 0 if done.exists() else main([*arguments, "--histories", str(part), "--out", str(done)])
        if status:
            sys.exit(status)
    sys.exit(0)
sys.exit(main(arguments))
"""
FIRST = ["--model", "mult-dae", "--set", "model.latent=8", "--set", "train.epochs=6", "--set", "train.batch_size=20"]


def stands_in(capsys):
    """Return whether the verbs lack the options of the page."""
    for verb, option in (("train", "--warm-start"), ("recommend", "--resume")):
        main([verb, "--help"])
        if option not in capsys.readouterr().out:
            return True
    return False


class Home:
    """The folder of the page, with clicks up to a day, and the script beside it."""

    def __init__(self, folder, stands_in):
        self.folder, self.home = folder, folder / "home"
        (self.home / "histories").mkdir(parents=True)
        self.write("night.sh", SCRIPT.replace("--model recvae-edlae", " ".join(FIRST)))
        self.write("recvae", RECVAE.format(python=sys.executable, stands_in=stands_in, first=FIRST))

    def write(self, name, text):
        path = self.folder / name
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def clicks(self, day):
        """Write the clicks of 120 users until a day: four items appear on the second."""
        matrix = checkerboard(users=120, items=40 if day > 1 else 36).tocoo()
        drawn = np.random.default_rng(4).permutation(matrix.nnz)
        times = {int(row): place for place, row in enumerate(drawn)}
        rows = [(times[n], f"u{matrix.row[n]},{matrix.col[n]:03}") for n in range(matrix.nnz)]
        lines = [f"{row},{at}\n" for at, row in sorted(rows)]
        (self.home / "clicks.csv").write_text("user,item,time\n" + "".join(lines))
        for part in range(3):
            of_part = [row for n, (_, row) in enumerate(sorted(rows)) if n % 3 == part]
            (self.home / "histories" / f"{part}.csv").write_text("user,item\n" + "\n".join(sorted(of_part)) + "\n")

    def start(self, day, **more):
        environment = os.environ | {
            "PATH": f"{self.folder}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            **more,
        }
        # faketime is not everywhere: a `date` of our own says which night it is.
        self.write("date", f"#!/bin/sh\necho 2026-11-0{day}\n")
        return subprocess.Popen(
            ["bash", "night.sh", str(self.home)],
            cwd=self.folder, env=environment, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def night(self, day, status=0, **more):
        """Run a night to its end and return what it said."""
        with self.start(day, **more) as process:
            said, _ = process.communicate(timeout=LONG)
        assert process.returncode == status, said
        return said

    def killed(self, day, when):
        """Run a night until a file appears, and kill every process of it; return whether it had not ended before."""
        process = self.start(day)
        end = time.monotonic() + LONG
        while not glob.glob(str(self.home / when)) and process.poll() is None:  # noqa: PTH207 - hidden files too
            assert time.monotonic() < end
            time.sleep(0.002)
        alive = process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=LONG)
        return alive

    def kept(self):
        """The model in service, the one before it and the lists, file by file."""
        files = [path for name in ("live", "previous", "lists") for path in (self.home / name).rglob("*")]
        told = ("metrics.jsonl", "seal.json", "state.safetensors", "curves.png")  # which hold seconds
        return {
            str(path.relative_to(self.home)): path.read_bytes()
            for path in files
            if path.is_file() and path.name not in told and not path.name.startswith(".")  # a killed holder's lock
        }


def test_the_script_is_bash_and_calls_verbs_with_their_options(cli, capsys):
    if shutil.which("bash"):
        assert subprocess.run(["bash", "-n"], input=SCRIPT, text=True, check=False).returncode == 0
    commands = re.findall(r"recvae (\w+) ((?:[^\n]|\\\n)*)", SCRIPT)
    assert [verb for verb, _ in commands] == ["prepare", "train", "promote", "recommend"]
    later = {"train": {"--warm-start"}, "recommend": {"--resume"}} if stands_in(capsys) else {}
    for verb, words in commands:
        known = set(re.findall(r"--[\w-]+", cli(verb, "--help").out))
        assert {*re.findall(r"--[\w-]+", words)} - known <= later.get(verb, set()), verb


@pytest.mark.slow
@pytest.mark.skipif(not TOOLS, reason="needs Linux with bash and flock")
def test_nights_that_are_killed_end_as_others_do(tmp_path, capsys):
    lacking = stands_in(capsys)
    undisturbed, disturbed = (Home(tmp_path / name, lacking) for name in ("undisturbed", "disturbed"))
    for home in (undisturbed, disturbed):
        home.clicks(1)
        said = home.night(1)
        assert "Promoted: there was no run in live." in said
        assert home.night(1) == ""  # the night is done
    first = undisturbed.kept()
    assert first == disturbed.kept()
    for home in (undisturbed, disturbed):
        home.clicks(2)
    assert "items to live: " in undisturbed.night(2)
    second = undisturbed.kept()
    assert {name for name in second if name.startswith("previous/")}
    assert second["live/model.safetensors"] != first["live/model.safetensors"]
    assert second["previous/model.safetensors"] == first["live/model.safetensors"]

    work = "nights/2026-11-02"
    points = [
        f"{work}/.data.*", f"{work}/data", f"{work}/new/run.json", f"{work}/new/resume/state.safetensors",
        f"{work}/train.done", ".live.lock", ".previous.*.part", ".live.*.part", f"{work}/promote.done",
        f"{work}/lists*", f"{work}/lists/1*", f"{work}/lists.done",
    ]  # fmt: skip
    alive = [disturbed.killed(2, point) for point in points]
    assert sum(alive) >= len(points) - 3, alive  # some moments are too short to be hit
    disturbed.night(2)
    assert disturbed.kept() == second
    assert not [path.name for path in disturbed.home.iterdir() if path.name.endswith((".part", ".lock"))]


@pytest.mark.slow
@pytest.mark.skipif(not TOOLS, reason="needs Linux with bash and flock")
def test_a_night_whose_run_is_refused_makes_lists_and_says_so(tmp_path, capsys):
    home = Home(tmp_path / "here", stands_in(capsys))
    home.clicks(1)
    home.night(1, TONIGHT="ease")
    before = home.kept()
    home.clicks(2)
    said = home.night(2, status=REFUSED, TONIGHT="popularity")
    assert "Refused: the whole interval lies below -0.002." in said
    assert "The new model was refused; the lists are of the model in service." in said
    after = home.kept()
    assert (home.home / "lists").resolve().parent.name == "2026-11-02"
    models = [{name: data for name, data in files.items() if name.startswith("live/")} for files in (before, after)]
    assert models[0] == models[1]
    assert home.night(2, TONIGHT="popularity") == ""


@pytest.mark.slow
@pytest.mark.skipif(not TOOLS, reason="needs Linux with bash and flock")
def test_one_night_at_a_time(tmp_path, capsys):
    home = Home(tmp_path / "here", stands_in(capsys))
    home.clicks(1)
    (home.home / "nights").mkdir()
    lock = str(home.home / "nights" / ".lock")
    with subprocess.Popen(["flock", lock, "sh", "-c", "echo held; exec sleep 300"], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        assert home.night(1, status=75) == "A night is under way.\n"
        other.kill()
