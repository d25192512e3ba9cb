"""Jobs, each in a process of its own with one thread: of the ready ones those of the lowest phase, then the longest.

A job that fails is reported, those that need it are left out, and the others go on.
"""

import multiprocessing
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Protocol

from recvae.errors import RecvaeError
from recvae.jobs import Failure, Send, in_a_process

Tell = Callable[[str], None]


class Job(Protocol):
    """A piece of work that can be pickled."""

    @property
    def name(self) -> str: ...
    @property
    def phase(self) -> int: ...  # lower ones go first
    @property
    def cost(self) -> float: ...  # a guess at how long it takes beside others
    @property
    def needs(self) -> tuple[str, ...]: ...  # names of jobs that come before
    def done(self) -> bool: ...  # whether its files are there already; quick, and asked in the calling process
    def do(self, tell: Tell) -> None: ...


@dataclass
class Outcome:
    """Names of the jobs that did something and of those that had been done before; a sentence for each that failed."""

    worked: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def run_jobs(jobs: Sequence[Job], *, workers: int, tell: Tell) -> Outcome:
    """Do all jobs, ``workers`` at a time, or here where that is 0; Ctrl-C ends all of them at once."""
    left: list[Job] = sorted(jobs, key=lambda job: (job.phase, -job.cost))
    outcome = Outcome()
    running: dict[Future[Failure | float | None], Job] = {}
    with ThreadPoolExecutor(max(1, workers)) as threads:
        try:
            while True:
                while len(running) < max(1, workers) and (job := _next(left, outcome, tell)) is not None:
                    running[threads.submit(_do, job, workers, tell)] = job
                if not running:
                    return outcome
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    _settle(running.pop(future), future.result(), outcome, tell)
        except BaseException:
            for child in multiprocessing.active_children():  # those of the running jobs: nothing else is started here
                child.kill()
            raise


def _next(left: list[Job], outcome: Outcome, tell: Tell) -> Job | None:
    """Take the first job that is ready; None where none is for now."""
    while lost := [(job, need) for job in left for need in job.needs if need in outcome.failed]:
        job, need = lost[0]
        left.remove(job)
        outcome.failed[job.name] = f"It needs {need}, which failed."
        tell(f"{job.name} left out: {outcome.failed[job.name]}")
    done = {*outcome.worked, *outcome.kept}
    for job in left:
        if done.issuperset(job.needs):
            left.remove(job)
            return job
    return None


def _do(job: Job, workers: int, tell: Tell) -> Failure | float | None:
    """Return the seconds that a job took, None where it was done before, or why it failed."""
    began = time.perf_counter()
    try:
        if job.done():
            return None
        if workers:
            return in_a_process(_work, {"line": tell}, job) or time.perf_counter() - began
        job.do(lambda line: tell(f"{job.name}: {line}"))
    except RecvaeError as error:
        return Failure(str(error))
    except Exception as error:  # noqa: BLE001 - one job's failure must not lose the others' work
        return Failure(f"{type(error).__name__}: {error}", traceback.format_exc())
    return time.perf_counter() - began


def _work(send: Send, job: Job) -> None:
    import torch

    torch.set_num_threads(1)
    job.do(lambda line: send("line", f"{job.name}: {line}"))


def _settle(job: Job, answer: Failure | float | None, outcome: Outcome, tell: Tell) -> None:
    """Note what became of a job, and say so."""
    if isinstance(answer, Failure):
        outcome.failed[job.name] = answer.sentence
        tell(f"{job.name} FAILED: {answer.sentence}\n{answer.traceback}".rstrip())
    elif answer is None:
        outcome.kept.append(job.name)
    else:
        outcome.worked.append(job.name)
        tell(f"{job.name} done in {answer:.1f} s")
