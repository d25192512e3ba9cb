"""A run that is killed, with no chance to tidy up, continues to the same bits."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import checkerboard
from scipy.sparse import save_npz

from recvae.training import run_folder

PROGRAM = """
import sys
from scipy.sparse import load_npz
import torch
import recvae
torch.set_num_threads(1)
folder, matrix = sys.argv[1:]
clicks = load_npz(matrix)
model = recvae.RecVAE(hidden=24, latent=8, batch_size=10, epochs=EPOCHS, seed=2, device="cpu")
validation = lambda m: float(m.recommend(clicks, k=5).scores.mean())
model.fit(clicks, validation=validation, folder=folder, resume=True, on_epoch=lambda r: print(r.epoch, flush=True))
"""
EPOCHS = 8
RUNS = int(os.environ.get("RECVAE_KILLS", "2"))


def start(folder: Path, matrix: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", PROGRAM.replace("EPOCHS", str(EPOCHS)), str(folder), str(matrix)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_sigkill_and_resume(tmp_path):
    """RECVAE_KILLS sets the number of runs; each is killed at a random moment after its first line or before it."""
    matrix = tmp_path / "clicks.npz"
    save_npz(matrix, checkerboard())
    whole = tmp_path / "whole"
    begun = time.monotonic()
    first = None
    with start(whole, matrix) as process:
        for _ in process.stdout:
            first = first or time.monotonic()
    assert process.returncode == 0
    length = time.monotonic() - first  # from the first epoch's end to the last's
    rng = np.random.default_rng()
    killed = 0
    for run in range(RUNS):
        folder = tmp_path / f"run{run}"
        with start(folder, matrix) as process:
            if run:  # the first is killed at any moment, also while it starts
                for _ in range(rng.integers(1, EPOCHS)):  # by its own clock, however busy the machine is
                    process.stdout.readline()
                time.sleep(rng.uniform(0, length / EPOCHS))
            else:
                time.sleep(rng.uniform(0, first - begun))
            process.kill()
        killed += process.returncode == -signal.SIGKILL
        with start(folder, matrix) as process:
            lines = process.stdout.read().split()
        assert process.returncode == 0
        assert not lines or lines[-1] == str(EPOCHS)
        for file in (run_folder.WEIGHTS, run_folder.RUN, run_folder.ITEMS, run_folder.STATE):
            if file == run_folder.STATE:  # it holds the epochs' seconds too
                states = [run_folder.read_state(f)[0] for f in (whole, folder)]
                assert all(np.array_equal(states[0].tensors[k], states[1].tensors[k]) for k in states[0].tensors)
            else:
                assert (folder / file).read_bytes() == (whole / file).read_bytes(), file
        left = [path.name for path in folder.rglob("*.part")]
        assert len(left) <= 1, left  # a killed write may leave its temporary file, which nothing reads
    assert killed, "every run had ended before it was killed"
