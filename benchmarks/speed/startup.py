"""How long ``recvae --help`` takes in a fresh process."""

import subprocess
import sys
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import against, interleaved

ROUNDS = 15
BARE = "a Python that does nothing"


def measure(arguments: Namespace) -> dict[str, Any]:
    script = Path(sys.executable).with_name("recvae")
    program = [str(script)] if script.exists() else [sys.executable, "-m", "recvae"]
    commands = {"ours": [*program, "--help"], BARE: [sys.executable, "-c", "pass"]}
    call = partial(subprocess.run, stdout=subprocess.DEVNULL, check=True)
    seconds = interleaved({name: partial(call, command) for name, command in commands.items()}, arguments.rounds)
    return {"figures": [against("recvae --help", seconds, BARE, floor=True)], "seconds": seconds}
