"""Outputs that are replaced: in one step, flushed, read as one version, and with nothing left behind by the killed."""

import errno
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import checkerboard
from small_models import BOARD, model

import recvae
from recvae import files
from recvae.errors import InputError, WorkError
from recvae.files import swap, whole_file, whole_folder, write_text
from recvae.training import run_folder

NO_EXCHANGE = "names cannot be exchanged"
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")


@pytest.fixture(params=["exchange", NO_EXCHANGE])
def exchanging(request, monkeypatch) -> bool:
    if request.param == NO_EXCHANGE:
        monkeypatch.setattr(swap, "exchange", lambda one, other: False)
    return request.param != NO_EXCHANGE


def write_folder(path: Path, text: str, **options) -> None:
    with whole_folder(path, marker="marker", **options) as folder:
        (folder / "marker").write_text(text)
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text(text)


@LINUX
def test_this_system_exchanges_names(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert swap.exchange(tmp_path / "one", tmp_path / "other")
    assert (tmp_path / "one" / "other").exists()
    with pytest.raises(OSError, match="No such file"):
        swap.exchange(tmp_path / "one", tmp_path / "nowhere")


@LINUX
def test_a_folder_being_replaced_is_there_at_every_moment(tmp_path):
    """A process that looks all the time while the folder is replaced never finds it missing or mixed."""
    write_folder(tmp_path / "out", "0")
    program = """
import sys
from pathlib import Path
out = Path(sys.argv[1])
print("looking", flush=True)
missing = looks = 0
while not (out.parent / "stop").exists():
    looks += 1
    missing += not (out / "marker").exists()
print(looks, missing)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "looking\n"
        for n in range(60):
            write_folder(tmp_path / "out", str(n), overwrite=True)
        (tmp_path / "stop").touch()
        looks, missing = map(int, process.communicate(timeout=60)[0].split())
    assert looks > 60
    assert missing == 0


def failing_sync(monkeypatch, number: int, n: int = 1) -> None:
    """Let the n-th fsync fail."""
    left = n

    def fsync(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_fails_to_sync_fails_the_writing(number, exchanging, tmp_path, monkeypatch):
    """At every fsync: the earlier folder and file stay, and nothing else."""
    write_folder(tmp_path / "folder", "earlier")
    write_text(tmp_path / "file", "earlier")
    for n in range(1, 6):
        with monkeypatch.context() as patch:
            failing_sync(patch, number, n)
            with pytest.raises(WorkError, match=rf"Cannot write .*folder: {os.strerror(number)}\. [A-Z]"):
                write_folder(tmp_path / "folder", "new", overwrite=True)
        assert (tmp_path / "folder" / "inner" / "file").read_text() == "earlier"
    for n in range(1, 3) if exchanging else (1,):
        with monkeypatch.context() as patch:
            failing_sync(patch, number, n)
            with pytest.raises(WorkError, match=r"Cannot write .*file"):
                write_text(tmp_path / "file", "new")
        assert (tmp_path / "file").read_text() == "earlier"
    with monkeypatch.context() as patch:
        failing_sync(patch, number)
        with pytest.raises(WorkError):
            write_text(tmp_path / "above" / "file", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_that_cannot_sync_is_written_to(number, tmp_path, monkeypatch):
    failing_sync(monkeypatch, number)
    write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"


def test_a_new_folder_is_flushed_into_the_one_above(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(swap, "sync", synced.append)
    monkeypatch.setattr(files, "sync", synced.append)
    write_folder(tmp_path / "a" / "b" / "out", "new")
    assert {tmp_path, tmp_path / "a", tmp_path / "a" / "b"} <= set(synced)


OPERATIONS = ("open", "write", "fsync", "close", "chmod", "rename", "replace", "mkdir", "unlink", "rmdir")


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_failure_at_any_operation_leaves_the_earlier_output(kind, operation, exchanging, tmp_path, monkeypatch):
    out = tmp_path / "out"

    def write(text: str) -> None:
        if kind == "folder":
            write_folder(out, text, overwrite=True)
        else:
            with files.writing(out):
                write_text(out, text)

    def content() -> str:
        return (out / "inner" / "file" if kind == "folder" else out).read_text()

    failures(operation, write, content, out, monkeypatch, takes_back=exchanging or kind == "folder")


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["fsync", "rename"])
def test_a_failure_at_any_operation_leaves_the_earlier_run(operation, tmp_path, monkeypatch):
    out, seeds = tmp_path / "run", {"earlier": 1, "new": 2}

    def write(text: str) -> None:
        model("mult-dae", epochs=1, seed=seeds[text]).fit(BOARD, folder=out, overwrite=True)

    def content() -> str:
        seed = recvae.load(out, "cpu").config.seed
        return next(text for text in seeds if seeds[text] == seed)

    failures(operation, write, content, out, monkeypatch, may_be_new=True)


def failures(operation, write, content, out, monkeypatch, *, takes_back=True, may_be_new=False) -> None:
    """Let the n-th call of an operation fail, for every n: a sentence and the earlier output, or the new one whole.

    ``may_be_new``: an output of several steps is the new one from one of them on.
    """
    real = getattr(os, operation)
    write("earlier")
    for n in range(1, 40):
        left = n

        def fails(*arguments, **options):
            nonlocal left
            left -= 1
            if left == 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(*arguments, **options)

        error = None
        with monkeypatch.context() as patch:
            patch.setattr(os, operation, fails)
            try:
                write("new")
            except WorkError as caught:
                error = str(caught)
        if left > 0:
            break
        found = content()
        if error is None:
            assert found == "new", n
        else:
            assert str(out) in error, n
            assert "\n" not in error, n
            assert found == "earlier" or may_be_new or not takes_back, n
        if operation not in ("unlink", "rmdir"):  # what cannot be removed stays until the next writer
            assert [path.name for path in out.parent.iterdir()] == [out.name], n
        write("earlier")
        assert [path.name for path in out.parent.iterdir()] == [out.name], n


def test_the_next_writer_clears_what_the_killed_left(tmp_path):
    write_folder(tmp_path / "out", "earlier")
    for name in (".out.abcd1234.part", ".out.abcd1234.old/out", ".out.next"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / ".lists.csv.abcd1234.part").touch()
    kept = {".out.b.abcd1234.part", ".other.abcd1234.part", "out.abcd1234.part", ".out.mine"}
    for name in kept:
        (tmp_path / name).touch()
    write_folder(tmp_path / "out", "new", overwrite=True)
    with files.writing(tmp_path / "lists.csv"):
        write_text(tmp_path / "lists.csv", "new")
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "out", "lists.csv"}


def test_resuming_clears_the_run_folder(tmp_path):
    run = tmp_path / "run"
    model("mult-dae", epochs=2).fit(BOARD, folder=run)
    left = [run / ".tmpAb12Cd", run / ".model.safetensors.abcd1234.part", run / "resume" / ".tmpAb12Cd"]
    for path in left:
        path.touch()
    model("mult-dae", epochs=2).fit(BOARD, folder=run, resume=True)
    assert not any(path.exists() for path in left)


@pytest.mark.parametrize("verb", ["evaluate", "recommend", "info", "blend", "refit", "load"])
def test_every_reader_finds_a_run_that_was_set_aside(verb, cli, dataset, ease, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(ease, run)
    swap.set_aside(run)
    commands = {
        "evaluate": ["evaluate", run, dataset],
        "recommend": ["recommend", run, "--item", "002"],
        "info": ["info", run],
        "blend": ["blend", run, ease, dataset, "--weights", "1,1", "--out", tmp_path / "blend"],
        "refit": ["train", dataset, "--refit", run, "--out", tmp_path / "refit"],
    }
    if verb == "load":
        assert recvae.load(run).n_items == 40
    else:
        answer = cli(*commands[verb])
        assert answer.status == 0, answer.err
    assert (run / run_folder.WEIGHTS).is_file()
    assert not list(tmp_path.glob(".*"))


def test_a_dataset_that_was_set_aside_is_found(cli, dataset, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(dataset, folder)
    swap.set_aside(folder)
    assert cli("info", folder).status == 0
    assert not list(tmp_path.glob(".*"))


def test_an_earlier_run_stays_until_the_new_one_has_a_model(tmp_path):
    """Looked at in every step of the new run's first epoch."""
    run = tmp_path / "run"
    model("mult-dae", epochs=1, seed=3).fit(BOARD, folder=run)
    seen = []

    def step(done: int, total: int) -> None:
        seen.append(recvae.load(run, "cpu").config.seed)

    model("mult-dae", epochs=2, seed=4).fit(BOARD, folder=run, overwrite=True, on_step=step)
    half = len(seen) // 2
    assert seen == [3] * half + [4] * half
    assert half


def test_a_model_is_loaded_from_one_version(exchanging, tmp_path, monkeypatch):
    """The folder is replaced between the reading of its files, and while readers read all the time."""
    boards = {1.0: checkerboard(seed=1), 2.0: checkerboard(seed=2)}
    models = {l2: recvae.EASE(l2=l2).fit(board) for l2, board in boards.items()}
    models[1.0].save(tmp_path / "run")
    read_items, replaced = recvae.training.run_folder.read_items, []

    def replacing(folder, run):
        items = read_items(folder, run)
        if not replaced:
            replaced.append(True)
            models[2.0].save(tmp_path / "run", overwrite=True)
        return items

    with monkeypatch.context() as patch:
        patch.setattr("recvae.training.run_folder.read_items", replacing)
        loaded = recvae.load(tmp_path / "run", "cpu")
    assert loaded.config.model.l2 == 2.0
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for other in models.values():
                other.save(tmp_path / "run", overwrite=True)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(20):
            loaded = recvae.load(tmp_path / "run", "cpu")
            assert np.array_equal(loaded.tensors()["weights"], models[loaded.config.model.l2].tensors()["weights"])
    finally:
        stop.set()
        writer.join(60)


def test_a_link_is_followed(tmp_path):
    """What it leads to is replaced, and the link stays."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk/out")
    write_folder(tmp_path / "out", "earlier")
    write_folder(tmp_path / "out", "new", overwrite=True)
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "disk" / "out" / "marker").read_text() == "new"
    model("mult-dae", epochs=1).fit(BOARD, folder=tmp_path / "run")
    (tmp_path / "link").symlink_to("run")
    model("mult-dae", epochs=1, seed=5).fit(BOARD, folder=tmp_path / "link", overwrite=True)
    assert recvae.load(tmp_path / "run").config.seed == 5
    assert {path.name for path in tmp_path.iterdir()} == {"disk", "out", "run", "link"}


def test_a_temporary_file_is_named_by_nobody(tmp_path):
    with pytest.raises(RuntimeError), whole_file(tmp_path / "file"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


# No output may be an input.


@pytest.mark.parametrize("name", ["same", "symbolic link", "hard link", "folder above", "in a folder"])
def test_an_output_that_is_an_input_is_refused(name, tmp_path):
    (tmp_path / "data").mkdir()
    given = tmp_path / "data" / "clicks.csv"
    given.write_text("kept")
    out, inputs = given, [tmp_path / "missing", given]
    if name == "symbolic link":
        out = tmp_path / "link.csv"
        out.symlink_to(given)
    elif name == "hard link":
        out = tmp_path / "link.csv"
        os.link(given, out)
    elif name == "folder above":
        out = tmp_path / "link"
        out.symlink_to("data")
    elif name == "in a folder":
        inputs = [tmp_path / "data"]
    with pytest.raises(InputError, match="read"):
        swap.refuse_inputs(out, inputs)
    swap.refuse_inputs(tmp_path / "other.csv", inputs)
    swap.refuse_inputs(tmp_path / "data" / "new.csv", inputs)


@pytest.mark.parametrize("verb", ["recommend", "a run's items", "refit", "blend", "blend above", "prepare", "tune"])
def test_no_verb_replaces_what_it_reads(verb, cli, dataset, ease, clicks, tmp_path):
    run, table = tmp_path / "run", tmp_path / "clicks.csv"
    shutil.copytree(ease, run)
    shutil.copytree(ease, run / "inner")
    shutil.copy(clicks, table)
    data = tmp_path / "data"
    shutil.copytree(dataset, data)
    shutil.copy(clicks, data / "clicks.csv")
    columns = ("--user-column", "user", "--item-column", "item")
    config = tmp_path / "study" / "best.toml"
    config.parent.mkdir()
    (config.parent / "study.json").write_text("{}")
    config.write_text('name = "ease"\n')
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    commands = {
        "recommend": ["recommend", run, "--histories", table, "--out", table],
        "a run's items": ["recommend", run, "--item", "002", "--out", run / "items.csv"],
        "refit": ["train", dataset, "--refit", run, "--out", run],
        "blend": ["blend", run, ease, dataset, "--out", run],
        "blend above": ["blend", run / "inner", ease, dataset, "--out", run],
        "prepare": ["prepare", data / "clicks.csv", *columns, "--out", data],
        "tune": ["tune", dataset, "--config", config, "--out", config.parent],
    }
    answer = cli(*commands[verb], "--overwrite")
    assert answer.status == 2, answer
    assert "read" in answer.err
    assert answer.err.count("\n") == 1
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_folder_may_be_called_after_a_configuration(cli, dataset, tmp_path, monkeypatch):
    """The name of what is shipped is no input of that name."""
    monkeypatch.chdir(tmp_path)
    command = ["train", dataset, "--config", "ml-100k-ease", "--out", "ml-100k-ease", "-q"]
    for more in ([], ["--overwrite"]):
        answer = cli(*command, *more)
        assert answer.status == 0, answer.err
