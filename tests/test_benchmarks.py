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
