"""One thread that ranks: it takes all the questions that wait, up to a limit, and asks the model for them together.

While the thread ranks, questions gather; an idle thread takes a question at once, so that an idle service adds no wait.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Protocol

from recvae.errors import RecvaeError
from recvae.serving.answers import Listing, Question, answered
from recvae.serving.problems import Refusal

RETRY_AFTER = 1  # seconds: a full queue is empty again after that


class Observer(Protocol):
    """The figures of ranking are reported to such an object, from the ranking thread."""

    def ranked(self, batch: int, waited: Sequence[float], seconds: float) -> None:
        """Note a batch of questions, how long each had waited, and how long ranking took."""

    def failed(self, error: BaseException) -> None:
        """Note an error that is a bug or the machine's."""


@dataclass(slots=True, eq=False)
class _Job:
    question: Question
    future: "asyncio.Future[Listing]"
    since: float = field(default_factory=time.perf_counter)


class Ranker:
    """The ranking thread and its bounded queue. All methods are for the thread of the event loop ``loop``."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, observer: Observer, *, most_waiting: int, rows_at_once: int
    ) -> None:
        self._loop, self._observer = loop, observer
        self._most_waiting, self._rows_at_once = most_waiting, rows_at_once
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._held: _Job | None = None  # taken from the queue, and too large for the batch it came with
        self.waiting = 0  # questions that wait or are being ranked
        self._thread = Thread(target=self._run, name="ranking", daemon=True)
        self._thread.start()

    def submit(self, questions: Sequence[Question]) -> "list[asyncio.Future[Listing]]":
        """Hand over questions, and return a future for each, whose exception may be a :class:`Refusal`.

        Raises :class:`Refusal` 503 where the queue has no room for all of them.
        """
        if self.waiting + len(questions) > self._most_waiting:
            raise Refusal(
                503,
                f"{self.waiting:,} questions wait already. Ask again in a moment.",
                headers={"Retry-After": str(RETRY_AFTER)},
            )
        self.waiting += len(questions)
        jobs = [_Job(question, self._loop.create_future()) for question in questions]
        for job in jobs:
            self._queue.put(job)
        return [job.future for job in jobs]

    def close(self, timeout: float | None = None) -> None:
        """Rank what waits, and end the thread."""
        self._queue.put(None)
        self._thread.join(timeout)

    # --- in the ranking thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        while jobs := self._take():
            for group in _groups(jobs):
                self._rank(group)
            del jobs, group  # or a replaced model would be kept until the next question comes

    def _take(self) -> list[_Job]:
        """Wait for a job, and return it with all that wait too, up to so many rows; an empty list at the end."""
        job, self._held = self._held or self._queue.get(), None
        jobs: list[_Job] = []
        rows = 0
        while job is not None:
            rows += job.question.rows
            if jobs and rows > self._rows_at_once:
                self._held = job
                return jobs
            jobs.append(job)
            try:
                job = self._queue.get_nowait()
            except Empty:
                return jobs
        if jobs:
            self._queue.put(None)  # the end, for the next call
        return jobs

    def _rank(self, jobs: Sequence[_Job]) -> None:
        """Answer jobs of one group; where that fails, each alone, so that a question's mistake is its own."""
        began = time.perf_counter()
        results: Sequence[Listing | Exception]
        try:
            results = answered([job.question for job in jobs])
        except Exception as error:  # noqa: BLE001 - the thread must live on, and the request gets the error
            if len(jobs) > 1:
                for job in jobs:
                    self._rank([job])
                return
            results = [self._refusal(error)]
        ended = time.perf_counter()
        self._observer.ranked(len(jobs), [began - job.since for job in jobs], ended - began)
        futures = [job.future for job in jobs]
        self._loop.call_soon_threadsafe(self._settle, futures, results)

    def _refusal(self, error: Exception) -> Refusal:
        if isinstance(error, RecvaeError) and error.exit_code == 2:
            return Refusal(422, str(error))
        self._observer.failed(error)
        return Refusal(500, str(error) if isinstance(error, RecvaeError) else "This request failed; see the log.")

    # --- in the event loop again --------------------------------------------------------------------------------

    def _settle(self, futures: "Sequence[asyncio.Future[Listing]]", results: Sequence[Listing | Exception]) -> None:
        self.waiting -= len(futures)
        for future, result in zip(futures, results, strict=True):
            if future.done():  # its request was cancelled
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)


def _groups(jobs: Iterable[_Job]) -> list[list[_Job]]:
    """Return jobs by the Query that they can share, those with the fewest rows a question first."""
    groups: dict[tuple[object, ...], list[_Job]] = {}
    for job in jobs:
        groups.setdefault(job.question.group(), []).append(job)
    return sorted(groups.values(), key=lambda group: max(job.question.rows for job in group))
