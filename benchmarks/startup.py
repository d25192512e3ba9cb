"""How long ``recvae --help`` takes in a fresh process, and that it imports neither torch nor pandas.

python benchmarks/startup.py
"""

import subprocess
import sys
from pathlib import Path

from harness import Contender, against, interleaved, options, record

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


def main() -> None:
    arguments = options(__doc__, rounds=15).parse_args()
    if heavy := imported():
        raise SystemExit(f"recvae --help imports {', '.join(heavy)}.")
    script = Path(sys.executable).with_name("recvae")
    program = [str(script)] if script.exists() else [sys.executable, "-m", "recvae"]

    def run(*command: str) -> Contender:
        return lambda: subprocess.run(command, stdout=subprocess.DEVNULL, check=True)

    contenders = {"ours": run(*program, "--help"), BARE: run(sys.executable, "-c", "pass")}
    seconds = interleaved(contenders, 3 if arguments.small else arguments.rounds)
    results = {
        "title": "Start-up",
        "about": f"`recvae --help` in a fresh process, files in the cache. It imports none of {', '.join(HEAVY)}.",
        "figures": [against("recvae --help", seconds, BARE, floor=True)],
        "seconds": seconds,
    }
    record("startup", results, arguments)


if __name__ == "__main__":
    main()
