"""Losses against the oracles, values and gradients."""

import numpy as np
import oracles
import pytest
import torch
from scipy.sparse import csr_array
from scipy.stats import norm

from recvae.batches import Clicks
from recvae.losses import composite_log_prior, gaussian_log_density, kl_standard_normal, multinomial_log_likelihood

X = oracles.fixed_clicks()
COUNTS = X * (1 + np.arange(X.shape[1]) % 3)


@pytest.mark.parametrize("x", [X, COUNTS], ids=["binary", "counts"])
def test_multinomial_value(x):
    logits = oracles.fixed(*x.shape, scale=4)
    batch = Clicks(csr_array(x), weighted=True).all()
    value = multinomial_log_likelihood(torch.tensor(logits, dtype=torch.float32), batch)
    np.testing.assert_allclose(value, -oracles.multinomial_nll(logits, x), rtol=1e-5)
    assert value[-1] == 0  # the user without clicks


@pytest.mark.parametrize("x", [X, COUNTS], ids=["binary", "counts"])
def test_multinomial_gradient_against_differences_of_the_oracle(x):
    logits = oracles.fixed(*x.shape, scale=4)
    weights = 1 + np.arange(len(x))  # a different upstream gradient for each user
    batch = Clicks(csr_array(x), weighted=True).all()
    leaf = torch.tensor(logits, dtype=torch.float32, requires_grad=True)
    (multinomial_log_likelihood(leaf, batch) * torch.from_numpy(weights)).sum().backward()
    expected = np.zeros_like(logits)
    h = 1e-6
    for cell in np.ndindex(*logits.shape):
        moved = [logits.copy(), logits.copy()]
        moved[0][cell] += h
        moved[1][cell] -= h
        up, down = (-(oracles.multinomial_nll(m, x) * weights).sum() for m in moved)
        expected[cell] = (up - down) / (2 * h)
    np.testing.assert_allclose(leaf.grad, expected, rtol=1e-4, atol=1e-4)


def test_multinomial_gradient_equals_the_plain_autograd_one():
    batch = Clicks(csr_array(COUNTS), weighted=True).all()
    one = torch.tensor(oracles.fixed(*X.shape, scale=4), dtype=torch.float32, requires_grad=True)
    two = one.detach().clone().requires_grad_()
    multinomial_log_likelihood(one, batch).sum().backward()
    (torch.log_softmax(two, 1) * torch.tensor(COUNTS)).sum().backward()
    torch.testing.assert_close(one.grad, two.grad)


def test_multinomial_gradient_cannot_be_taken_twice_in_silence():
    leaf = torch.zeros(X.shape, requires_grad=True)
    loss = multinomial_log_likelihood(leaf, Clicks(csr_array(X)).all()).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        loss.backward()


def test_kl_sums_over_dimensions():
    mu, logvar = oracles.fixed(5, 8, phase=1), oracles.fixed(5, 8, phase=2)
    value = kl_standard_normal(torch.tensor(mu), torch.tensor(logvar))
    np.testing.assert_allclose(value, oracles.kl_to_standard_normal(mu, logvar), rtol=1e-12)


def test_gaussian_log_density_against_scipy():
    z, mu, logvar = (oracles.fixed(4, 3, phase=p) for p in (1, 2, 3))
    value = gaussian_log_density(torch.tensor(z), torch.tensor(mu), torch.tensor(logvar))
    np.testing.assert_allclose(value, norm.logpdf(z, mu, np.exp(logvar / 2)), rtol=1e-12)


def test_composite_prior():
    z, mu, logvar = (oracles.fixed(6, 9, scale=3, phase=p) for p in (1, 2, 3))
    value = composite_log_prior(*(torch.tensor(a) for a in (z, mu, logvar)))
    np.testing.assert_allclose(value, oracles.recvae_log_prior(z, mu, logvar), rtol=1e-10)


def test_composite_prior_is_a_density_in_each_dimension():
    # Integrated over a wide grid: the wide component alone reaches to several hundred.
    z = np.linspace(-2000, 2000, 4_000_001)
    mu, logvar = np.full_like(z, 0.7), np.full_like(z, -1.0)
    log_p = composite_log_prior(*(torch.tensor(a)[:, None] for a in (z, mu, logvar)))
    assert np.trapezoid(np.exp(log_p.numpy()), z) == pytest.approx(1, abs=1e-6)
