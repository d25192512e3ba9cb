"""Work in a forked process with limits: what it said, how it ended, and how much memory it took."""

import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import TextIOWrapper
from typing import Protocol

SECONDS = 20  # of one attack: more is a hang
MEMORY = 2 << 30

Work = Callable[[], int]


@dataclass(frozen=True)
class Outcome:
    """How a forked process ended: its exit status, or minus the signal that ended it."""

    status: int
    out: str
    err: str
    seconds: float
    memory: int  # peak resident bytes


class Watch(Protocol):
    """Follows a process that stops itself at its start, until it has ended."""

    def prepare(self) -> None:
        """Run in the new process before its work."""

    def follow(self, pid: int) -> int:
        """Run in the parent; return the wait status of ``pid``."""


class Forked:
    """A process that was forked and is to be waited for."""

    def __init__(self, work: Work, *, seconds: int = SECONDS, watch: Watch | None = None, gate: int | None = None):
        self.watch = watch
        self.files = [os.memfd_create(name) for name in ("out", "err")]
        self.began = time.monotonic()
        self.pid = os.fork()
        if not self.pid:
            _be_the_child(work, self.files, seconds, watch, gate)

    def outcome(self) -> Outcome:
        """Wait for the end."""
        if self.watch is not None:
            status = self.watch.follow(self.pid)
            memory = 0
        else:
            _, status, used = os.wait4(self.pid, 0)
            memory = used.ru_maxrss * 1024
        texts = []
        for file in self.files:
            os.lseek(file, 0, os.SEEK_SET)
            with os.fdopen(file, "rb") as stream:
                texts.append(stream.read().decode("utf-8", "replace"))
        return Outcome(os.waitstatus_to_exitcode(status), *texts, time.monotonic() - self.began, memory)


def forked(work: Work, *, seconds: int = SECONDS, watch: Watch | None = None) -> Outcome:
    """Run ``work``, which returns an exit status, in a forked process and return how it ended."""
    return Forked(work, seconds=seconds, watch=watch).outcome()


def _be_the_child(work: Work, files: list[int], seconds: int, watch: Watch | None, gate: int | None) -> None:
    """Run ``work`` and leave; never returns."""
    try:
        os.setpgid(0, 0)
        null = os.open(os.devnull, os.O_RDONLY)
        for place, file in enumerate([null, *files]):
            os.dup2(file, place)
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stdout, sys.stderr = (
            TextIOWrapper(open(n, "wb", closefd=False), encoding="utf-8", errors="replace", line_buffering=True)  # noqa: SIM115
            for n in (1, 2)
        )
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        if gate is not None:
            os.read(gate, 1)  # until the others are there too
        signal.alarm(seconds)
        if watch is not None:
            watch.prepare()
        status = work()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # noqa: BLE001 - it must not go on as a copy of the parent
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        status = 99
    os._exit(status)
