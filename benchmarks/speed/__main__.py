"""Measure the speed of recvae on a CPU, one program after the other, each in a fresh process.

    python -m benchmarks.speed --ml-1m ml-1m.zip --record      all of them, at full size: about an hour
    python -m benchmarks.speed ranking --out FILE              one of them, its record elsewhere
    python -m benchmarks.speed --small                         tiny shapes: tries the programs, measures nothing

Each program is the module of that name, whose ``measure`` returns its figures. An idle machine is assumed.
"""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

from benchmarks.harness import markdown, parser, write_record

PROGRAMS = (
    "agreement", "training", "precision", "large", "memory", "ranking", "evaluation", "serving", "exported", "soak",
    "reasons", "page", "preparing", "parts", "mapped", "processes", "startup", "threads", "batch",
)  # fmt: skip
OF_ML_1M = ("precision", "threads")  # left out where all are asked for and its files are not named


def main() -> int:
    options = parser(__doc__)
    options.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PROGRAMS)}; all without")
    options.add_argument("--small", action="store_true", help="tiny shapes: tries the programs, measures nothing")
    options.add_argument("--rounds", type=int, help="measured rounds; without, as many as each program needs")
    options.add_argument("--ml-1m", type=Path, help="MovieLens-1M's archive or folder, for the figures of it")
    options.add_argument("--rows", type=int, help="of the program parts, in place of 300 million")
    options.add_argument("--folder", type=Path, help="of the programs parts and mapped: where their files are, many GB")
    options.add_argument("--minutes", type=float, default=10, help="of the soak")
    arguments = options.parse_args()
    if unknown := [name for name in arguments.names if name not in PROGRAMS]:
        options.error(f"there is no {', '.join(unknown)}; there are {', '.join(PROGRAMS)}")
    if arguments.record and arguments.small:
        options.error("--small measures nothing, so there is nothing to record: name another file with --out")
    if arguments.out is not None and len(arguments.names) != 1:
        options.error("--out is for one program's record: name one program")
    if len(arguments.names) == 1:
        module = import_module(f"benchmarks.speed.{arguments.names[0]}")
        arguments.rounds = arguments.rounds or (1 if arguments.small else getattr(module, "ROUNDS", 5))
        results = module.measure(arguments)
        print("", *markdown(results["figures"]), sep="\n")
        write_record(arguments.names[0], results, arguments)
        return 0
    failed = []
    for name in arguments.names or [name for name in PROGRAMS if arguments.ml_1m or name not in OF_ML_1M]:
        print(f"\n== {name}", flush=True)
        more = [word for word in sys.argv[1:] if word not in PROGRAMS]
        if subprocess.run([sys.executable, "-m", "benchmarks.speed", name, *more], check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
