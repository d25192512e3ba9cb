"""Writers: two processes write one output, or one writes it while another reads.

Half of the pairs begin together, some milliseconds apart. Of the other half the first is held at one of its file
operations until the second has ended or evidently waits for it.

Of two writers one wins, or both do one after the other; who loses says so in a sentence. The output is what one of them
alone would have made, and nothing else is left. A reader finds a whole output at every moment.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .figures import AGAIN, REFUSED, Figures, complaints
from .processes import Forked, Outcome, forked
from .scenarios import Tree, difference, tree
from .tracing import Tracer
from .world import PREPARE, World, train, verb

SHORT, LONG = 11, 66  # pairs
PATIENCE = 2.0  # seconds until a second writer is taken to wait for the first, whatever it does
ASLEEP = 0.25  # seconds of sleep after which it evidently waits: work sleeps for no longer than an fsync
READS, WRITES = 10, 3  # at least so many reads beside so many writes

Work = Callable[[Path], int]


@dataclass
class Pair:
    """What two processes do to the output ``out``, and what of the world they need."""

    name: str
    needs: dict[str, str]
    one: Work
    two: Work
    ends: tuple[Tree, ...] = ()  # what each of them alone makes
    operations: int = 0  # of the first one, alone

    @contextmanager
    def place(self, world: World) -> Iterator[Path]:
        """Yield a new folder with what is needed."""
        with world.copy() as folder:
            for name, source in self.needs.items():
                world.put(source, folder / name)
            yield folder


def writers(world: World, figures: Figures, rng: np.random.Generator, *, long: bool) -> None:
    """Let pairs of processes begin at the same moment, or a few milliseconds apart."""
    pairs = _pairs()
    for number in range(LONG if long else SHORT):
        pair = pairs[number % len(pairs)]
        if not pair.ends:
            first, two = _alone(world, pair, pair.one), _alone(world, pair, pair.two)
            pair.ends, pair.operations = (first[0], two[0]), first[1]
        if number // len(pairs) % 2:
            _race(world, figures, pair, [float(delay) for delay in rng.choice([0.0, 0.0, 0.005, 0.02, 0.06], 2)])
        else:
            _hold(world, figures, pair, int(rng.integers(1, pair.operations + 1)))
    for name in ("ease", "mult-dae") if long else ("ease",):
        _read_beside(world, figures, name)


def _race(world: World, figures: Figures, pair: Pair, delays: list[float]) -> None:
    attack = f"{pair.name}, {' and '.join(f'{1000 * delay:.0f}' for delay in delays)} ms later"
    with pair.place(world) as folder:
        read, write = os.pipe()
        works = [_after(delay, work, folder) for delay, work in zip(delays, (pair.one, pair.two), strict=True)]
        started = [Forked(work, seconds=60, gate=read) for work in works]
        os.write(write, b"..")
        outcomes = [process.outcome() for process in started]
        os.close(read)
        os.close(write)
        _judge(figures, attack, pair, outcomes, tree(folder))


def _hold(world: World, figures: Figures, pair: Pair, n: int) -> None:
    """Hold the first at its n-th operation while the second works."""
    second: list[Forked] = []
    with pair.place(world) as folder:

        def meanwhile() -> None:
            second.append(Forked(lambda: pair.two(folder), seconds=60))
            began = awake = time.monotonic()
            while not _ended(second[0].pid):
                now = time.monotonic()
                awake = awake if _sleeps(second[0].pid) else now
                if now - awake > ASLEEP or now - began > PATIENCE:
                    break
                time.sleep(0.005)

        watch = Tracer(folder, pause=n, meanwhile=meanwhile)
        outcomes = [forked(lambda: pair.one(folder), seconds=60, watch=watch)]
        outcomes += [process.outcome() for process in second]
        operation = watch.operations[n - 1] if len(watch.operations) >= n else "none"
        _judge(figures, f"{pair.name}, the first held at operation {n} ({operation})", pair, outcomes, tree(folder))


def _judge(figures: Figures, attack: str, pair: Pair, outcomes: list[Outcome], now: Tree) -> None:
    wrong = [complaint for outcome in outcomes for complaint in complaints(outcome, statuses=(0, 1, 2))]
    if all(outcome.status for outcome in outcomes):
        wrong.append("both failed")
    if now not in pair.ends:
        wrong.append(f"not as of one alone: {difference(now, pair.ends[0])}")
    lost = any(outcome.status for outcome in outcomes)
    figures.judge(attack, wrong, REFUSED if lost else AGAIN, *outcomes)


def _alone(world: World, pair: Pair, work: Work) -> tuple[Tree, int]:
    """Return what one of a pair makes alone, and the number of its operations."""
    with pair.place(world) as folder:
        watch = Tracer(folder)
        outcome = forked(lambda: work(folder), seconds=60, watch=watch)
        if outcome.status:
            raise RuntimeError(f"{pair.name}, one alone, ended with {outcome.status}: {outcome.err}")
        return tree(folder), len(watch.operations)


def _after(delay: float, work: Work, folder: Path) -> Callable[[], int]:
    def waited() -> int:
        time.sleep(delay)
        return work(folder)

    return waited


def _read_beside(world: World, figures: Figures, name: str) -> None:
    """Load a run again and again while it is replaced: every load is of a whole model."""
    with world.copy() as folder:
        for place, source in (("data", "data"), ("out", f"runs/{name}")):
            world.put(source, folder / place)

        def replace() -> int:
            return max(verb(train(name, "out", "--overwrite", "--seed", str(n)), folder) for n in range(WRITES))

        writer = Forked(replace, seconds=120)
        failed, reads, outcome = [], 0, None
        while reads < READS or not _ended(writer.pid):
            outcome = forked(lambda: _load(folder / "out"))
            reads += 1
            failed += complaints(outcome, statuses=(0,))
        done = writer.outcome()
        wrong = complaints(done, statuses=(0,))
        if failed:
            wrong.append(f"{len(failed)} of {reads} reads beside it: {failed[0]}")
        figures.judge(f"{name} replaced {WRITES} times beside {reads} reads", wrong, AGAIN, done)


def _ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _sleeps(pid: int) -> bool:
    """Return whether a process is in an interruptible sleep, as one is that waits for a lock between its attempts."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def _load(run_folder: Path) -> int:
    import recvae

    recvae.load(run_folder, "cpu")
    return 0


def _pairs() -> list[Pair]:
    """Return what two processes may do to one output at once."""

    def command(arguments: list[str]) -> Work:
        return lambda folder: verb(arguments, folder)

    def saved(name: str) -> Work:
        def save(folder: Path) -> int:
            import recvae
            from recvae.errors import RecvaeError

            try:
                recvae.load(folder / name, "cpu").save(folder / "out", overwrite=True)
            except RecvaeError as error:
                os.write(2, f"Error: {error}\n".encode())
                return error.exit_code
            return 0

        return save

    data = {"data": "data"}
    inputs = {name: name for name in ("clicks.csv", "titles.csv", "people.csv")}
    prepare = [*PREPARE, "--out", "out"]
    ranked = {"run": "runs/ease", "histories.csv": "histories.csv"}
    listed = ["recommend", "run", "--histories", "histories.csv", "--quiet", "--device", "cpu", "--out", "out.csv"]
    resume = train("mult-dae", "out", "--resume", "--set", "train.epochs=3")
    tune = ["tune", "data", "--model", "ease", "--trials", "2", "--out", "out", "--quiet", "--device", "cpu"]
    runs = {"one": "runs/ease", "two": "runs/popularity"}
    promote = ["out", "data", "--margin", "1", "--quiet", "--device", "cpu"]

    def pair(name: str, needs: dict[str, str], one: list[str], two: list[str] | None = None) -> Pair:
        return Pair(name, needs, command(one), command(two or one))

    return [
        pair("train ease, train popularity", data, train("ease", "out"), train("popularity", "out")),
        pair("train mult-dae twice", data, train("mult-dae", "out")),
        pair(
            "train ease --overwrite, train item-knn --overwrite",
            {**data, "out": "runs/edlae"},
            train("ease", "out", "--overwrite"),
            train("item-knn", "out", "--overwrite"),
        ),
        pair(
            "train mult-dae --overwrite twice",
            {**data, "out": "runs/mult-vae"},
            train("mult-dae", "out", "--overwrite"),
        ),
        pair("train --resume twice", {**data, "out": "runs/mult-dae"}, resume),
        pair("prepare twice", inputs, prepare),
        pair(
            "prepare --overwrite, with and without ratings",
            {**inputs, "out": "given"},
            [*prepare, "--overwrite"],
            [*prepare, "--overwrite", "--ratings"],
        ),
        Pair("save twice", {**runs, "out": "runs/edlae"}, saved("one"), saved("two")),
        pair(
            "promote two runs",
            {**data, **runs, "out": "runs/edlae"},
            ["promote", "one", *promote],
            ["promote", "two", *promote],
        ),
        pair("recommend --overwrite twice", {**ranked, "out.csv": "histories.csv"}, [*listed, "--overwrite"]),
        pair("tune twice", data, tune),
    ]
