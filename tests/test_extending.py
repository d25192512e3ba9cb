"""The page on extending is run as it stands: its package from outside, its commands and its snippets."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
FILES = {text.split("\n")[0].removeprefix("# file: "): text for _, text in BLOCKS if text.startswith("# file: ")}
SNIPPETS = [text for _, text in BLOCKS if text.startswith("# run: ")]
COMMANDS = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the page's package, installed as pip would, and a dataset of two tastes."""
    folder = tmp_path_factory.mktemp("extending")
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    project = tomllib.loads(FILES["pyproject.toml"])["project"]
    info = folder / f"{project['name']}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = project["entry-points"]["recvae.models"]
    lines = ["[recvae.models]", *(f"{name} = {home}" for name, home in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    rows = [f"u{user},{item}" for user in range(200) for item in range(user % 2, 40, 2) if (user * 7 + item * 3) % 5]
    (folder / "clicks.csv").write_text("\n".join(["user,item", *rows]))
    columns = ("--user-column", "user", "--item-column", "item")
    run(folder, "recvae", "prepare", "clicks.csv", *columns, "--held-out-users", "20", "--out", "tastes", "--quiet")
    return folder


def run(folder, *command, source=ROOT):
    """Run a command in the folder, in an environment that has the page's package and this project."""
    program = [sys.executable, "-m", "recvae"] if command[0] == "recvae" else [sys.executable]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(source), str(folder))), "COLUMNS": "100"}
    done = subprocess.run(
        [*program, *command[1:]], cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_commands_know_a_model_from_outside(place):
    said = {command: run(place, *shlex.split(command)) for command in COMMANDS}
    assert len(said) == 5
    assert all("ooccurrence" in text for command, text in said.items() if "evaluate" not in command)
    assert "from the package cooccurrence" in run(place, "recvae", "info")
    run(place, "recvae", "recommend", "run", "--item", "2", "--item", "4", "-k", "3")


@pytest.mark.slow
def test_it_passes_the_conformance_suite(place):
    options = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(place), "-W", "error")
    assert " passed" in run(place, "python", *options, "test_cooccurrence.py")


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_a_snippet_runs(place, number):
    (place / f"snippet_{number}.py").write_text(SNIPPETS[number], encoding="utf-8")
    run(place, "python", "-W", "error", f"snippet_{number}.py")


def test_a_model_touches_one_file():
    """Counted: a plain model of another package is one module, and none of ours names it."""
    assert [name for name in FILES if name.endswith(".py") and not name.startswith("test_")] == ["cooccurrence.py"]
    ours = [path for folder in ("recvae", "data_prep", "eval") for path in (ROOT / folder).rglob("*.py")]
    assert not [path for path in (*ours, *ROOT.glob("configs/*.toml")) if "ooccurrence" in path.read_text("utf-8")]


# Inside the package: each thing is added to a copy of it, and the files that had to be touched are counted.

MODEL = """        Entry("cooccurrence", "recvae.models.cooccurrence:Cooccurrence", "Co-occurrence", "a page"),
"""
LIKELIHOOD = """

def poisson(code, weight, bias, batch, memory=None):
    scores = torch.addmm(bias, code, weight.T)
    return batch.row_sum(batch.values * scores_at(code, weight, bias, batch)) - scores.exp().sum(1)


LIKELIHOODS["poisson"] = lambda options: poisson
"""
PRIOR = """

class Wide(Prior):
    def density(self, batch, encoder, noise=None):
        return lambda z: gaussian_log_density(z, 0.0, 2.0)


PRIORS["wide"] = lambda network, n_items, options, g: Wide()
"""
VERB = """
import typer


def greet(name: str) -> None:
    \"""Greet somebody.\"""
    typer.echo(f"Hello, {name}.")
"""
SMALL = "--set model.latent=4 --set train.epochs=2 --threads 1"
MADE = {  # what is appended to which file, or put behind which text; a command that works then; the files it takes
    "a model": (
        [
            ("recvae/models/cooccurrence.py", "", FILES["cooccurrence.py"]),
            ("recvae/registry.py", "    for entry in (\n", MODEL),
        ],
        "recvae train tastes --model cooccurrence --out inside-model",
    ),
    "a likelihood": (
        [("recvae/nn/likelihoods.py", "", LIKELIHOOD)],
        f"recvae train tastes --model recvae --set model.likelihood=poisson {SMALL} --out inside-likelihood",
    ),
    "a prior": (
        [("recvae/nn/priors.py", "", PRIOR)],
        f"recvae train tastes --model mult-vae --set model.prior=wide {SMALL} --out inside-prior",
    ),
    "a verb": (
        [
            ("recvae/cli/greet.py", "", VERB),
            (
                "recvae/cli/__init__.py",
                "from recvae.cli.evaluate import evaluate\n",
                "from recvae.cli.greet import greet\n",
            ),
            ("recvae/cli/__init__.py", "_VERBS = (", "greet, "),
        ],
        "recvae greet you",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("made", "touched"), [("a model", 2), ("a likelihood", 1), ("a prior", 1), ("a verb", 2)])
def test_adding_to_the_package_touches_few_files(place, tmp_path, made, touched):
    edits, command = MADE[made]
    for folder in ("recvae", "data_prep", "eval"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name, behind, text in edits:
        file = tmp_path / name
        before = file.read_text("utf-8") if file.exists() else ""
        assert behind in before
        file.write_text(before.replace(behind, behind + text, 1) if behind else before + text, "utf-8")
    assert len({name for name, _, _ in edits}) == touched
    run(place, *shlex.split(command), source=tmp_path)
