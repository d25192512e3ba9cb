"""How many threads a computation gets, and whether other programs keep the cores busy.

Threads of OpenMP wait for one another by spinning. That is quickest while each has a core of its own; where another
program holds one of the cores, all spin until it is given back, and two threads take many times as long as one. So
:func:`choose` takes no more threads than there are cores that are free now, and :func:`spin_briefly` makes them sleep
sooner where other programs use some cores.

The load is read from /proc/stat at two moments some tenths of a second apart: how busy the cores are at present.
The load average and /proc/pressure look back over ten seconds and more, and would count the program that ended just
before this one. On a system without /proc/stat (macOS, Windows) all cores count as free. Nothing here prints, and torch
is not imported until :func:`limited` is entered.
"""

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from recvae.errors import InputError

MOST = 1024  # more threads than any machine has use for
SAMPLE_SECONDS = 0.2  # seconds between two readings of the load: twenty of the kernel's ticks
NEGLIGIBLE = 0.2  # cores that an idle desktop keeps busy
SLOW = 2.0  # an epoch is slow from so many times the quickest one's length on

SPINS = "1000"  # turns before a waiting thread sleeps; libgomp's own number is 300,000
_SPIN_VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
_LATER_BLAS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # a BLAS library reads them when it is loaded
_LATER_TORCH = "OMP_NUM_THREADS"


@dataclass(frozen=True)
class Moment:
    """Clocks at one moment, in seconds: of the wall, of this process, and of all programs on its cores."""

    wall: float
    own: float  # seconds of this process on any core
    busy: float | None  # seconds of all programs together; None where unknown

    @classmethod
    def now(cls, proc: Path = Path("/proc")) -> "Moment":
        """Read the clocks."""
        return cls(time.monotonic(), time.process_time(), _busy_seconds(proc / "stat"))

    def others(self, later: "Moment") -> float | None:
        """Return how many cores other programs kept busy, on average, between two moments; None where unknown."""
        if self.busy is None or later.busy is None or later.wall <= self.wall:
            return None
        return max(0.0, (later.busy - self.busy - (later.own - self.own)) / (later.wall - self.wall))


def _busy_seconds(stat: Path) -> float | None:
    """Return the busy seconds, since the system started, of the cores that this process may use."""
    mine = _affinity()
    try:
        lines = [line.split() for line in stat.read_text(encoding="ascii").splitlines() if line.startswith("cpu")]
        ticks = [
            # Programs of low priority give way to this process, unless it has a low priority too.
            int(user) + (int(nice) if _is_nice() else 0) + int(system) + int(irq) + int(softirq) + int(steal)
            for name, user, nice, system, _, _, irq, softirq, steal, *_ in lines
            if name != "cpu" and (mine is None or int(name.removeprefix("cpu")) in mine)
        ]
        return sum(ticks) / os.sysconf("SC_CLK_TCK") if ticks else None
    except (OSError, ValueError):  # no such file, or an older system's with fewer columns
        return None


def _is_nice() -> bool:
    return os.getpriority(os.PRIO_PROCESS, 0) > 0 if sys.platform != "win32" else False


def _affinity() -> set[int] | None:
    """Return the cores that this process may run on; None where the system does not say."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None


def cores(root: Path = Path("/")) -> int:
    """Return how many cores this process may keep busy: the cores it may run on, or fewer where a quota limits it.

    A fraction of a core does not count: the thread on it would keep the others waiting.
    """
    mine = _affinity()
    count = len(mine) if mine is not None else os.cpu_count() or 1
    quota = _quota(root)
    return count if quota is None else max(1, min(count, int(quota)))


def _quota(root: Path) -> float | None:
    """Return the cores that the control groups of this process allow, None where they set no limit.

    Version 2 keeps "QUOTA PERIOD" in cpu.max, version 1 a number each in cpu.cfs_quota_us and cpu.cfs_period_us. A
    group has the limits of those around it too. In a container the group's own path may not be there: its limits are
    at the top.
    """
    try:
        memberships = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    limits = []
    for line in memberships:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        tops = ("sys/fs/cgroup",) if not controllers else ("sys/fs/cgroup/cpu", f"sys/fs/cgroup/{controllers}")
        for top in tops:
            groups = Path(path.lstrip("/"))
            for group in (groups, *groups.parents):
                limits += _limit(root / top / group)
    return min(limits, default=None)


def _limit(group: Path) -> list[float]:
    """Return the limit of one control group, as a list that is empty where there is none."""
    try:
        if (group / "cpu.max").is_file():
            quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period"))
        return [int(quota) / int(period)] if int(quota) > 0 else []
    except (OSError, ValueError, ZeroDivisionError):  # no such file; "max", which is no limit
        return []


def parse(text: str) -> int | None:
    """Return the number that ``--threads`` names, None for ``auto``; raise :class:`InputError` for anything else."""
    if text == "auto":
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 4 or not 1 <= int(text) <= MOST:
        raise InputError(f"--threads needs a whole number from 1 to {MOST:,}, or auto; got '{text}'.")
    return int(text)


def choose(available: int, others: float | None) -> int:
    """Return how many threads there should be beside programs that keep ``others`` of ``available`` cores busy.

    A core that others use for less than half of the time counts as free. There is always one thread.
    """
    free = available - (others or 0.0)
    return max(1, min(available, int(free + 0.5)))


def spin_briefly(environment: "os._Environ[str]") -> None:
    """Let OpenMP's threads sleep after a short wait; it counts where torch is not loaded yet.

    Not for free cores: there, each wait that ends in sleep costs a step a few per cent. Variables that the user has set
    are kept.
    """
    if not any(name in environment for name in _SPIN_VARIABLES):
        environment[_SPIN_VARIABLES[0]] = SPINS


@contextmanager
def limited(number: int, *, torch: bool = True) -> Iterator[None]:
    """Give torch and BLAS, also a library that is loaded only later, this number of threads within the context.

    Without ``torch`` it is not imported; it has this number where it is imported later.
    """
    from threadpoolctl import threadpool_limits

    variables = _LATER_BLAS if torch else (*_LATER_BLAS, _LATER_TORCH)
    with ExitStack() as stack:
        if torch:
            stack.enter_context(_torch_limited(number))  # first: where it is loaded here, it has its own default before
        stack.callback(_put_back, {name: os.environ.get(name) for name in variables})
        os.environ.update(dict.fromkeys(variables, str(number)))
        stack.enter_context(threadpool_limits(number, "blas"))
        yield


@contextmanager
def _torch_limited(number: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    if number != before:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        if number != before:
            torch.set_num_threads(before)


def _put_back(variables: Mapping[str, str | None]) -> None:
    """Give variables of the environment the values that they had, None for one that was not there."""
    for name, value in variables.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


class SlowEpochs:
    """Detects, and reports once in a run, that other programs keep the run's threads waiting."""

    def __init__(self, threads: int) -> None:
        self.threads, self.said = threads, False
        self.quickest: float | None = None
        self.before = Moment.now()

    def another(self) -> None:
        """Begin another run, whose epochs have a length of their own."""
        self.quickest, self.before = None, Moment.now()

    def sentence(self, row: Mapping[str, object]) -> str | None:
        """Return a sentence where other programs slowed an epoch, else None; ``row``: an EpochReport's plain values."""
        now, seconds, epoch = Moment.now(), row["seconds"], row["epoch"]
        assert isinstance(seconds, float)
        before, self.before = self.before, now
        quickest, self.quickest = self.quickest, min(seconds, self.quickest or seconds)
        others, wall = before.others(now), now.wall - before.wall
        own = (now.own - before.own) / wall / self.threads if wall > 0 else 1.0  # of each thread's time
        times = seconds / quickest if quickest else 0.0  # 0: a coarse clock, or an epoch of no work
        slower = f"Epoch {epoch} took {times:.1f} times as long as the quickest before it. " if times >= SLOW else ""
        if self.said or self.threads == 1:
            return None
        if others is None:  # the load is unknown; a thread that gets no core makes a slow epoch
            crowded, who = bool(slower) and own < 0.75, "Other programs seem to use the cores"
        else:
            available = cores()
            crowded = choose(available, others) < self.threads <= available and (bool(slower) or quickest is None)
            who = f"Other programs use {others:.1f} of the {available} cores"
        if not crowded:
            return None
        self.said = True
        return f"{slower}{who}, and threads that wait for one another lose by it: try --threads 1."
