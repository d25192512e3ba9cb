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
IMPORTS = """
import sys
sys.argv = ["recvae", "--help"]
try:
    from recvae.cli import main
    main()
finally:
    print(*sorted(sys.modules), file=sys.stderr)
"""


def imported() -> list[str]:
    """Return which of the heavy packages ``recvae --help`` imports."""
    run = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=False)
    modules = run.stderr.split()
    if "recvae.cli" not in modules or "Usage" not in run.stdout:
        raise SystemExit(f"recvae --help failed: {run.stderr.strip().splitlines()[-1]}")
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
