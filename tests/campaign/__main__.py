"""The campaign's command line: python -m tests.campaign [--long] [--only PART] [--seed N] [--json FILE]."""

import argparse
import gc
import json
import os
import sys
import time
from pathlib import Path

# Before NumPy and torch are imported: one thread each, so that forks find no others.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import numpy as np

from .calls import calls
from .failures import failures
from .figures import Figures, table
from .kills import kills
from .mutations import mutations
from .tracing import can_trace
from .world import new_world, warm_up
from .writers import writers

PARTS = {"kills": kills, "failures": failures, "mutations": mutations, "writers": writers, "calls": calls}


def campaign(names: list[str], *, long: bool, seed: int) -> list[Figures]:
    """Run parts of the campaign and return their figures."""
    warm_up()
    gc.collect()
    gc.freeze()
    found = []
    with new_world(seed) as world:
        for name in names:
            figures = Figures(name)
            began = time.monotonic()
            rng = np.random.default_rng([seed, list(PARTS).index(name)])
            PARTS[name](world, figures, rng, long=long)
            figures.seconds = time.monotonic() - began
            found.append(figures)
    return found


def main() -> int:
    """Run the campaign, print its figures, and return 1 where an attack was not survived."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaign", description="A campaign of faults against recvae."
    )
    parser.add_argument("--long", action="store_true", help="every point and thousands of inputs, in place of a few")
    parser.add_argument("--only", metavar="PART", action="append", choices=[*PARTS], help=f"one of {', '.join(PARTS)}")
    parser.add_argument("--seed", metavar="N", type=int, default=98765)
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there too")
    given = parser.parse_args()
    names = given.only or [*PARTS]
    if {"kills", "failures", "writers"} & {*names} and not can_trace():
        sys.stderr.write("The campaign needs Linux on x86-64 and the right to trace a process it forks (ptrace).\n")
        return 3
    found = campaign(names, long=given.long, seed=given.seed)
    sys.stdout.write(table(found) + "\n")
    if given.json is not None:
        values = {"seed": given.seed, "long": given.long, "parts": {part.name: part.to_dict() for part in found}}
        given.json.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return 1 if any(part.failed for part in found) else 0


if __name__ == "__main__":
    sys.exit(main())
