"""Measure the speed of recvae on a CPU, one program after the other, each in a fresh process.

    python -m benchmarks.speed --ml-1m ml-1m.zip --record      all of them, at full size: about an hour
    python -m benchmarks.speed ranking --out FILE              one of them, its record elsewhere
    python -m benchmarks.speed --small                         tiny shapes: tries the programs, measures nothing

Each program is the module of that name, whose ``measure`` returns its figures. An idle machine is assumed.
"""

import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.harness import parser, table, write_record

PROGRAMS = (
    "agreement", "training", "precision", "large", "memory", "ranking", "evaluation", "serving", "preparing", "startup",
)  # fmt: skip


def main() -> int:
    options = parser(__doc__)
    options.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PROGRAMS)}; all without")
    options.add_argument("--small", action="store_true", help="tiny shapes: tries the programs, measures nothing")
    options.add_argument("--rounds", type=int, help="measured rounds; without, as many as each program needs")
    options.add_argument(
        "--ml-1m", type=Path, help="MovieLens-1M's archive or folder; its figures are left out without"
    )
    options.add_argument("--whole", action="store_true", help="training: also one whole epoch at ML-20M's shape")
    arguments = options.parse_args()
    if unknown := [name for name in arguments.names if name not in PROGRAMS]:
        options.error(f"there is no {', '.join(unknown)}; there are {', '.join(PROGRAMS)}")
    if arguments.record and arguments.small:
        options.error("--small measures nothing, so there is nothing to record: name another file with --out")
    if len(arguments.names) == 1:
        return one(arguments.names[0], arguments)
    if arguments.out is not None:
        options.error("--out is for one program's record: name one program")
    return several(arguments.names or [name for name in PROGRAMS if name != "precision" or arguments.ml_1m])


def one(name: str, arguments: Any) -> int:
    """Run one program here, print its figures, and write its record where one is wanted."""
    module = import_module(f"benchmarks.speed.{name}")
    arguments.rounds = arguments.rounds or (1 if arguments.small else getattr(module, "ROUNDS", 5))
    results = module.measure(arguments)
    print(f"\n{table(results['figures'])}")
    write_record(name, results, arguments)
    return 0


def several(names: list[str]) -> int:
    """Run programs one after the other, each as a command of its own."""
    failed = []
    for name in names:
        print(f"\n== {name}", flush=True)
        start = time.perf_counter()
        more = [word for word in sys.argv[1:] if word not in PROGRAMS]
        status = subprocess.run([sys.executable, "-m", "benchmarks.speed", name, *more], check=False).returncode
        print(f"== {name}: {'failed' if status else 'done'} in {time.perf_counter() - start:.0f} s", flush=True)
        failed += [name] if status else []
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
