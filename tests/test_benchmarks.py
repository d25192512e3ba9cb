"""The benchmark programs at tiny sizes: each checks that ours and its peers give equal results, and ends well."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.mark.slow
@pytest.mark.parametrize("program", ["agreement", "ranking", "gpu --device cpu"])
def test_a_program_runs_and_writes_its_record(program, tmp_path):
    name, *more = program.split()
    out = tmp_path / f"{name}.json"
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--small", *more, "--out", str(out)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=170, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads(out.read_text())
    assert record["figures"]
    assert record["command"].startswith(f"python benchmarks/{name}.py")


@pytest.fixture(scope="module")
def defaults():
    """The program that measures the defaults, as a module."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import defaults

        return defaults
    finally:
        sys.path.pop(0)


def test_the_recommended_model_is_level_with_the_baselines_and_its_page_says_the_record(defaults):
    """On validation and on test users, and a level of .002: the figures of the page are the record's."""
    rows = json.loads((BENCHMARKS / "results" / "defaults.json").read_text())["rows"]
    lines = defaults.table(rows)
    assert "\n".join(lines) in (BENCHMARKS.parent / "docs" / "models" / "README.md").read_text(encoding="utf-8")
    cells = [line.strip("| ").split(" | ") for line in lines[2:]]
    assert {cell[0] for cell in cells} == set(defaults.SOURCES)
    for name in defaults.SOURCES:
        means = {cell[2].strip("`"): tuple(map(float, cell[3:])) for cell in cells if cell[0] == name}
        ours = means.pop("recvae-edlae")
        assert means.keys() >= set(defaults.BASELINES)
        for theirs in means.values():
            assert all(our >= their - 0.002 for our, their in zip(ours, theirs, strict=True))
