"""Starts a function in several processes at once, as torchrun does, with a time limit.

``run("ranked.ddp", "steps", ranks=2, folder=...)`` calls ``steps(rank, folder)`` of the module in each of two
processes, which are one group of torch.distributed (gloo). A process that fails, or one that hangs, fails the test with
the text that it printed.
"""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
STARTS = (
    "import sys, torch; torch.set_num_threads(1); import torch.distributed as dist;"
    "from importlib import import_module;"
    "module, name, rank, size, folder = sys.argv[1:]; from pathlib import Path;"
    "dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=int(rank), world_size=int(size));"
    "getattr(import_module(module), name)(int(rank), Path(folder)); dist.destroy_process_group()"
)


def run(module, name, *, ranks, folder, seconds=120):
    """Call ``name(rank, folder)`` of a module in ``ranks`` processes; raise with their output where one fails."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "store").unlink(missing_ok=True)
    path = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", STARTS, module, name, str(rank), str(ranks), str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]
    texts = []
    try:
        texts.extend(process.communicate(timeout=seconds)[0] for process in started)
    except subprocess.TimeoutExpired:
        texts.append(f"Process {len(texts)} did not end within {seconds} s.")
    finally:
        for process in started:
            process.kill()
            process.wait()
    failed = [f"--- process {n} ---\n{text}" for n, text in enumerate(texts) if started[n].returncode != 0]
    assert not failed, "\n".join(failed)
