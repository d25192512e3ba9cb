"""Annealing against the papers' rule."""

import oracles
import pytest

from recvae.models.mult import MultVAENetwork, MultVAEOptions
from recvae.nn.schedules import cosine_rate, linear_beta, share_beta


@pytest.mark.parametrize("step", [0, 1, 39_999, 40_000, 40_001, 199_999, 200_000, 10**7])
def test_the_papers_schedule(step):
    assert linear_beta(step, cap=0.2, updates=200_000) == oracles.mult_vae_beta(step)


def test_it_starts_at_zero_and_never_passes_its_cap():
    betas = [linear_beta(step, cap=0.3, updates=10) for step in range(30)]
    assert betas[0] == 0
    assert betas[3:] == [0.3] * 27


def test_the_share_of_a_run():
    betas = [share_beta(step, cap=0.4, share=0.5, total=100) for step in range(100)]
    assert betas[0] == 0
    assert betas[25] == pytest.approx(0.2)
    assert betas[50:] == [0.4] * 50
    assert share_beta(0, cap=0.4, share=0, total=100) == 0.4


def test_the_options_choose():
    def beta(**options):
        return MultVAENetwork(5, MultVAEOptions(hidden=(3,), latent=2, **options)).beta(30, 100)

    assert beta() == 30 / 200_000
    assert beta(anneal_updates=100) == 0.2
    assert beta(anneal="share", anneal_share=0.6) == pytest.approx(0.1)
    assert beta(anneal="constant") == 0.2


def test_half_a_cosine():
    assert cosine_rate(0, total=8) == 1
    assert cosine_rate(4, total=8) == pytest.approx(0.5)
    assert cosine_rate(2, total=8) == pytest.approx((2 + 2**0.5) / 4)
    assert 0 < cosine_rate(7, total=8) < 0.05
