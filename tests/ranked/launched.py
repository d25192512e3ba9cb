"""The command line under torchrun, with a fault or none (:mod:`ranked.faulty`), and a time limit."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


def torchrun(*words, ranks=2, restarts=0, fault="none:0", once="", moment="", start=True, seconds=240):
    """Run recvae under torchrun; return the exit status and the text of both streams.

    ``fault``, ``once`` and ``moment`` are the variables of :mod:`ranked.faulty`. With ``start`` False the process is
    returned, for :func:`ended`.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent), os.environ.get("PYTHONPATH", "")]),
        "PYTHONWARNINGS": "",
        "OMP_NUM_THREADS": "1",
        "RECVAE_FAULT": fault,
        "RECVAE_FAULT_ONCE": str(once),
        "RECVAE_FAULT_TIME": str(moment),
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command += ["--max-restarts", str(restarts), str(TESTS / "ranked" / "faulty.py"), *map(str, words)]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    if not start:
        return process
    return ended(process, seconds)


def ended(process, seconds=240):
    """Return the exit status and the text of a process; fail the test where it does not end within ``seconds``."""
    try:
        text, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"torchrun did not end within {seconds} s: {process.communicate()[0]}")
    return process.returncode, text
