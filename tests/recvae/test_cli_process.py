"""The command as a process: signals, closed and full streams, names that are not UTF-8."""

import os
import signal
import subprocess
import sys

import pytest

import recvae
from data_prep import Dataset
from recvae.errors import InputError

POSIX = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and shells")
FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110


def shell(script: str, *arguments: object) -> subprocess.CompletedProcess:
    command = ["sh", "-c", script, sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@POSIX
@pytest.mark.slow
@pytest.mark.parametrize(("name", "status", "kept"), [("SIGTERM", 143, True), ("SIGHUP", 129, False)])
def test_a_signal_ends_a_training_tidily(name, status, kept, dataset, small, tmp_path):
    """After the first epoch the best model is kept; before it nothing is."""
    run = tmp_path / "run"
    epochs = "train.epochs=1000000"
    command = ["train", dataset, "--model", "recvae", *small, "--set", epochs, "--out", run]
    if not kept:
        command += ["--set", "train.validate_every=1000000"]
    python = [sys.executable, "-m", "recvae", *map(str, command)]
    with subprocess.Popen(python, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        for _ in range(2):
            process.stderr.readline()
        process.send_signal(getattr(signal, name))
        said = process.communicate(timeout=120)[1]
    assert process.returncode == status, said
    assert "Stopped" in said
    assert "Traceback" not in said
    if kept:
        assert "--resume" in said
        assert recvae.load(run, "cpu").best_epoch >= 1
        assert not list(run.rglob("*.part"))
    assert [path.name for path in tmp_path.iterdir()] == (["run"] if kept else [])


@POSIX
@FULL
@pytest.mark.slow
@pytest.mark.parametrize("streams", [">/dev/full 2>&1", ">&- 2>&-"])
def test_progress_that_cannot_be_printed_does_not_end_a_training(streams, dataset, small, tmp_path):
    run = tmp_path / "run"
    options = (*small, "--set", "train.epochs=2", "--out", run)
    answer = shell(f'"$0" -m recvae train "$@" {streams}', dataset, "--model", "mult-dae", *options[2:])
    assert answer.returncode == 0, answer.stderr
    assert recvae.load(run, "cpu").n_items == 40
    assert {path.name for path in run.iterdir()} >= {"model.safetensors", "run.json", "items.csv", "metrics.jsonl"}


@POSIX
@FULL
@pytest.mark.parametrize(("form", "streams"), [("--json", ">&-"), ("--quiet", ">/dev/full")])
def test_a_result_that_cannot_be_printed_is_a_failure(form, streams):
    answer = shell(f'"$0" -m recvae info {form} {streams}')
    assert answer.returncode == 1
    assert answer.stderr.startswith("Error: The ")
    assert answer.stderr.count("\n") == 1


@POSIX
def test_a_closed_stream_is_no_file_of_ours(clicks, tmp_path):
    """The number of a closed stream is given to the next file that is opened, which print would then write into."""
    out = tmp_path / "data"
    columns = ("--user-column", "user", "--item-column", "item", "--out", out)
    answer = shell('"$0" -m recvae prepare "$@" <&- >&- 2>&-', clicks, *columns)
    assert answer.returncode == 0, answer.stderr
    Dataset.load(out).verify()


def odd(folder) -> object:
    """A path that is not UTF-8."""
    return folder / os.fsdecode(b"x\xff")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
@pytest.mark.parametrize("verb", ["train", "recommend", "prepare", "evaluate"])
def test_a_name_that_is_not_utf8_is_refused_at_once(verb, cli, dataset, ease, clicks, tmp_path):
    name, columns = odd(tmp_path), ("--user-column", "user", "--item-column", "item")
    if verb == "evaluate":
        name.symlink_to(ease)
    answer = cli(
        *{
            "train": ["train", dataset, "--model", "ease", "--out", name],
            "recommend": ["recommend", ease, "--item", "002", "--out", name.with_suffix(".csv")],
            "prepare": ["prepare", clicks, *columns, "--out", name],
            "evaluate": ["evaluate", name, dataset],
        }[verb]
    )
    assert answer.status == 2, answer
    assert "is not valid UTF-8" in answer.err
    assert answer.err.count("\n") == 1
    assert [path for path in tmp_path.iterdir() if path != name] == []


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_model_is_not_saved_under_a_name_that_is_not_utf8(tmp_path):
    from conftest import checkerboard

    with pytest.raises(InputError, match="UTF-8"):
        recvae.Popularity().fit(checkerboard()).save(odd(tmp_path))
    assert list(tmp_path.iterdir()) == []
