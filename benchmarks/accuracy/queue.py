"""Jobs, each in a process of its own with one thread: phase after phase, the longest first.

A job that fails is reported and the others go on; one that needs its files fails too, with a sentence that says so.
"""

import multiprocessing
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field

from recvae.experiments.jobs import Failure, Send, in_a_process

Tell = Callable[[str], None]


class Job(ABC):
    """A piece of work that can be pickled; its phase begins where all lower ones have ended."""

    name: str
    phase: int
    cost: float  # a guess at how long it takes beside others

    @abstractmethod
    def done(self) -> bool: ...  # whether its files are there already; quick, and asked in the calling process

    @abstractmethod
    def do(self, tell: Tell) -> None: ...


@dataclass
class Outcome:
    """Names of the jobs that did something and of those that had been done before; a sentence for each that failed."""

    worked: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def run_jobs(jobs: Sequence[Job], *, workers: int, tell: Tell) -> Outcome:
    """Do all jobs, ``workers`` at a time, or here where that is 0; Ctrl-C ends all of them at once."""
    outcome = Outcome()
    with ThreadPoolExecutor(max(1, workers)) as threads:
        try:
            for phase in sorted({job.phase for job in jobs}):
                ready = sorted((job for job in jobs if job.phase == phase), key=lambda job: -job.cost)
                answers = {threads.submit(_do, job, workers, tell): job.name for job in ready}
                for future in as_completed(answers):
                    name, answer = answers[future], future.result()
                    if isinstance(answer, Failure):
                        outcome.failed[name] = answer.sentence
                        tell(f"{name} FAILED: {answer.sentence}\n{answer.traceback}".rstrip())
                    elif answer is None:
                        outcome.kept.append(name)
                    else:
                        outcome.worked.append(name)
                        tell(f"{name} done in {answer:.1f} s")
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():  # those of the running jobs: nothing else is started here
                child.kill()
            raise
    return outcome


def _do(job: Job, workers: int, tell: Tell) -> Failure | float | None:
    """Return the seconds that a job took, None where it was done before, or why it failed."""
    began = time.perf_counter()
    try:
        if job.done():
            return None
        if workers:
            return in_a_process(_work, {"line": tell}, job) or time.perf_counter() - began
        job.do(lambda line: tell(f"{job.name}: {line}"))
    except Exception as error:  # noqa: BLE001 - one job's failure must not lose the others' work
        return Failure.of(error)
    return time.perf_counter() - began


def _work(send: Send, job: Job) -> None:
    import torch

    torch.set_num_threads(1)
    job.do(lambda line: send("line", f"{job.name}: {line}"))
