"""Threads: how many cores are allowed and free, what is set while a verb runs, and the warning of a slow epoch."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from threadpoolctl import threadpool_info

from recvae.cli.threads import trained_with
from recvae.training import threads
from recvae.training.threads import Moment, SlowEpochs

COMPUTING = ("train", "evaluate", "recommend", "similar", "diagnose", "blend", "benchmark", "tune", "quickstart")


@pytest.mark.parametrize("verb", COMPUTING)
def test_every_verb_that_computes_takes_a_number_of_threads(cli, verb, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert "--threads" in cli(verb, "--help").out


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "", "1025", "٣", "9" * 5000])
def test_another_word_than_a_number_or_auto_is_refused(cli, ease, text):
    answer = cli("similar", ease, "--item", "000", f"--threads={text}")
    assert answer.status == 2
    assert "--threads needs a whole number from 1 to 1,024, or auto" in answer.err
    assert threads.parse("auto") is None
    assert threads.parse("12") == 12


@pytest.mark.parametrize(
    ("available", "others", "chosen"),
    [(2, None, 2), (2, 0.0, 2), (2, 0.4, 2), (2, 0.6, 1), (2, 2.0, 1), (16, 3.2, 13), (1, 1.0, 1), (4, 9.0, 1)],
)
def test_there_are_as_many_threads_as_free_cores(available, others, chosen):
    assert threads.choose(available, others) == chosen


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system says nothing of a process's cores")
def test_the_load_is_that_of_other_programs_on_our_own_cores(tmp_path):
    ours, tick = sorted(os.sched_getaffinity(0)), os.sysconf("SC_CLK_TCK")

    def stat(busy, stranger):
        lines = ["cpu  9 9 9 9 9 9 9 9 0 0"]
        lines += [f"cpu{core} {busy} 500 0 100 100 0 0 0 0 0" for core in ours]
        lines += [f"cpu{ours[-1] + 1} {stranger} 0 0 100 100 0 0 0 0 0", "intr 5"]
        (tmp_path / "stat").write_text("\n".join(lines))
        return Moment.now(tmp_path)

    before, after = stat(0, 0), stat(2 * tick, 50 * tick)  # two seconds on each of our cores
    assert after.busy - before.busy == pytest.approx(2 * len(ours))
    before, after = Moment(10.0, 3.0, 0.0), Moment(12.0, 4.0, 4.0)  # of four seconds one was our own
    assert before.others(after) == 1.5
    assert Moment(10.0, 3.0, 0.0).others(Moment(12.0, 8.0, 4.0)) == 0.0


@pytest.mark.parametrize("content", [None, "", "cpu 1 2 3", "cpu0 a b c d e f g h", "cpu0 1 2"])
def test_a_system_that_does_not_say_how_busy_it_is_counts_as_free(tmp_path, content):
    if content is not None:
        (tmp_path / "stat").write_text(content)
    moment = Moment.now(tmp_path)
    assert moment.busy is None
    assert moment.others(Moment.now()) is None
    assert threads.choose(4, None) == 4


@pytest.mark.parametrize(
    ("files", "allowed"),
    [
        ({}, 8),
        ({"proc/self/cgroup": "0::/a/b\n"}, 8),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, 8),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "250000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/../x\n", "sys/fs/cgroup/cpu.max": "300000 100000\n"}, 3),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "9900000 100000\n"}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "nonsense\n"}, 8),
        (
            {
                "proc/self/cgroup": "4:memory:/d\n3:cpu,cpuacct:/d\n",
                "sys/fs/cgroup/cpu,cpuacct/d/cpu.cfs_quota_us": "400000\n",
                "sys/fs/cgroup/cpu,cpuacct/d/cpu.cfs_period_us": "100000\n",
            },
            4,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu:/docker/d\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            8,
        ),
    ],
)
def test_a_quota_of_the_control_group_or_of_those_around_it_limits_the_cores(tmp_path, monkeypatch, files, allowed):
    monkeypatch.setattr(threads, "_affinity", lambda: set(range(8)))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert threads.cores(tmp_path) == allowed


def test_a_number_holds_for_torch_and_blas_and_only_as_long_as_the_verb_runs(cli, dataset, tmp_path, monkeypatch):
    seen = []

    def fit(self, matrix, original):
        import scipy.linalg  # noqa: F401 - a BLAS of its own

        seen.append(
            (torch.get_num_threads(), *(b["num_threads"] for b in threadpool_info() if b["user_api"] == "blas"))
        )
        return original(self, matrix)

    from recvae import EASE

    original = EASE.learn
    monkeypatch.setattr(EASE, "learn", lambda self, matrix: fit(self, matrix, original))
    before = torch.get_num_threads()
    blas = [b["num_threads"] for b in threadpool_info()]
    for number in (3, 1):
        out = tmp_path / f"run{number}"
        answer = cli("train", dataset, "--model", "ease", "--out", out, "--threads", number, "--json")
        assert answer.json["threads"] == number
        assert set(seen.pop()) == {number}
        assert torch.get_num_threads() == before
        assert [b["num_threads"] for b in threadpool_info()] == blas
    said = cli("train", dataset, "--model", "ease", "--out", tmp_path / "said", "--threads", 2).out
    assert "device cpu, 2 threads" in said


PROGRAM = """
import os, sys
sys.modules.pop("torch", None)
from recvae.training import threads
from recvae.cli.threads import use_threads
threads.Moment.others = lambda self, later: float(sys.argv[1])
threads.cores = lambda: 2
print(use_threads(sys.argv[2]), os.environ.get("GOMP_SPINCOUNT"))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("others", "asked", "environment", "said"),
    [
        ("1.9", "auto", {}, "1 1000"),
        ("1.9", "2", {}, "2 1000"),
        ("1.9", "1", {}, "1 None"),
        ("0.05", "auto", {}, f"{min(2, torch.multiprocessing.cpu_count())} None"),
        ("1.9", "2", {"OMP_WAIT_POLICY": "active"}, "2 None"),
        ("1.9", "2", {"GOMP_SPINCOUNT": "77"}, "2 77"),
        ("1.9", "auto", {"OMP_NUM_THREADS": "2"}, "2 1000"),
    ],
)
def test_where_others_use_the_cores_there_are_fewer_threads_and_they_do_not_spin(others, asked, environment, said):
    """Before torch is loaded; what the user has set stays."""
    mine = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, others, asked],
        capture_output=True, text=True, timeout=120, check=False, env=mine | environment,
    )  # fmt: skip
    if not Path("/proc/stat").exists():
        pytest.skip("the system does not say how busy it is")
    assert done.stdout.strip() == said, done.stderr


def resume_state(run: Path, header: str | None) -> Path:
    (run / "resume").mkdir(parents=True)
    metadata = {} if header is None else {"recvae": header}
    save_file({"x": np.zeros(1, np.float32)}, run / "resume" / "state.safetensors", metadata=metadata)
    return run


def test_a_resumed_run_goes_on_with_the_threads_that_it_was_begun_with(cli, dataset, tmp_path, small):
    def state(threads):
        return json.dumps({"facts": {"values": {"arithmetic": {"threads": threads}}}})

    assert trained_with(resume_state(tmp_path / "three", state(3))) == 3
    for place, header in enumerate([None, "{}", "[1]", "{", state("3"), state(True), state(0), state(10**9), "[" * 99]):
        assert trained_with(resume_state(tmp_path / str(place), header)) is None
    assert trained_with(tmp_path / "nowhere") is None


class Clock:
    """Moments as a machine would give them, one a call."""

    def __init__(self, monkeypatch, *moments):
        moments = iter(moments)
        monkeypatch.setattr(Moment, "now", classmethod(lambda cls: next(moments)))
        monkeypatch.setattr(threads, "cores", lambda: 2)


def row(epoch, seconds):
    return {"epoch": epoch, "seconds": float(seconds)}


def test_an_epoch_that_others_slow_down_is_said_once(monkeypatch):
    quiet, crowded = (10, 18, 18), (50, 58, 98)
    Clock(monkeypatch, Moment(0, 0, 0), Moment(*quiet), Moment(*crowded), Moment(90, 98, 178))
    watch = SlowEpochs(2)
    assert watch.sentence(row(1, 10)) is None
    assert watch.sentence(row(2, 40)) == (
        "Epoch 2 took 4.0 times as long as the quickest before it. Other programs use 1.0 of the 2 cores, and threads "
        "that wait for one another lose by it: try --threads 1."
    )
    assert watch.sentence(row(3, 40)) is None


def test_the_first_epoch_may_be_slow_already_and_one_thread_waits_for_nobody(monkeypatch):
    Clock(monkeypatch, Moment(0, 0, 0), Moment(10, 10, 30))
    assert SlowEpochs(2).sentence(row(1, 10)).startswith("Other programs use 2.0 of the 2 cores, and threads")
    Clock(monkeypatch, Moment(0, 0, 0), Moment(10, 10, 30))
    assert SlowEpochs(1).sentence(row(1, 10)) is None


def test_a_long_epoch_of_our_own_is_nobodys_fault(monkeypatch):
    Clock(monkeypatch, Moment(0, 0, 0), Moment(10, 18, 18), Moment(50, 98, 99))
    watch = SlowEpochs(2)
    assert watch.sentence(row(1, 10)) is None
    assert watch.sentence(row(2, 40)) is None


def test_where_the_system_does_not_say_an_epoch_that_waits_is_noticed(monkeypatch):
    Clock(monkeypatch, Moment(0, 0, None), Moment(10, 18, None), Moment(50, 50, None))
    watch = SlowEpochs(2)
    assert watch.sentence(row(1, 10)) is None
    assert "Other programs seem to use the cores" in watch.sentence(row(2, 40))


def test_the_warning_reaches_the_terminal(cli, dataset, tmp_path, small, monkeypatch):
    monkeypatch.setattr(SlowEpochs, "sentence", lambda self, row: "Too slow." if row["epoch"] == 1 else None)
    out = tmp_path / "run"
    answer = cli("train", dataset, "--model", "recvae", *small, "--set", "train.epochs=2", "--out", out, "--quiet")
    assert answer.err == "Warning: Too slow.\n"


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="the system does not say how busy it is")
def test_a_busy_loop_beside_us_is_seen():
    loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        before = Moment.now()
        time.sleep(1.0)
        assert before.others(Moment.now()) > 0.2  # half of one of two cores at the least, less what others take
    finally:
        loop.kill()
        loop.wait(timeout=10)
