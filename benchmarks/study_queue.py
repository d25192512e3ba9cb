"""Jobs for processes of one thread each: what is ready goes first by phase, then the longest.

A job that fails is reported, those that need it are left out, and the others go on. The processes end with the one that
started them, however it ended, so that nothing writes behind the back of the next call.
"""

import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from recvae.bench import interrupts_stay_here

Tell = Callable[[str], None]
Work = Callable[["Job", Tell], bool]  # importable, since a process is told its name; returns whether there was any

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "IRSPACK_NUM_THREADS_DEFAULT")


@dataclass(frozen=True)
class Job:
    """What is to be done: ``kind`` and ``arguments`` are the work's own; ``needs`` names jobs that come before."""

    name: str
    kind: str
    arguments: tuple[Any, ...]
    phase: int = 0  # lower ones go first
    cost: float = 1.0  # a guess at how long it takes beside others
    needs: tuple[str, ...] = ()


@dataclass
class Outcome:
    """Names of the jobs that did something and of those that had been done before; a sentence for each that failed."""

    worked: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def run_jobs(jobs: Sequence[Job], work: Work, *, workers: int, tell: Tell) -> Outcome:
    """Do all jobs in ``workers`` processes, or here where that is 0; Ctrl-C ends them at once and goes on."""
    queue = _Queue(jobs, tell)
    if workers == 0:
        while (job := queue.next()) is not None:
            queue.settle(job, _answer(job, work, tell))
        return queue.outcome
    idle = [_Worker(work) for _ in range(min(workers, len(jobs)))]
    busy: dict[Connection, tuple[_Worker, Job]] = {}
    try:
        while True:
            while idle and (job := queue.next()) is not None:
                worker = idle.pop()
                worker.connection.send(job)
                busy[worker.connection] = (worker, job)
            if not busy:
                return queue.outcome
            for connection in wait(list(busy)):
                worker, job = busy[connection]
                try:
                    answer = connection.recv()
                except (EOFError, ConnectionResetError):
                    answer = ("failed", worker.death(), "")
                    worker.end()
                    worker = _Worker(work)
                if answer[0] == "line":
                    tell(answer[1])
                    continue
                del busy[connection]
                idle.append(worker)
                queue.settle(job, answer)
    finally:
        for worker, _ in busy.values():
            worker.end()
        for worker in idle:
            worker.dismiss()


class _Queue:
    """The jobs that are left, and what became of the others."""

    def __init__(self, jobs: Sequence[Job], tell: Tell) -> None:
        self.left = sorted(jobs, key=lambda job: (job.phase, -job.cost))
        self.outcome, self.tell = Outcome(), tell

    def next(self) -> Job | None:
        """Take the first job that is ready; None where none is for now."""
        failed = self.outcome.failed
        while lost := [job for job in self.left if any(need in failed for need in job.needs)]:
            for job in lost:
                self.left.remove(job)
                need = next(need for need in job.needs if need in failed)
                failed[job.name] = f"It needs {need}, which failed."
                self.tell(f"{job.name} left out: {failed[job.name]}")
        done = {*self.outcome.worked, *self.outcome.kept}
        for job in self.left:
            if done.issuperset(job.needs):
                self.left.remove(job)
                return job
        return None

    def settle(self, job: Job, answer: tuple[Any, ...]) -> None:
        """Note what became of a job, and say so."""
        if answer[0] == "failed":
            self.outcome.failed[job.name] = answer[1]
            self.tell(f"{job.name} FAILED: {answer[1]}" + (f"\n{answer[2]}" if answer[2] else ""))
        elif answer[1]:
            self.outcome.worked.append(job.name)
            self.tell(f"{job.name} done in {answer[2]:.1f} s")
        else:
            self.outcome.kept.append(job.name)


class _Worker:
    """A process that does one job after another."""

    def __init__(self, work: Work) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would share memory and threads
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, work), daemon=True)
        with _one_thread(), interrupts_stay_here():
            self.process.start()
        theirs.close()

    def death(self) -> str:
        self.process.join()
        return f"Its process ended with status {self.process.exitcode} and without a result."

    def dismiss(self) -> None:
        """Let it end by itself, which it does when nothing more can come; it has nothing to do."""
        self.connection.close()
        self.process.join(timeout=10)
        self.end()

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(connection: Connection, work: Work) -> None:
    """Do jobs as they come, until the other end is closed."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(1)
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        connection.send(_answer(job, work, lambda line: connection.send(("line", line))))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _answer(job: Job, work: Work, tell: Tell) -> tuple[Any, ...]:
    """Do one job: ("done", whether there was anything to do, seconds) or ("failed", sentence, traceback)."""
    from recvae.errors import RecvaeError

    began = time.perf_counter()
    try:
        worked = work(job, tell)
    except RecvaeError as error:
        return "failed", str(error), ""
    except Exception as error:  # noqa: BLE001 - one job's failure must not lose the others' work
        return "failed", f"{type(error).__name__}: {error}", traceback.format_exc()
    return "done", worked, time.perf_counter() - began


@contextmanager
def _one_thread() -> Iterator[None]:
    """Give processes started meanwhile an environment in which numeric libraries take one thread."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
