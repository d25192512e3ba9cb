"""The campaign of faults finds nothing: its short form in every run, its long form in the slow one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LEAST = {"kills": 1000, "failures": 2000, "mutations": 4000, "writers": 50, "calls": 1000}


def figures(tmp_path, *arguments, seconds):
    """The figures of a campaign in a process of its own, which no other test has given threads."""
    file = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", "tests.campaign", *arguments, "--json", str(file)],
        cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False, env=os.environ | {"COLUMNS": "80"},
    )  # fmt: skip
    if done.returncode == 3:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(file.read_text())["parts"]


def test_short_form(tmp_path):
    found = figures(tmp_path, seconds=300)
    assert {*found} == {*LEAST}
    assert all(part["attacks"] >= 10 and not part["failed"] for part in found.values())


@pytest.mark.slow
@pytest.mark.parametrize("part", LEAST)
def test_long_form(part, tmp_path):
    found = figures(tmp_path, "--long", "--only", part, seconds=1800)[part]
    assert found["attacks"] >= LEAST[part]
    assert not found["failed"]
