"""What only a CUDA device can show: no waiting within a step, and the same answers as on the CPU."""

from functools import partial

import numpy as np
import pytest
import torch
from conftest import checkerboard, random_clicks
from quick_models import NEURAL, quick

import recvae
from recvae.nn.batches import Clicks
from recvae.nn.noise import Noise
from recvae.training.loop import Hooks, TrainOptions, _Loop
from recvae.training.vocabulary import Naming

pytestmark = pytest.mark.gpu

BOARD = checkerboard()
MODELS = {name: partial(quick, name, batch_size=16, epochs=3) for name in NEURAL} | {
    "mult-vae, bernoulli, flips": partial(
        quick, "mult-vae", batch_size=16, epochs=3, likelihood="bernoulli", corruption="flips", samples=2,
        kl="sampled", gamma=0.01,
    ),
    "mult-vae, gaussian, subset": partial(
        quick, "mult-vae", batch_size=16, epochs=3, likelihood="gaussian", confidence=3.0, corruption="subset",
        anneal="cyclical",
    ),
    "mult-vae, composite": partial(quick, "mult-vae", batch_size=16, epochs=3, prior="composite"),
    "recvae, bernoulli, vamp": partial(
        quick, "recvae", batch_size=16, epochs=3, likelihood="bernoulli", prior="vamp"
    ),
}  # fmt: skip


def test_batches_on_the_device_equal_those_on_the_cpu():
    matrix = random_clicks(50, 30, 0.2)
    for one, two in zip(Clicks(matrix).in_order(7), Clicks(matrix, "cuda").in_order(7), strict=True):
        assert torch.equal(one.dense(one.normalised()), two.dense(two.normalised()).cpu())
        assert torch.equal(one.totals, two.totals.cpu())


@pytest.mark.parametrize("name", MODELS)
def test_no_step_waits_for_the_device(name):
    model = MODELS[name](device="cuda")
    model._begin_fit(BOARD, Naming())
    network = model._network()
    loop = _Loop(network, Clicks(BOARD, "cuda"), TrainOptions(epochs=2, batch_size=16), 1, Hooks())
    loop.epoch()  # buffers and kernels are made
    for phase in loop.phases:
        network.begin_phase(phase.name, 1, loop.clicks, 16)
        batches = loop.clicks.shuffled(16, loop.noise)
        first = next(batches)  # the epoch's one wait is here
        torch.cuda.set_sync_debug_mode("error")
        try:
            loop._update(phase, first)
            for batch in batches:
                loop._update(phase, batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", MODELS)
def test_a_model_trained_on_the_device_answers_alike_on_the_cpu(name, tmp_path):
    MODELS[name](device="cuda").fit(BOARD).save(tmp_path / "run")
    histories = random_clicks(20, 40, 0.2, seed=3)
    answers = [recvae.load(tmp_path / "run", device).recommend(histories, k=40).scores for device in ("cpu", "cuda")]
    np.testing.assert_allclose(answers[0], answers[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_resume_is_exact_on_the_device(name, tmp_path):
    whole = MODELS[name](device="cuda").fit(BOARD, folder=tmp_path / "whole").tensors()

    class StoppedError(Exception):
        pass

    def stop(report):
        if report.epoch == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        MODELS[name](device="cuda").fit(BOARD, folder=tmp_path / "run", on_epoch=stop)
    again = MODELS[name](device="cuda").fit(BOARD, folder=tmp_path / "run", resume=True).tensors()
    assert all(torch.equal(whole[key], again[key]) for key in whole)


def test_dropout_on_the_device_has_its_rate():
    kept = Noise(3, "cuda").dropout(torch.ones(100_000, device="cuda"), 0.3)
    assert (kept == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
