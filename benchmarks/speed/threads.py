"""Training beside busy programs: ``--threads auto`` against one thread and against a thread for each core.

Each contender is the command ``recvae train`` from its start to its end, first on the machine as it is, then with a
busy loop on every core. A thread for each core is also tried with three ways of waiting for one another. A training
that takes longer than the limit is ended there, and its time is the limit.
"""

import os
import subprocess
import sys
import tempfile
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import Contender, Figure, Seconds, against, alone, interleaved
from data_prep import prepare, sample
from recvae.training.threads import SPINS, cores

ROUNDS = 3
LIMIT = 90  # seconds of one training: threads that spin beside busy programs may take hundreds
ONE, ALL, BEST = "one thread", "a thread for each core", "the better of one and all"
WAITING = {
    "spinning as long as libgomp does": {"GOMP_SPINCOUNT": "300000"},
    "spinning for a short time": {"GOMP_SPINCOUNT": SPINS},
    "asleep at once": {"OMP_WAIT_POLICY": "passive"},
}


def train(dataset: Path, threads: str, environment: dict[str, str]) -> None:
    """Train two epochs of RecVAE by the command line, with these settings of OpenMP and no others."""
    command = [sys.executable, "-m", "recvae", "train", str(dataset), "--model", "recvae", "--set", "train.epochs=2"]
    command += ["--threads", threads, "--out", str(dataset.with_name("run")), "--overwrite", "--quiet"]
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_", "MKL_"))}
    try:
        subprocess.run(command, check=True, env=clean | environment, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        print(f"{threads} threads {environment or ''} were not done after {LIMIT} s, which are counted for them")


def measure(arguments: Namespace) -> dict[str, Any]:
    if arguments.ml_1m is None and not arguments.small:
        raise SystemExit("Name MovieLens-1M's archive or folder with --ml-1m.")
    figures: list[Figure] = []
    found: dict[str, Seconds] = {}
    with tempfile.TemporaryDirectory() as folder:
        dataset = Path(folder) / "dataset"
        (sample().dataset() if arguments.small else prepare("ml-1m", source=arguments.ml_1m)).save(dataset)
        numbers = {"ours": "auto", ONE: "1", ALL: str(cores())}
        contenders: dict[str, Contender] = {who: partial(train, dataset, n, {}) for who, n in numbers.items()}
        contenders |= {way: partial(train, dataset, numbers[ALL], more) for way, more in WAITING.items()}
        for when, loops in (("on an idle machine", 0), ("beside busy loops", cores())):
            programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
            try:
                seconds = found[when] = interleaved(contenders, arguments.rounds, warmup=not arguments.small)
            finally:
                for program in programs:
                    program.kill()
                    program.wait()
            seconds[BEST] = [min(pair) for pair in zip(seconds[ONE], seconds[ALL], strict=True)]
            figures += [
                against(f"--threads auto {when}", seconds, peer, floor=peer == BEST) for peer in (BEST, ONE, ALL)
            ]
            figures += [alone(f"{ALL} {when}, {way}", seconds[way]) for way in WAITING]
    return {"figures": figures, "seconds": found}
