"""Pipes are read once and used as files are; one that cannot be read is a sentence, never a wait without end."""

import gzip
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from data_prep import column_names, prepare, prepare_given, read_interactions, read_titles, read_user_tags, spool
from data_prep.lines import read_lines
from recvae.errors import DataError, InputError, WorkError

ROOT = Path(spool.__file__).parents[1]
COLUMNS = {"user_column": "user", "item_column": "item"}
ROWS = "".join(f"u{user},{item}\n" for user in range(60) for item in range(user % 3, 40))
CLICKS = "user,item\n" + ROWS * 40  # more than a pipe and a first block hold
FIFO = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")


@pytest.fixture
def fifo(tmp_path):
    """Make a named pipe that a thread writes bytes to."""
    threads = []

    def make(name: str, content: bytes) -> Path:
        path = tmp_path / name
        os.mkfifo(path)

        def write():
            with path.open("wb") as file:
                file.write(content)

        threads.append(threading.Thread(target=write, daemon=True))
        threads[-1].start()
        return path

    yield make
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def run(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash with ``recvae`` in it."""
    script = f'recvae() {{ "{sys.executable}" -m recvae "$@"; }}\n{command}'
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        ["bash", "-c", script], cwd=folder, env=env, text=True, capture_output=True, timeout=100, check=False
    )


@pytest.fixture
def stdin():
    """Give bytes, or an open file, to this process's standard input."""
    before = os.dup(0)

    def give(content: bytes) -> None:
        end, start = os.pipe()
        os.dup2(end, 0)
        os.close(end)

        def write():
            with os.fdopen(start, "wb") as file:
                file.write(content)

        threading.Thread(target=write, daemon=True).start()

    yield give
    os.dup2(before, 0)
    os.close(before)


@pytest.mark.parametrize(
    "command", ["cat clicks.csv | recvae prepare /dev/stdin", "recvae prepare <(gzip -c clicks.csv)"]
)
def test_no_click_of_a_pipe_is_lost(command, tmp_path):
    (tmp_path / "clicks.csv").write_text(CLICKS)
    done = run(f"{command} --user-column user --item-column item --out set", tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"read        {CLICKS.count(chr(10)) - 1:,} rows" in done.stdout
    assert re.match("copy (stdin|/dev/fd/[0-9]+) to a temporary file ...\n", done.stderr)


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_standard_input(stdin, name, tmp_path):
    stdin(CLICKS.encode())
    data = prepare(name, **COLUMNS)
    assert (
        data.manifest["dropped"]["duplicate_clicks"] + data.manifest["before_split"]["clicks"] == len(ROWS.split()) * 40
    )
    assert (data.name, data.manifest["source"]["file"]) == ("stdin", "standard input")
    stdin(gzip.compress(b"1,A\n"))
    assert read_titles(Path(name)).titles == {"1": "A"}
    path = tmp_path / "a file"
    path.write_text("1,A\n")
    with path.open() as file:
        os.dup2(file.fileno(), 0)
    assert read_titles(name).titles == {"1": "A"}


@FIFO
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_all_inputs_may_be_pipes(fifo, tmp_path, pack):
    (tmp_path / "clicks.csv").write_text(CLICKS)
    titles = "".join(f"{item},Film {item},A|B\n" for item in range(40)).encode()
    tags = ("user,age\n" + "".join(f"u{user},{user}\n" for user in range(60))).encode()
    read = prepare(
        fifo("mine.csv", pack(CLICKS.encode())),
        **COLUMNS,
        titles=fifo("titles.csv", pack(titles)),
        user_tags=fifo("tags.csv", pack(tags)),
    )
    plain = prepare(tmp_path / "clicks.csv", **COLUMNS)
    assert (read.train != plain.train).nnz == 0
    assert read.name == "mine"
    assert read.manifest["source"]["file"] == "mine.csv"
    if pack is bytes:
        assert read.manifest["source"]["sha256"] == plain.manifest["source"]["sha256"]
    assert read.item_titles[0] == f"Film {read.item_ids[0]}"
    assert read.item_tags[read.item_ids[0]] == ("A", "B")
    assert read.user_tags["u3"] == {"age": "3"}


@FIFO
def test_each_reader_takes_a_pipe(fifo, tmp_path):
    import pandas as pd

    assert column_names(fifo("a", b"x,y\n1,2\n")) == ["x", "y"]
    assert len(read_interactions(fifo("b", b"x,y\n1,2\n"), "x", "y")) == 1
    assert read_titles(fifo("c", b"1,A\n")).titles == {"1": "A"}
    assert read_user_tags(fifo("d", b"u,age\n1,7\n")) == {"1": {"age": "7"}}
    assert len(read_lines(fifo("e", b"1 2 3\n"))) == 2
    given = prepare_given(fifo("train.txt", b"1 2 3 4\n" * 2), fifo("test.txt", b"1 5\n"), validation_share=0.4)
    assert given.name == tmp_path.name
    pd.DataFrame({"x": [1], "y": [2]}).to_parquet(tmp_path / "f")
    assert len(read_interactions(fifo("g", (tmp_path / "f").read_bytes()), "x", "y")) == 1


@FIFO
def test_a_pipe_that_nobody_writes_to_is_a_sentence(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "none")
    monkeypatch.setattr(spool, "WRITER_SECONDS", 0.3)
    said: list[Exception] = []

    def read():
        try:
            read_titles(tmp_path / "none")
        except InputError as error:
            said.append(error)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(60)
    assert not reader.is_alive()
    assert "none is a pipe that nobody writes to: waited 0.3 seconds. Start" in str(said[0])


@FIFO
def test_a_slow_writer_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "WRITER_SECONDS", 20)
    os.mkfifo(tmp_path / "slow")
    said = []
    write = 'sleep 0.5; exec 3>slow; sleep 0.5; printf "x,y\\n" >&3; sleep 0.3; printf "1,2\\n" >&3'
    with subprocess.Popen(["bash", "-c", write], cwd=tmp_path):
        data = read_interactions(tmp_path / "slow", "x", "y", progress=lambda what, *_: said.append(what))
    assert len(data) == 1
    assert said[0].startswith("wait for a writer of ")
    assert said[-1] == "read slow"


def test_what_cannot_be_read_is_a_sentence(stdin, tmp_path, monkeypatch):
    for name in ("-", "/dev/stdin"):
        stdin(b"")
        with pytest.raises(DataError, match="stdin is empty"):
            read_titles(name)
    with pytest.raises(DataError, match="/dev/null is empty"):
        read_titles("/dev/null")
    for one, two in (("-", "-"), ("/dev/stdin", "-")):
        stdin(CLICKS.encode()[:1000])
        with pytest.raises(InputError, match=f"{one} and {two} are the same pipe, which can be read once"):
            prepare(one, **COLUMNS, titles=two)
    with pytest.raises(InputError, match="/dev/stdin is not a file that can be read twice"):
        prepare("ml-1m", source="/dev/stdin")
    for name in ("a\x00b", "\ud800"):
        with pytest.raises(InputError, match="There is no file"):
            read_titles(name)
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(InputError, match="Standard input is closed"):
        read_titles("-")


@FIFO
def test_a_pipe_has_a_limit_and_nothing_stays(fifo, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "tmp").mkdir()
    assert len(read_interactions(fifo("a", CLICKS.encode()), "user", "item")) == CLICKS.count("\n") - 1
    monkeypatch.setattr(spool, "LIMIT", 1000)
    # A writer that is cut off has its own error; here all fits into the pipe.
    with pytest.raises(DataError, match="gives more than 1,000 bytes, which is the limit of a pipe"):
        read_interactions(fifo("b", CLICKS[:2000].encode()), "user", "item")
    monkeypatch.undo()
    assert not list((tmp_path / "tmp").iterdir())


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="the system has no /dev/zero")
def test_a_full_disk_under_a_pipe_is_a_sentence(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spool, "_copy", full)
    with pytest.raises(WorkError, match=r"could not be copied to a temporary file in .*: No space .* Set TMPDIR"):
        read_titles("/dev/zero")
