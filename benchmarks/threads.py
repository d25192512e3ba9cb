"""Training beside busy programs: ``--threads auto`` against one thread and against a thread for each core.

    python benchmarks/threads.py --ml-1m ml-1m.zip      RecVAE, two epochs on MovieLens-1M: ten minutes
    python benchmarks/threads.py --small                a small sample: tries the program

Each contender is the command ``recvae train`` in a process of its own, from its start to its end. They run in turn,
first on the machine as it is, which ought to be idle, then with a busy loop on every core. A thread for each core is
also tried with three ways of waiting: spinning as long as libgomp does, for a short time, and sleeping at once.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import Contender, Seconds, against, alone, interleaved, options, record

from recvae.threads import SPINS, cores

AUTO, ONE, ALL = "auto", "one thread", "a thread a core"
SPINNING, SHORT, PASSIVE = "spinning as libgomp does", f"GOMP_SPINCOUNT={SPINS}", "OMP_WAIT_POLICY=passive"
BEST = "the better of one and all"


def contender(dataset: Path, place: Path, threads: str, **environment: str) -> Contender:
    """Return a call of the command line, with settings of OpenMP that the user might have made."""
    run = place / "run"
    command = [sys.executable, "-m", "recvae", "train", str(dataset), "--model", "recvae", "--set", "train.epochs=2"]
    command += ["--threads", threads, "--out", str(run), "--overwrite", "--quiet"]
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_", "MKL_"))}
    return lambda: subprocess.run(command, check=True, env=clean | environment)


@contextmanager
def busy(loops: int) -> Iterator[None]:
    """Keep a core busy with each of some loops."""
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def prepared(arguments: tuple[str, ...], place: Path) -> Path:
    """Return a new dataset folder."""
    folder = place / "dataset"
    if arguments:
        command = [sys.executable, "-m", "recvae", "prepare", *arguments, "--out", str(folder), "--quiet"]
        subprocess.run(command, check=True)
    else:
        from data_prep import sample

        sample().dataset().save(folder)
    return folder


def measured(dataset: Path, place: Path, rounds: int) -> tuple[Seconds, Seconds]:
    """Return the seconds on a quiet machine and beside busy loops."""
    most = str(cores())
    contenders = {
        AUTO: contender(dataset, place, "auto"),
        ONE: contender(dataset, place, "1"),
        ALL: contender(dataset, place, most),
    }
    waiting = {
        SPINNING: contender(dataset, place, most, GOMP_SPINCOUNT="300000"),  # its own number
        SHORT: contender(dataset, place, most, GOMP_SPINCOUNT=SPINS),
        PASSIVE: contender(dataset, place, most, OMP_WAIT_POLICY="passive"),
    }
    quiet = interleaved({**contenders, **waiting}, rounds)
    with busy(cores()):
        loaded = interleaved({**contenders, **waiting}, rounds, warmup=0)
    for seconds in (quiet, loaded):
        seconds[BEST] = [min(pair) for pair in zip(seconds[ONE], seconds[ALL], strict=True)]
    return quiet, loaded


def main() -> None:
    parser = options(__doc__, rounds=3)
    parser.add_argument("--ml-1m", type=Path, help="MovieLens-1M's archive or folder")
    arguments = parser.parse_args()
    if not arguments.small and arguments.ml_1m is None:
        parser.error("name MovieLens-1M's archive with --ml-1m, or try the program with --small")
    source = () if arguments.small else ("ml-1m", "--source", str(arguments.ml_1m))
    with tempfile.TemporaryDirectory() as temporary:
        dataset = prepared(source, Path(temporary))
        quiet, loaded = measured(dataset, Path(temporary), 1 if arguments.small else arguments.rounds)
    figures = [
        {**against(f"{AUTO}, {when}", seconds, peer, ours=AUTO, floor=True), "when": when}
        for when, seconds in (("quiet", quiet), ("beside busy loops", loaded))
        for peer in (BEST, ONE, ALL)
    ]
    figures += [
        {**alone(f"all cores, {name}, {when}", seconds[name]), "when": when}
        for when, seconds in (("quiet", quiet), ("beside busy loops", loaded))
        for name in (SPINNING, SHORT, PASSIVE)
    ]
    results = {
        "title": "Training beside busy programs",
        "about": "Two epochs of RecVAE by the command line, start-up included. `--threads auto` takes the cores that "
        "are free when the command starts, and lets threads spin for a short time only where others use the cores.",
        "figures": figures,
        "seconds": {"quiet": quiet, "beside busy loops": loaded},
    }
    record("threads", results, arguments)


if __name__ == "__main__":
    main()
