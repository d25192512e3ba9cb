"""The command line as a whole: help, version, exit statuses, debug, and what it imports."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import recvae
from eval import DEFAULT_METRICS
from recvae import cli as cli_module
from recvae.cli.options import METRICS

VERBS = (
    *("quickstart", "prepare", "train", "evaluate", "diagnose", "recommend"),
    *("similar", "promote", "benchmark", "tune", "blend", "info"),
)


def python(*arguments, **options):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60, **options)


def test_help_lists_the_verbs(cli):
    answer = cli("--help")
    assert answer.status == 0
    assert all(verb in answer.out for verb in VERBS)
    assert cli().out == answer.out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_the_common_options(cli, verb, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    answer = cli(verb, "--help")
    assert answer.status == 0
    assert all(option in answer.out for option in ("--json", "--quiet", "--debug"))


def test_help_imports_nothing_heavy():
    program = "import json, sys; from recvae.cli import main; main(['--help']); print(json.dumps(sorted(sys.modules)))"
    modules = json.loads(python("-c", program).stdout.splitlines()[-1])
    heavy = {"torch", "numpy", "scipy", "pandas", "pyarrow", "implicit", "pydantic", "matplotlib", "data_prep", "eval"}
    heavy |= {"optuna", "sqlalchemy"}
    assert not heavy & set(modules)


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("recvae tr", {"train"}),
        ("recvae train --model mu", {"mult-vae", "mult-dae"}),
        ("recvae train --re", {"--resume", "--refit"}),
    ],
)
def test_the_shell_completes_without_importing_anything_heavy(words, offered):
    program = (
        "import atexit, sys; from recvae.cli import main;"
        "atexit.register(lambda: print('imported:', *sorted({'torch', 'pandas', 'data_prep'} & set(sys.modules))));"
        "main([])"
    )
    asked = {"_RECVAE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    *lines, imported = python("-c", program, env=os.environ | asked).stdout.split("\n")[:-1]
    assert set(lines) == offered
    assert imported == "imported:"


def test_version(cli):
    assert cli("--version").out == f"recvae {recvae.__version__}\n"


def test_default_metrics_are_the_evaluators():
    assert tuple(METRICS.split(",")) == DEFAULT_METRICS


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "No such command 'trian'. Did you mean 'train'?"),
        (["train"], "Missing argument 'DIR'"),
        (["train", "x"], "Missing option '--out'"),
        (["train", "x", "--bogus"], "No such option: --bogus"),
        (["similar", "x", "--item", "1", "-k", "ten"], "Invalid value for '-k'"),
    ],
)
def test_wrong_arguments_are_one_line(cli, arguments, said):
    answer = cli(*arguments)
    assert answer.status == 2
    assert said in answer.err
    assert answer.err.count("\n") == 1
    assert answer.out == ""


def broken(error):
    def verb(*_, **__):
        raise error

    return verb


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (KeyError("gone"), 1, "This is a bug in recvae (KeyError: 'gone'). Run again with --debug"),
        (KeyboardInterrupt(), 130, "Stopped."),
        (MemoryError("1 TiB"), 1, "There is not enough memory (1 TiB)."),
        (PermissionError(13, "Permission denied", "secret.csv"), 1, "secret.csv: Permission denied."),
        (recvae.RecvaeError("The work failed."), 1, "Error: The work failed."),
    ],
)
def test_exceptions_become_sentences(cli, monkeypatch, error, status, said):
    monkeypatch.setattr("recvae.config.shipped", broken(error))
    answer = cli("info")
    assert answer.status == status
    assert said in answer.err
    assert answer.err.count("\n") == 1
    if status != 130:
        assert "Traceback" in cli("info", "--debug").err


def test_broken_pipe_is_silent(cli, monkeypatch):
    monkeypatch.setattr("recvae.config.shipped", broken(BrokenPipeError(32, "Broken pipe")))
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    assert cli_module.main(["info"]) == 1


@pytest.mark.parametrize("shadow", ["eval/__init__.py", "data_prep/tools.py", "eval.py"])
def test_a_folder_of_the_users_that_hides_ours_is_named(tmp_path: Path, shadow):
    """A package, a folder without __init__.py, and a module."""
    (tmp_path / shadow).parent.mkdir(exist_ok=True)
    (tmp_path / shadow).write_text("raise RuntimeError('the wrong module was imported')")
    environment = {**os.environ, "PYTHONPATH": ""}
    answer = python("-m", "recvae", "info", cwd=tmp_path, env=environment)
    if answer.returncode == 0 and shadow == "data_prep/tools.py":
        return  # such a folder hides an editable install, but not an installed package
    assert answer.returncode == 2
    assert answer.stdout == ""
    name = shadow.split("/")[0]
    assert f"{name} hides recvae's own package '{name.removesuffix('.py')}'" in answer.stderr
    assert answer.stderr.count("\n") == 1


@pytest.mark.parametrize(("shadow", "name"), [("eval/__init__.py", "evaluate"), ("data_prep.py", "prepare")])
def test_python_names_a_folder_of_the_users_beside_the_script(tmp_path: Path, shadow, name):
    (tmp_path / shadow).parent.mkdir(exist_ok=True)
    (tmp_path / shadow).write_text("raise RuntimeError('the wrong module was imported')")
    environment = {**os.environ, "PYTHONPATH": str(Path(recvae.__file__).parent.parent)}
    (tmp_path / "mine.py").write_text("from recvae import Query, RecvaeError\nprint('models need none of the two')\n")
    assert python(str(tmp_path / "mine.py"), env=environment).stdout == "models need none of the two\n"
    (tmp_path / "mine.py").write_text(f"from recvae import {name}\n")
    answer = python(str(tmp_path / "mine.py"), env=environment)
    assert answer.returncode == 1
    folder = shadow.split("/")[0]
    assert answer.stderr.splitlines()[-1] == (
        f"recvae.errors.InputError: {tmp_path / folder} hides recvae's own package '{folder.removesuffix('.py')}'. "
        "Rename it, or run the program from another folder."
    )


def test_names_of_the_other_packages_are_theirs():
    import data_prep
    import eval as measures

    assert (recvae.prepare, recvae.Dataset) == (data_prep.prepare, data_prep.Dataset)
    assert (recvae.evaluate, recvae.validator) == (measures.evaluate, measures.validator)


def test_module_runs_as_the_command_does():
    began = time.perf_counter()
    answer = python("-m", "recvae", "--version")
    assert answer.returncode == 0
    assert answer.stdout.startswith("recvae ")
    assert time.perf_counter() - began < 20


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_an_output_that_lacks_characters_shows_marks_in_their_place(encoding, ease, dataset):
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    answer = python("-m", "recvae", "evaluate", str(ease), str(dataset), env=environment, encoding=encoding)
    assert answer.returncode == 0, answer.stderr
    assert "ease" in answer.stdout
