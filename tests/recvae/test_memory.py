"""Nothing of size users x items is ever made: every tensor is recorded, and every array counted, while things run."""

import tracemalloc

import numpy as np
import pytest
import torch
from conftest import LargestTensor, random_clicks

import recvae
from eval.protocols import evaluate, validator

USERS, ITEMS, BATCH = 40_000, 1_000, 1_000


@pytest.fixture(scope="module")
def matrix():
    return random_clicks(USERS, ITEMS, 0.01, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("RecVAE", {"hidden": 32, "latent": 16, "encoder_passes": 1, "epochs": 1, "batch_size": BATCH}),
        ("MultVAE", {"hidden": (32,), "latent": 16, "epochs": 1, "batch_size": BATCH}),
        ("MultDAE", {"latent": 16, "epochs": 1, "batch_size": BATCH}),
        ("EASE", {}),
        ("EDLAE", {}),
        ("ItemKNN", {}),
        ("Popularity", {}),
        ("ImplicitALS", {"factors": 16, "iterations": 2}),
    ],
)
def test_fit_recommend_and_evaluate(name, options, matrix, monkeypatch):
    block = 500_000  # scores that ranking may hold at once
    monkeypatch.setattr("recvae.ranking.lists.SCORES_IN_MEMORY", block)
    fold_in, held_out = matrix[:3000], random_clicks(3000, ITEMS, 0.005, seed=2)
    held_out = held_out - held_out.multiply(fold_in)
    held_out.eliminate_zeros()
    model = getattr(recvae, name)(device="cpu", **options)
    with LargestTensor():
        model.fit(matrix[:50])  # what is imported on first use, by model or recorder, is no array
    tracemalloc.start()
    with LargestTensor() as largest:
        model.fit(matrix, validation=validator(fold_in, held_out))
        model.recommend(matrix[:10_000], k=20)
        evaluate(model, fold_in, held_out)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    allowed = max(block, BATCH * ITEMS, matrix.nnz, USERS * 2 * 16, ITEMS**2 if name in ("EASE", "EDLAE") else 0)
    assert largest.elements <= allowed, (largest.shape, largest.operation)
    assert allowed < USERS * ITEMS / 20
    # All NumPy arrays alive at one time, in bytes: less than a users x items matrix of booleans.
    assert peak < USERS * ITEMS, f"{peak / 1e6:.0f} MB of arrays at once"


def test_the_recorder_sees_a_dense_matrix():
    with LargestTensor() as largest:
        torch.zeros(300, 400).add_(1)
    assert largest.elements == 120_000
    tracemalloc.start()
    array = np.zeros((300, 4000))
    assert tracemalloc.get_traced_memory()[1] >= array.nbytes
    tracemalloc.stop()
