"""The benchmark programs at tiny sizes, the pages that their records fill, and the commands that the pages name."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks import harness, pages
from benchmarks.accuracy import defaults, tables
from benchmarks.speed.__main__ import PROGRAMS
from recvae.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
LITTLE = """
import runpy, sys
others = ("pandas", "pyarrow", "pydantic", "safetensors", "typer", "rich", "implicit", "threadpoolctl", "pooch",
          "platformdirs", "matplotlib", "filelock", "optuna")
sys.modules.update(dict.fromkeys(others))  # importing them fails, and looking for them finds nothing
sys.argv = ["benchmarks.gpu", *sys.argv[1:]]
runpy.run_module("benchmarks.gpu", run_name="__main__", alter_sys=True)
"""


def ran(command):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["agreement", "ranking", "batch"])
def test_a_program_runs_and_writes_its_record(name, tmp_path):
    out = tmp_path / f"{name}.json"
    ran([sys.executable, "-m", "benchmarks.speed", name, "--small", "--out", out])
    record = json.loads(out.read_text())
    assert record["figures"]
    assert record["command"] == f"python -m benchmarks.speed {name} --small"


@pytest.mark.slow
def test_the_gpu_program_runs_with_torch_numpy_and_scipy_alone(tmp_path):
    out = tmp_path / "gpu.json"
    ran([sys.executable, "-c", LITTLE, "--small", "--device", "cpu", "--out", out])
    record = json.loads(out.read_text())
    assert record["details"]["failed"] == {}
    assert {figure["kind"] for figure in record["figures"]} == {"alone", "floor", "peer"}


def test_a_program_overwrites_no_record_unless_asked():
    before = {file.name: file.read_bytes() for file in pages.RESULTS.iterdir()}
    assert "nothing is written: --out FILE or --record would" in ran(
        [sys.executable, "-m", "benchmarks.speed", "startup", "--small"]
    )
    assert before == {file.name: file.read_bytes() for file in pages.RESULTS.iterdir()}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed", "--small", "--record"],
        capture_output=True, text=True, timeout=60, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--small measures nothing" in done.stderr


def test_pages_hold_exactly_the_tables_of_their_records():
    """Nothing between the comments is by hand; python -m benchmarks.pages makes it again."""
    found = {page.name: page.read_text(encoding="utf-8") for page in pages.pages()}
    assert {"performance.md", "results.md", "family.md", "conditional-vae.md", "vaeac.md"} <= set(found)
    for name, text in found.items():
        assert text.count("<!-- table: ") == text.count("<!-- end -->") == len(pages.MARKED.findall(text)), name
        assert pages.filled(text) == text, name


@pytest.mark.parametrize("name", ["benchmarks/results/ranking.json", "docs/page.png", "benchmarks/../docs/new.json"])
def test_a_tracked_file_is_not_replaced_without_record(name, capsys):
    with pytest.raises(SystemExit):
        harness.parser("").parse_args(["--out", str(ROOT / name)])
    assert "is among the tracked records and pages: use --record to replace one" in capsys.readouterr().err
    assert harness.parser("").parse_args(["--out", "elsewhere.json"]).out == Path("elsewhere.json")


def test_a_record_is_written_only_with_record(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    monkeypatch.setattr(pages, "fill_pages", lambda: [])
    for words, there in ((), []), (("--out", str(tmp_path / "mine.json")), None), (("--record",), ["x.json"]):
        monkeypatch.setattr(sys, "argv", ["program", *words])
        if there is None:
            with pytest.raises(SystemExit):
                harness.parser("").parse_args()
            continue
        harness.write_record("x", {"figures": []}, harness.parser("").parse_args())
        assert [file.name for file in tmp_path.iterdir()] == there
    assert "nothing is written" in capsys.readouterr().out


def test_programs_reach_tracked_places_by_record_alone():
    """The lines of the programs that name a tracked folder: each asks for --record, or reads."""
    found = 0
    for file in (ROOT / "benchmarks").rglob("*.py"):
        if file.name in ("harness.py", "pages.py"):  # of write_record and of fill_pages
            continue
        for line in file.read_text(encoding="utf-8").splitlines():
            if re.search(r"\b(RESULTS|DOCS)\b", line) and "import" not in line:
                found += 1
                assert "if arguments.record else" in line or "read_json(RESULTS" in line, f"{file.name}: {line}"
    assert found > 4


def test_every_record_is_on_a_page():
    pages_text = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").rglob("*.md"))
    for file in pages.RESULTS.iterdir():
        assert f"benchmarks/results/{file.name}" in pages_text, file.name


def test_a_table_that_is_not_there():
    with pytest.raises(InputError, match="There is no table 'weather today'; the first word is one of speed"):
        pages.filled("<!-- table: weather today -->\n<!-- end -->\n")


def test_every_command_of_a_page_exists():
    commands = 0
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"python benchmarks/\S+", text), page.name
        for module, first in re.findall(r"python -m (benchmarks[\w.]*)(?: (\w+))?", text):
            commands += 1
            assert find_spec(module) is not None, module
            assert module != "benchmarks.speed" or first in ("", *PROGRAMS), first
    assert commands > 15


def test_the_recommended_model_is_level_with_the_baselines():
    """By the record of the defaults, on validation and on test users, and a level of .002."""
    lines = tables.defaults(json.loads((pages.RESULTS / "defaults.json").read_text()))
    cells = [line.strip("| ").split(" | ") for line in lines[2:]]
    assert {cell[0] for cell in cells} == set(defaults.SOURCES)
    for name in defaults.SOURCES:
        means = {cell[2].strip("`"): tuple(map(float, cell[3:])) for cell in cells if cell[0] == name}
        ours = means.pop("recvae-edlae")
        assert means.keys() >= set(defaults.BASELINES)
        for theirs in means.values():
            assert all(our >= their - 0.002 for our, their in zip(ours, theirs, strict=True))
