"""Run the benchmarks, each in a fresh process, one after the other, and rewrite docs/performance.md from their records.

    python benchmarks/run.py --ml-1m ml-1m.zip            all of them, at full size: about an hour
    python benchmarks/run.py --only ranking,evaluation    some of them
    python benchmarks/run.py --page-only                  the page alone, from the records there are
    python benchmarks/run.py --small --keep FOLDER        tiny shapes, records and page into FOLDER: tries the programs

An idle machine is assumed; nothing else should run meanwhile.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import RESULTS
from page import PAGE, write_page

# In the order of the page; a record that is missing is left out.
PROGRAMS: dict[str, tuple[str, ...]] = {
    "agreement": (),
    "training": (),
    "precision": (),
    "large": (),
    "memory": (),
    "ranking": (),
    "evaluation": (),
    "serving": (),
    "preparing": (),
    "startup": (),
    "threads": (),
    "gpu": (),
}
ONLY_BY_NAME = ("gpu",)  # run where there is such a device; its section is on the page all the same
HERE = Path(__file__).resolve().parent


def run(name: str, *more: str) -> bool:
    """Run a program and say how it went."""
    print(f"\n== {name}", flush=True)
    start = time.perf_counter()
    command = [sys.executable, str(HERE / f"{name}.py"), *PROGRAMS[name], *more]
    done = subprocess.run(command, check=False)
    print(
        f"== {name}: {'done' if done.returncode == 0 else 'failed'} in {time.perf_counter() - start:.0f} s", flush=True
    )
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", help="names of programs, separated by commas")
    parser.add_argument("--page-only", action="store_true", help="run nothing; write the page")
    parser.add_argument(
        "--small", action="store_true", help="tiny shapes; the records here and the page stay as they are"
    )
    parser.add_argument("--keep", type=Path, help="with --small: a folder for the records and the page")
    parser.add_argument("--ml-1m", type=Path, help="MovieLens-1M's archive or folder; its figures are left out without")
    arguments = parser.parse_args()
    usual = [name for name in PROGRAMS if name not in ONLY_BY_NAME]
    names = usual if arguments.only is None else arguments.only.split(",")
    if unknown := [name for name in names if name not in PROGRAMS]:
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(PROGRAMS)}")
    more: dict[str, tuple[str, ...]] = {}
    if arguments.ml_1m is not None:
        more = {"training": ("--ml-1m", str(arguments.ml_1m)), "precision": (str(arguments.ml_1m),)}
        more["threads"] = more["training"]
    here = [name for name in names if name not in ("precision", "threads") or more]
    failed = []
    if arguments.small:
        with tempfile.TemporaryDirectory() as temporary:
            folder = arguments.keep or Path(temporary)
            failed = [
                name
                for name in here
                if not run(name, "--small", "--out", str(folder / f"{name}.json"), *more.get(name, ()))
            ]
            write_page(list(PROGRAMS), folder, folder / PAGE.name)
    else:
        if not arguments.page_only:
            failed = [name for name in here if not run(name, *more.get(name, ()))]
        written = write_page(list(PROGRAMS), RESULTS, PAGE)
        print(f"\n{PAGE.name}: {', '.join(written) or 'no records'}")
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
