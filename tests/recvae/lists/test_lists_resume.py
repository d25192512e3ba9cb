"""Lists that were stopped go on to the same bytes, and what is there is replaced only when it is asked for."""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import checkerboard
from disks import disk_of, resource, snapshot

import recvae
from recvae.cli import main
from recvae.errors import FormatError, InputError, WorkError
from recvae.files import swap
from recvae.serving.lists import walk
from recvae.serving.lists.batch import Lister
from recvae.serving.lists.ledger import LEDGER

BOARD = checkerboard(users=80)
PARTS = 4
HOW = {"k": 5, "version": "1"}


@pytest.fixture(scope="module")
def model():
    return recvae.EASE().fit(BOARD)


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for part in range(PARTS):
        coo = BOARD[part * 20 : part * 20 + 20].tocoo()
        pq.write_table(pa.table({"user": coo.row + part * 20, "item": coo.col}), folder / f"part-{part}.parquet")
    return folder


@pytest.fixture
def whole(model, source, tmp_path):
    """The bytes of an uninterrupted run."""
    recvae.write_lists(model, source, tmp_path / "whole", **HOW)
    return snapshot(tmp_path / "whole")


class Stop(BaseException):
    """The end of a process: nothing tidies up after it but what also does after a signal."""


def stopped(monkeypatch, at, call, *, error=Stop):
    """Make a call whose ``at``-th batch of lists, or folder exchange, is its last."""
    count = [0]
    made, put = Lister.coded_lists, swap.put

    def counted(real, *arguments):
        count[0] += 1
        if count[0] == at:
            raise error
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Lister, "coded_lists", lambda *a: counted(made, *a))
        patch.setattr(walk, "put", lambda *a: counted(put, *a))
        with pytest.raises(error):
            call()


@pytest.mark.parametrize(
    "at", [2, 3, 4, 5, 6]
)  # the first batch is asked before any file is read, the last is the exchange
def test_stopped_and_resumed(model, source, whole, tmp_path, monkeypatch, at):
    out = tmp_path / "out"
    stopped(monkeypatch, at, lambda: recvae.write_lists(model, source, out, **HOW))
    assert not out.exists()
    begun = swap.next_of(out)
    assert begun.exists() == (at > 2)  # nothing is kept where no part is finished
    if at > 2:
        assert len([*begun.glob("part-*")]) == at - 2
        assert not [*begun.glob(".*")]
        with pytest.raises(InputError, match=r"were begun and not finished. Go on with resume=True"):
            recvae.write_lists(model, source, out, **HOW)
        with pytest.raises(InputError, match=r"was begun with k 5, and 6 is asked for now"):
            recvae.write_lists(model, source, out, **{**HOW, "k": 6}, resume=True)
    written = recvae.write_lists(model, source, out, **HOW, resume=True)
    assert (written.parts, written.kept, written.counts.users) == (PARTS, at - 2, 80)
    assert snapshot(out) == whole
    assert not begun.exists()
    assert recvae.write_lists(model, source, out, **HOW, resume=True).kept == PARTS


def test_what_changed_meanwhile_is_made_again(model, source, whole, tmp_path, monkeypatch):
    out = tmp_path / "out"
    stopped(monkeypatch, 5, lambda: recvae.write_lists(model, source, out, **HOW))
    begun = swap.next_of(out)
    lists = begun / "part-0.parquet"
    lists.write_bytes(lists.read_bytes()[:-1] + b"x")  # altered
    for left in (".part-3.parquet.abcdefgh.part", "._sorted.lock", "part-9.parquet"):
        (begun / left).write_text("a killed writer's")
    part = source / "part-1.parquet"
    table = pq.read_table(part)
    pq.write_table(table.slice(0, 50), part)
    written = recvae.write_lists(model, source, out, **HOW, resume=True)
    assert written.kept == 1
    recvae.write_lists(model, source, tmp_path / "anew", **HOW)
    assert snapshot(out) == snapshot(tmp_path / "anew") != whole
    pq.write_table(table, part)
    with pytest.raises(InputError, match="made from other histories"):
        recvae.write_lists(model, source, out, **HOW, resume=True)
    assert recvae.write_lists(model, source, out, **HOW, resume=True, overwrite=True).kept == 0
    assert snapshot(out) == whole


def test_earlier_lists_stay_until_the_new_ones_are_finished(model, source, whole, tmp_path, monkeypatch):
    out = tmp_path / "out"
    recvae.write_lists(model, source, out, **{**HOW, "k": 3})
    before = snapshot(out)
    for at in (4, 6):
        stopped(monkeypatch, at, lambda: recvae.write_lists(model, source, out, **HOW, overwrite=True))
        assert snapshot(out) == before
    assert recvae.write_lists(model, source, out, **HOW, resume=True).kept == PARTS
    assert snapshot(out) == whole
    with pytest.raises(InputError, match="exists already"):
        recvae.write_lists(model, source, out, **HOW)
    (out / LEDGER).write_text("{}")
    with pytest.raises(FormatError, match=r"_lists.json was altered"):
        recvae.write_lists(model, source, out, **HOW, resume=True)
    recvae.write_lists(model, source, out, **HOW, overwrite=True)
    assert snapshot(out) == whole


def test_sorted_rows_are_kept_too(model, source, tmp_path, monkeypatch):
    pytest.importorskip("duckdb")
    recvae.write_lists(model, source, tmp_path / "whole", **HOW, sort=True)
    out = tmp_path / "out"
    stopped(monkeypatch, 2, lambda: recvae.write_lists(model, source, out, **HOW, sort=True))
    assert (swap.next_of(out) / walk.SORTED).is_dir()
    with monkeypatch.context() as patch:
        patch.setattr(walk.ordered, "sort", None)  # not called again
        recvae.write_lists(model, source, out, **HOW, sort=True, resume=True)
    assert snapshot(out) == snapshot(tmp_path / "whole")


@pytest.mark.skipif(resource is None, reason="the system has no limit for the size of a file")
def test_a_full_disk(model, source, whole, tmp_path):
    out = tmp_path / "out"
    largest = source / "part-2.parquet"
    table = pq.read_table(largest)
    pq.write_table(repeated(table, 60), largest)
    full = r"Cannot write .*out/part-2.parquet: File too large. Free some space"
    with disk_of(6_000), pytest.raises(WorkError, match=full):
        recvae.write_lists(model, source, out, **HOW)
    begun = swap.next_of(out)
    assert sorted(path.name for path in begun.iterdir()) == [LEDGER, "part-0.parquet", "part-1.parquet"]
    pq.write_table(table, largest)
    assert recvae.write_lists(model, source, out, **HOW, resume=True).kept == 2
    assert {name: digest for name, digest in snapshot(out).items() if name != LEDGER} == {
        name: digest for name, digest in whole.items() if name != LEDGER
    }


def test_a_part_that_changes_while_it_is_read(model, source, tmp_path, monkeypatch):
    made = Lister.coded_lists
    part = source / "part-0.parquet"

    def changing(*arguments):
        with part.open("ab") as file:
            file.write(b"more")
        return made(*arguments)

    monkeypatch.setattr(Lister, "coded_lists", changing)
    with pytest.raises(InputError, match=r"part-0.parquet (changed while it was read|is a truncated)"):
        recvae.write_lists(model, source, tmp_path / "out", **HOW)
    assert {path.name for path in tmp_path.iterdir()} == {"in"}


def repeated(table, times, first=0):
    """The rows of a table again and again, each time of other users."""
    users = np.array(table["user"]) + first
    return pa.concat_tables([table.set_column(0, "user", pa.array(users + 10_000 * n)) for n in range(times)])


def command(run, source, out):
    words = ["recommend", run, "--histories", source, "--out", out, "-k", 5, "--threads", 1, "--resume", "--quiet"]
    return [str(word) for word in words]


@pytest.fixture
def run(model, tmp_path):
    model.save(tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_ten_kills(run, source, tmp_path):
    table = pq.read_table(source / "part-0.parquet")
    for part in range(4, 40):  # enough that most kills come while parts are written
        pq.write_table(repeated(table, 200, first=100 * part), source / f"part-{part}.parquet")
    start = time.monotonic()
    assert main(command(run, source, tmp_path / "whole")) == 0
    seconds = time.monotonic() - start
    expected = snapshot(tmp_path / "whole")
    draw, kills, out = np.random.default_rng(), 0, tmp_path / "out"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    while kills < 10:
        with subprocess.Popen([sys.executable, "-m", "recvae", *command(run, source, out)], env=environment) as process:
            begun, end = swap.next_of(out), time.monotonic() + 60
            while not begun.exists() and process.poll() is None and time.monotonic() < end:
                time.sleep(0.01)
            time.sleep(draw.uniform(0, seconds / 3))
            process.kill()
        kills += process.returncode == -signal.SIGKILL
        if process.returncode == 0:
            assert snapshot(out) == expected
            shutil.rmtree(out)
    assert main(command(run, source, out)) == 0
    assert snapshot(out) == expected
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")) == [
        "in",
        "out",
        "run",
        "whole",
    ]
