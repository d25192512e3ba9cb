"""How long ``recvae --help`` takes in a fresh process, and that it imports neither torch nor pandas."""

import subprocess
import sys
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import against, interleaved

ROUNDS = 15
HEAVY = ("torch", "pandas", "pyarrow", "scipy", "implicit")
BARE = "a Python that does nothing"


def imported() -> list[str]:
    """Return which of the heavy packages ``recvae --help`` imports."""
    command = [sys.executable, "-X", "importtime", "-m", "recvae", "--help"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    modules = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines()}
    if "recvae.cli" not in modules or "Usage" not in run.stdout:
        raise SystemExit("recvae --help did not print its help.")
    return [name for name in HEAVY if name in modules]


def measure(arguments: Namespace) -> dict[str, Any]:
    if heavy := imported():
        raise SystemExit(f"recvae --help imports {', '.join(heavy)}.")
    script = Path(sys.executable).with_name("recvae")
    program = [str(script)] if script.exists() else [sys.executable, "-m", "recvae"]
    commands = {"ours": [*program, "--help"], BARE: [sys.executable, "-c", "pass"]}
    call = partial(subprocess.run, stdout=subprocess.DEVNULL, check=True)
    seconds = interleaved({name: partial(call, command) for name, command in commands.items()}, arguments.rounds)
    return {"figures": [against("recvae --help", seconds, BARE, floor=True)], "seconds": seconds}
