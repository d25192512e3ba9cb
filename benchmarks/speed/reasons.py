"""One request with reasons on one thread: RecVAE of ML-20M's shape, histories of 100, ten items, three reasons each.

The plain answer to the same histories is timed in turn with it. Peak memory is that of fresh processes, which load the
model and answer once, for a history of 100 and for one of nearly the whole catalogue.
"""

import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits

import recvae
from benchmarks.harness import ITEMS, alone, interleaved, measured, medians
from data_prep import ml20m_shape

K, REASONS = 10, 3
ROUNDS = 200


def saved_model(folder: Path, items: int, hidden: int, latent: int) -> Path:
    """Write a RecVAE that is trained on next to nothing, as a run folder."""
    model = recvae.RecVAE(hidden=hidden, latent=latent, epochs=1, batch_size=16, device="cpu")
    model.fit(ml20m_shape(users=16, items=items, clicks=1000)).save(folder / "run")
    return folder / "run"


def history(items: int, length: int, seed: int) -> Any:
    """Return one user's history of different items."""
    chosen = np.sort(np.random.default_rng(seed).choice(items, length, replace=False))
    return csr_array((np.ones(length, np.float32), chosen, [0, length]), shape=(1, items))


def one_answer(run: Path, items: int, length: int, reasons: int) -> None:
    torch.set_num_threads(1)
    threadpool_limits(1)
    recvae.load(run, device="cpu").recommend(history(items, length, 0), K, reasons=reasons)


def measure(arguments: Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)
    threadpool_limits(1)  # NumPy's BLAS as well
    items, hidden, latent, usual, long = (2000, 60, 20, 50, 500) if arguments.small else (ITEMS, 600, 200, 100, 20_000)
    with tempfile.TemporaryDirectory() as folder:
        run = saved_model(Path(folder), items, hidden, latent)
        model = recvae.load(run, device="cpu")
        number = iter(range(10**9))
        last: dict[int, Any] = {}

        def plain() -> Any:
            last[0] = history(items, usual, next(number))
            return model.recommend(last[0], K)

        seconds = interleaved(
            {"plain": plain, "reasons": lambda: model.recommend(last[0], K, reasons=REASONS)}, arguments.rounds
        )
        memory = {
            f"{length:,} items, {'with' if reasons else 'without'} reasons": measured(
                one_answer, run, items, length, reasons
            )[1]
            for length in (usual, long)
            for reasons in (0, REASONS)
        }
    middle = medians(seconds)
    figures = [
        alone(f"top-{K} after a history of {usual}", seconds["plain"]),
        alone(f"the same with {REASONS} reasons for each item", seconds["reasons"]),
        alone("the second over the first", [b / a for a, b in zip(*seconds.values(), strict=True)], "times"),
        *(alone(f"peak memory, a history of {what}", [gib * 1024], "MiB") for what, gib in memory.items()),
    ]
    return {"figures": figures, "seconds": seconds, "ratio": middle["reasons"] / middle["plain"], "memory_gib": memory}
