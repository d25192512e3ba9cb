"""What the tests of the diagnosis share: the sample, and a model of it that has learned."""

import pytest
from small_diagnoses import QUICK, trained

import recvae
from data_prep import sample


@pytest.fixture(scope="module")
def data():
    return sample().dataset()


@pytest.fixture(scope="module")
def healthy(data):
    return trained(recvae.MultVAE, data, epochs=6, beta_cap=0.2, learning_rate=5e-3, **QUICK)
