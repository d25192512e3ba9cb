"""The multinomial likelihood, last layer included: against the oracle, and tile by tile against the plain form."""

import numpy as np
import oracles
import pytest
import torch
from conftest import LargestTensor, random_clicks
from scipy.sparse import csr_array, hstack

from recvae.nn import likelihoods as losses
from recvae.nn.batches import Batch
from recvae.nn.kernels import GradientMemory
from recvae.nn.likelihoods import multinomial_log_likelihood

X = oracles.fixed_clicks()
COUNTS = X * (1 + np.arange(X.shape[1]) % 3)
ITEMS, LATENT = 700, 6


def fixed_layer(x, latent=4, scale=2.0):
    """Code, weight and bias without a random generator."""
    users, items = x.shape
    return (
        oracles.fixed(users, latent, scale=scale, phase=1),
        oracles.fixed(items, latent, scale=scale, phase=2),
        oracles.fixed(items, scale=scale, phase=3),
    )


def leaves(arrays, dtype=torch.float32):
    return [torch.tensor(a, dtype=dtype, requires_grad=True) for a in arrays]


def plain(code, weight, bias, x):
    """The likelihood as it is written, left to autograd."""
    return (torch.log_softmax(code @ weight.T + bias, 1) * x).sum(1)


@pytest.fixture(params=["one tile", "tiles kept", "tiles made twice", "as on a device"])
def route(request, monkeypatch):
    """The ways that a step can go, by the sizes that choose them."""
    if request.param != "one tile":
        monkeypatch.setitem(losses.TILE_SCORES, "cpu", 1)  # the narrowest tiles
    if request.param == "tiles made twice":
        monkeypatch.setitem(losses.KEPT_SCORES, "cpu", 0)
    if request.param == "as on a device":
        monkeypatch.setattr(losses, "_knows_at_once", lambda values: False)
    return request.param


@pytest.mark.parametrize("x", [X, COUNTS], ids=["binary", "counts"])
def test_value(x):
    code, weight, bias = fixed_layer(x)
    value = multinomial_log_likelihood(*leaves((code, weight, bias)), Batch.of(csr_array(x), weighted=True))
    expected = -oracles.multinomial_nll(code @ weight.T + bias, x)
    np.testing.assert_allclose(value.detach(), expected, rtol=1e-5)
    assert value[-1] == 0  # the user without clicks


@pytest.mark.parametrize("far", [-300.0, -60.0, -30.0, 30.0, 80.0, 300.0])
def test_scores_far_from_0_are_as_exact(far, route):
    """The scores of every second user are so far from 0 that float32 may have no exponential of theirs."""
    x = np.tile(X, (1, 60))[:, :ITEMS]
    code, weight, bias = fixed_layer(x)
    code[::2, 0], code[1::2, 0], weight[:, 0] = far, 0.0, 1.0
    of_float32, of_float64 = leaves((code, weight, bias)), leaves((code, weight, bias), torch.float64)
    multinomial_log_likelihood(*of_float32, Batch.of(csr_array(x))).sum().backward()
    plain(*of_float64, torch.from_numpy(x)).sum().backward()
    for ours, exact in zip(of_float32, of_float64, strict=True):
        bound = 1e-5 * max(1.0, abs(far)) * float(exact.grad.abs().max())
        np.testing.assert_allclose(ours.grad, exact.grad, atol=bound)


@pytest.mark.parametrize("x", [X, COUNTS], ids=["binary", "counts"])
def test_gradients_against_differences_of_the_oracle(x):
    arrays = fixed_layer(x)
    upstream = 1 + np.arange(len(x))  # a different one for each user
    tensors = leaves(arrays)
    batch = Batch.of(csr_array(x), weighted=True)
    (multinomial_log_likelihood(*tensors, batch) * torch.from_numpy(upstream)).sum().backward()
    h = 1e-6
    for n, tensor in enumerate(tensors):
        expected = np.zeros_like(arrays[n])
        for cell in np.ndindex(*expected.shape):
            sides = []
            for step in (h, -h):
                moved = [a.copy() for a in arrays]
                moved[n][cell] += step
                code, weight, bias = moved
                sides.append(-(oracles.multinomial_nll(code @ weight.T + bias, x) * upstream).sum())
            expected[cell] = (sides[0] - sides[1]) / (2 * h)
        np.testing.assert_allclose(tensor.grad, expected, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("trained", ["all", "encoder", "decoder"])
def test_every_route_equals_the_plain_form(route, trained, dtype):
    matrix = random_clicks(9, ITEMS, 0.05)
    arrays = fixed_layer(matrix, LATENT, scale=0.7)
    one, two = leaves(arrays, dtype), leaves(arrays, dtype)
    for code, weight, bias in (one, two):
        code.requires_grad_(trained != "decoder")
        weight.requires_grad_(trained != "encoder")
        bias.requires_grad_(trained != "encoder")
    upstream = torch.linspace(-2, 3, 9, dtype=dtype)
    value = multinomial_log_likelihood(*one, Batch.of(matrix))
    expected = plain(*two, torch.from_numpy(matrix.toarray()).to(dtype))
    (value * upstream).sum().backward()
    (expected * upstream).sum().backward()
    exact = {"rtol": 1e-10, "atol": 1e-10} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(value, expected, **exact)
    for a, b in zip(one, two, strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, **exact)


def test_scores_far_apart_between_tiles(route):
    """The highest score is hundreds above, or below, those of another tile: no overflow, and nothing lost."""
    matrix = random_clicks(4, ITEMS, 0.05)
    code, weight, bias = fixed_layer(matrix, LATENT, scale=0.5)
    bias[:250] += 400
    bias[600:] -= 400
    one, two = leaves((code, weight, bias)), leaves((code, weight, bias), torch.float64)
    value = multinomial_log_likelihood(*one, Batch.of(matrix))
    expected = plain(*two, torch.from_numpy(matrix.toarray()).double())
    value.sum().backward()
    expected.sum().backward()
    np.testing.assert_allclose(value.detach(), expected.detach(), rtol=1e-5)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a.grad, b.grad, rtol=1e-4, atol=1e-4)


def test_a_large_catalogue_holds_no_scores_of_the_whole_batch(monkeypatch):
    monkeypatch.setitem(losses.TILE_SCORES, "cpu", 1)
    monkeypatch.setitem(losses.KEPT_SCORES, "cpu", 0)
    users, items = 300, 5000
    matrix = random_clicks(users, items, 0.002)
    tensors = leaves((oracles.fixed(users, 4), oracles.fixed(items, 4), oracles.fixed(items)))
    with LargestTensor() as largest:
        multinomial_log_likelihood(*tensors, Batch.of(matrix)).sum().backward()
    assert largest.elements <= users * 256 < users * items / 10, (largest.shape, largest.operation)


def test_the_gradient_can_be_taken_again(route):
    matrix = random_clicks(5, ITEMS, 0.05)
    tensors = leaves(fixed_layer(matrix, LATENT))
    value = multinomial_log_likelihood(*tensors, Batch.of(matrix), GradientMemory()).sum()
    value.backward(retain_graph=True)
    once = [tensor.grad.clone() for tensor in tensors]
    value.backward()  # added to the first, although the memory is the same
    for tensor, first in zip(tensors, once, strict=True):
        torch.testing.assert_close(tensor.grad, 2 * first)


def test_memory_for_gradients_is_used_again():
    matrix = random_clicks(5, ITEMS, 0.05)
    memory, places = GradientMemory(), set()
    tensors = leaves(fixed_layer(matrix, LATENT))
    for _ in range(3):
        multinomial_log_likelihood(*tensors, Batch.of(matrix), memory).sum().backward()
        places.add(tensors[1].grad.data_ptr())
        for tensor in tensors:
            tensor.grad = None
        memory.reclaim()
    assert len(places) == 1


def test_a_backward_pass_that_was_interrupted_can_be_taken_again(monkeypatch):
    monkeypatch.setitem(losses.TILE_SCORES, "cpu", 1)
    matrix = random_clicks(5, ITEMS, 0.05)
    one, two = (leaves(fixed_layer(matrix, LATENT)) for _ in range(2))
    multinomial_log_likelihood(*two, Batch.of(matrix)).sum().backward()
    value = multinomial_log_likelihood(*one, Batch.of(matrix)).sum()
    with monkeypatch.context() as broken:
        broken.setattr(losses, "gathered_sum", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            value.backward(retain_graph=True)
    for tensor in one:
        tensor.grad = None
    value.backward()
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_a_bias_can_be_trained_alone(route):
    matrix = random_clicks(5, ITEMS, 0.05)
    code, weight, bias = leaves(fixed_layer(matrix, LATENT))
    for tensor in (code, weight):
        tensor.requires_grad_(False)
    multinomial_log_likelihood(code, weight, bias, Batch.of(matrix)).sum().backward()
    other = bias.detach().clone().requires_grad_()
    plain(code, weight, other, torch.from_numpy(matrix.toarray())).sum().backward()
    torch.testing.assert_close(bias.grad, other.grad, rtol=1e-5, atol=1e-5)


def test_a_tile_of_items_that_cannot_be_drawn(route):
    others = random_clicks(5, ITEMS - 300, 0.05)
    matrix = hstack([csr_array((5, 300), dtype=np.float32), others], format="csr")
    code, weight, bias = leaves(fixed_layer(matrix, LATENT))
    with torch.no_grad():
        bias[:300] = -torch.inf
    value = multinomial_log_likelihood(code, weight, bias, Batch.of(matrix))
    value.sum().backward()
    expected = plain(code, weight[300:], bias[300:], torch.from_numpy(others.toarray()))
    torch.testing.assert_close(value, expected)
    assert code.grad.isfinite().all()
