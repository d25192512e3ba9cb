"""KL terms, densities and the composite prior against the oracles."""

import numpy as np
import oracles
import pytest
import torch
from conftest import LargestTensor, random_clicks
from scipy.sparse import csr_array
from scipy.stats import norm

from recvae.nn import likelihoods as losses
from recvae.nn.batches import Batch
from recvae.nn.densities import composite_log_prior, gaussian_log_density, kl_standard_normal
from recvae.nn.likelihoods import scores_at


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


# --- scores of clicks -------------------------------------------------------------------------------------------------


def layer(users, items, width, dtype=torch.float64):
    """Code, weight and bias to differentiate by."""
    shapes = ((users, width), (items, width), (items,))
    return [
        torch.tensor(oracles.fixed(*shape, phase=n), dtype=dtype, requires_grad=True) for n, shape in enumerate(shapes)
    ]


@pytest.mark.parametrize("tile", [1, 1 << 18])
@pytest.mark.parametrize("trained", ["all", "code", "weight", "bias"])
def test_scores_of_clicks_are_the_plain_expression(monkeypatch, tile, trained):
    monkeypatch.setitem(losses.TILE_SCORES, "cpu", tile)
    x = oracles.fixed_clicks()  # its last user has none
    rows, columns = (torch.from_numpy(place) for place in x.nonzero())
    one, two = layer(*x.shape, 4), layer(*x.shape, 4)
    for tensors in (one, two):
        for tensor, name in zip(tensors, ("code", "weight", "bias"), strict=True):
            tensor.requires_grad_(trained in ("all", name))
    value = scores_at(*one, Batch.of(csr_array(x)))
    code, weight, bias = two
    plain = (code[rows] * weight[columns]).sum(1) + bias[columns]
    torch.testing.assert_close(value, plain, rtol=1e-14, atol=1e-14)
    upstream = torch.from_numpy(oracles.fixed(len(rows), phase=0.3))
    (value * upstream).sum().backward()
    (plain * upstream).sum().backward()
    for a, b in zip(one, two, strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-12, atol=1e-13)


def test_gradients_of_scores_of_clicks_against_differences():
    x = oracles.fixed_clicks()
    assert torch.autograd.gradcheck(lambda *tensors: scores_at(*tensors, Batch.of(csr_array(x))), layer(*x.shape, 3))


def test_gradients_of_scores_of_clicks_are_the_same_bits_on_two_threads():
    users, items, width = 200, 50, 16
    rows = Batch.of(random_clicks(users, items, 0.6))
    tensors = layer(users, items, width, torch.float32)
    upstream = torch.from_numpy(oracles.fixed(len(rows.columns), phase=0.3)).float()
    threads = torch.get_num_threads()
    found = []
    try:
        for n in (1, *[2] * 20):
            torch.set_num_threads(n)
            found.append(torch.autograd.grad((scores_at(*tensors, rows) * upstream).sum(), tensors))
    finally:
        torch.set_num_threads(threads)
    for again in found:
        assert all(torch.equal(a, b) for a, b in zip(found[0], again, strict=True))


def test_scores_of_clicks_gather_no_more_than_a_tile(monkeypatch):
    users, items, width = 100, 60, 8
    rows = Batch.of(random_clicks(users, items, 0.5))
    monkeypatch.setitem(losses.TILE_SCORES, "cpu", 512)
    with LargestTensor() as largest:
        scores_at(*layer(users, items, width), rows).sum().backward()
    assert largest.elements <= len(rows.columns), (largest.shape, largest.operation)
