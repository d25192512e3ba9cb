"""The Bernoulli and the Gaussian likelihood, last layer included: against the oracles, and against the plain form."""

from functools import partial

import numpy as np
import oracles
import oracles_family
import pytest
import torch
from conftest import LargestTensor, checkerboard, random_clicks
from scipy.sparse import csr_array

import recvae
from recvae.errors import InputError
from recvae.models.mult import MultDAENetwork, MultDAEOptions
from recvae.nn import likelihoods as losses
from recvae.nn.batches import Batch
from recvae.nn.kernels import GradientMemory, precision
from recvae.nn.likelihoods import (
    LikelihoodOptions,
    bernoulli_log_likelihood,
    gaussian_log_likelihood,
    likelihood,
    multinomial_log_likelihood,
)

X = oracles.fixed_clicks()
COUNTS = X * (1 + np.arange(X.shape[1]) % 3)
ITEMS, LATENT = 700, 6
OURS = {
    "bernoulli": bernoulli_log_likelihood,
    "gaussian": gaussian_log_likelihood,
    "gaussian, confident": partial(gaussian_log_likelihood, confidence=7.5),
    "gaussian, doubtful": partial(gaussian_log_likelihood, confidence=0.25),
}
ORACLES = {
    "bernoulli": oracles_family.bernoulli_nll,
    "gaussian": oracles_family.gaussian_nll,
    "gaussian, confident": partial(oracles_family.gaussian_nll, confidence=7.5),
    "gaussian, doubtful": partial(oracles_family.gaussian_nll, confidence=0.25),
}
CASES = [(name, X) for name in OURS] + [(name, COUNTS) for name in OURS if name != "bernoulli"]


def fixed_layer(users, items, latent=4, scale=1.0):
    """Code, weight and bias without a random generator."""
    return (
        oracles.fixed(users, latent, scale=scale, phase=1),
        oracles.fixed(items, latent, scale=scale, phase=2),
        oracles.fixed(items, scale=scale, phase=3),
    )


def leaves(arrays, dtype=torch.float32):
    return [torch.tensor(np.asarray(a), dtype=dtype, requires_grad=True) for a in arrays]


def plain(name, code, weight, bias, x):
    """The likelihood as it is written, over a dense (B, I) matrix, left to autograd."""
    f = code @ weight.T + bias
    if name == "bernoulli":
        return -torch.nn.functional.binary_cross_entropy_with_logits(f, x, reduction="none").sum(1)
    confidence = {"gaussian": 1.0, "gaussian, confident": 7.5, "gaussian, doubtful": 0.25}[name]
    return -(torch.where(x > 0, confidence, 1.0) / 2 * (x - f).square()).sum(1)


@pytest.fixture(params=["one tile", "tiles kept", "tiles made twice", "as on a device"])
def route(request, monkeypatch):
    """The ways that a step can go, by the sizes that choose them."""
    if request.param != "one tile":
        monkeypatch.setitem(losses.TILE_SCORES, "cpu", 1)
    if request.param == "tiles made twice":
        monkeypatch.setitem(losses.KEPT_SCORES, "cpu", 0)
    if request.param == "as on a device":
        monkeypatch.setattr(losses, "_knows_at_once", lambda values: False)
    return request.param


@pytest.mark.parametrize(("name", "x"), CASES)
def test_value(name, x):
    code, weight, bias = fixed_layer(*x.shape)
    value = OURS[name](*leaves((code, weight, bias)), Batch.of(csr_array(x), weighted=True))
    np.testing.assert_allclose(value.detach(), -ORACLES[name](code @ weight.T + bias, x), rtol=1e-5)
    assert value[-1] < -1  # a user without clicks still has all items against them


@pytest.mark.parametrize(("name", "x"), CASES)
def test_gradients_against_differences_of_the_oracle(name, x):
    arrays = fixed_layer(*x.shape)
    upstream = 1 + np.arange(len(x))  # a different one for each user
    tensors = leaves(arrays)
    (OURS[name](*tensors, Batch.of(csr_array(x), weighted=True)) * torch.from_numpy(upstream)).sum().backward()
    h = 1e-6
    for n, tensor in enumerate(tensors):
        expected = np.zeros_like(arrays[n])
        for cell in np.ndindex(*expected.shape):
            sides = []
            for step in (h, -h):
                moved = [a.copy() for a in arrays]
                moved[n][cell] += step
                code, weight, bias = moved
                sides.append(-(ORACLES[name](code @ weight.T + bias, x) * upstream).sum())
            expected[cell] = (sides[0] - sides[1]) / (2 * h)
        np.testing.assert_allclose(tensor.grad, expected, rtol=1e-4, atol=3e-4)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("trained", ["all", "encoder", "decoder", "bias"])
def test_every_route_equals_the_plain_form(name, route, trained, dtype):
    matrix = random_clicks(9, ITEMS, 0.05)
    arrays = fixed_layer(9, ITEMS, LATENT, scale=0.7)
    one, two = leaves(arrays, dtype), leaves(arrays, dtype)
    for code, weight, bias in (one, two):
        code.requires_grad_(trained in ("all", "encoder"))
        weight.requires_grad_(trained in ("all", "decoder"))
        bias.requires_grad_(trained != "encoder")
    upstream = torch.linspace(-2, 3, 9, dtype=dtype)
    value = OURS[name](*one, Batch.of(matrix))
    expected = plain(name, *two, torch.from_numpy(matrix.toarray()).to(dtype))
    (value * upstream).sum().backward()
    (expected * upstream).sum().backward()
    exact = {"rtol": 1e-10, "atol": 1e-10} if dtype == torch.float64 else {"rtol": 2e-5, "atol": 2e-4}
    torch.testing.assert_close(value, expected, **exact)
    for a, b in zip(one, two, strict=True):
        if a.requires_grad:
            torch.testing.assert_close(a.grad, b.grad, **exact)
        else:
            assert a.grad is None


@pytest.mark.parametrize("scale", [12.0, 30.0, 300.0])
def test_bernoulli_of_far_scores(scale, route):
    """No overflow and no log of zero: log sigma(-300) is -300."""
    matrix = random_clicks(4, ITEMS, 0.05)
    code, weight, bias = fixed_layer(4, ITEMS, LATENT, scale=0.5)
    bias = bias + np.where(np.arange(ITEMS) % 2, scale, -scale)
    one, two = leaves((code, weight, bias)), leaves((code, weight, bias), torch.float64)
    value = bernoulli_log_likelihood(*one, Batch.of(matrix))
    expected = plain("bernoulli", *two, torch.from_numpy(matrix.toarray()).double())
    torch.testing.assert_close(bernoulli_log_likelihood(*two, Batch.of(matrix)), expected, rtol=1e-12, atol=0)
    value.sum().backward()
    expected.sum().backward()
    np.testing.assert_allclose(value.detach(), expected.detach(), rtol=1e-5)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a.grad, b.grad, rtol=1e-4, atol=1e-4)


def test_gaussian_in_float32_at_the_size_of_a_catalogue():
    """20,000 items, 200 dimensions, scores as a trained model has them: the sum over all items keeps its digits."""
    users, items, latent = 20, 20_000, 200
    g = torch.Generator().manual_seed(1)
    code = torch.randn(users, latent, generator=g, dtype=torch.float64)
    weight = torch.randn(items, latent, generator=g, dtype=torch.float64) * 0.1 / latent**0.5
    bias = torch.rand(items, generator=g, dtype=torch.float64) ** 8  # popularity: most items near 0, a few near 1
    matrix = random_clicks(users, items, 0.005)
    for confidence in (1.0, 20.0):
        results = []
        for dtype in (torch.float32, torch.float64):
            tensors = leaves((code, weight, bias), dtype)
            value = gaussian_log_likelihood(*tensors, Batch.of(matrix), confidence=confidence)
            value.mean().backward()
            results.append((value.detach(), *(t.grad for t in tensors)))
        for single, double in zip(*results, strict=True):
            error = (single - double).norm() / double.norm()
            assert error < 2e-6, error


def test_gaussian_where_weights_and_biases_cancel():
    """z'W'Wz, 2 z'W'b and b'b are a hundred times their sum here: two digits are lost, and no more."""
    g = torch.Generator().manual_seed(2)
    code = torch.randn(5, 16, generator=g, dtype=torch.float64)
    code[:] = code[0]
    weight = torch.randn(2000, 16, generator=g, dtype=torch.float64)
    bias = -weight @ code[0] * 0.9
    matrix = random_clicks(5, 2000, 0.01)
    single, double = (
        gaussian_log_likelihood(*leaves((code, weight, bias), dtype), Batch.of(matrix))
        for dtype in (torch.float32, torch.float64)
    )
    np.testing.assert_allclose(single.detach(), double.detach(), rtol=3e-5)


@pytest.mark.parametrize("name", OURS)
def test_a_large_catalogue_holds_no_scores_of_the_whole_batch(name, monkeypatch):
    monkeypatch.setitem(losses.TILE_SCORES, "cpu", 1)
    monkeypatch.setitem(losses.KEPT_SCORES, "cpu", 0)
    users, items = 300, 5000
    matrix = random_clicks(users, items, 0.0005)
    tensors = leaves((oracles.fixed(users, 4), oracles.fixed(items, 4), oracles.fixed(items)))
    with LargestTensor() as largest:
        OURS[name](*tensors, Batch.of(matrix)).sum().backward()
    assert largest.elements <= users * 256 < users * items / 10, (largest.shape, largest.operation)


@pytest.mark.parametrize("name", OURS)
def test_the_gradient_can_be_taken_again(name, route):
    tensors = leaves(fixed_layer(5, ITEMS, LATENT))
    value = OURS[name](*tensors, Batch.of(random_clicks(5, ITEMS, 0.05)), GradientMemory()).sum()
    value.backward(retain_graph=True)
    once = [tensor.grad.clone() for tensor in tensors]
    value.backward()
    for tensor, first in zip(tensors, once, strict=True):
        torch.testing.assert_close(tensor.grad, 2 * first)


@pytest.mark.parametrize("name", OURS)
def test_memory_for_gradients_is_used_again(name):
    matrix = random_clicks(5, ITEMS, 0.05)
    memory, places = GradientMemory(), set()
    tensors = leaves(fixed_layer(5, ITEMS, LATENT))
    for _ in range(3):
        OURS[name](*tensors, Batch.of(matrix), memory).sum().backward()
        places.add(tensors[1].grad.data_ptr())
        for tensor in tensors:
            tensor.grad = None
        memory.reclaim()
    assert len(places) == 1


def test_what_rounding_does():
    """bfloat16 rounds the Bernoulli's products, and never the Gaussian's, whose sums stand for all items at once."""
    matrix = random_clicks(9, ITEMS, 0.05)
    tensors = leaves(fixed_layer(9, ITEMS, LATENT, scale=0.7))
    with torch.no_grad():
        exact = {name: ours(*tensors, Batch.of(matrix)) for name, ours in OURS.items()}
        with precision("bf16"):
            rounded = {name: ours(*tensors, Batch.of(matrix)) for name, ours in OURS.items()}
    torch.testing.assert_close(rounded["bernoulli"], exact["bernoulli"], rtol=1e-2, atol=0)
    assert not torch.equal(rounded["bernoulli"], exact["bernoulli"])
    assert all(torch.equal(rounded[name], exact[name]) for name in OURS if name != "bernoulli")


def test_names():
    def named(name, **more):
        return likelihood(LikelihoodOptions(likelihood=name, **more), weighted=False)

    assert named("multinomial") is multinomial_log_likelihood
    assert named("bernoulli") is bernoulli_log_likelihood
    assert named("gaussian", confidence=3.0).keywords == {"confidence": 3.0}
    assert recvae.MultVAE.model_defaults.likelihood == recvae.MultDAE.model_defaults.likelihood == "multinomial"


@pytest.mark.parametrize(("name", "options"), [("bernoulli", {}), ("gaussian", {}), ("gaussian", {"confidence": 4.0})])
def test_mult_dae(name, options, written_noise):
    network = MultDAENetwork(X.shape[1], MultDAEOptions(latent=4, likelihood=name, **options))
    batch = Batch.of(csr_array(X))
    loss = network.loss("all", batch, 0.0, written_noise).total
    logits = network.output(network.decode(torch.tanh(network.encode(batch, written_noise))))
    expected = partial(oracles_family.NLL[name], **options)(logits.detach().double().numpy(), X).mean()
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", [recvae.MultVAE, recvae.MultDAE])
@pytest.mark.parametrize("options", [{"likelihood": "bernoulli"}, {"likelihood": "gaussian", "confidence": 5.0}])
def test_taste_is_learned_under_any_likelihood(kind, options):
    """Even users like even items: of a new user's items, those of their colour come first."""
    board = checkerboard()
    model = kind(hidden=(32,), latent=16, epochs=40, batch_size=10, learning_rate=0.01, dropout=0.3, seed=1, **options)
    model.fit(board)
    histories = np.zeros((4, 40), np.float32)
    for user in range(4):
        histories[user, (user % 2) :: 4] = 1
    ids, _ = model.recommend(csr_array(histories), k=10)
    assert [set(row % 2) for row in ids] == [{0}, {1}, {0}, {1}]


def test_bernoulli_of_weights_is_refused():
    with pytest.raises(InputError, match="clicks, not of weights"):
        recvae.MultVAE(likelihood="bernoulli", weighted=True).fit(checkerboard())
