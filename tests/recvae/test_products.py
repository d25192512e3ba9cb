"""The products and gathered sums against NumPy, whichever library makes them."""

from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import numpy as np
import oracles
import pytest
import torch
from conftest import random_clicks

from recvae.nn import kernels as products
from recvae.nn.batches import Batch
from recvae.nn.kernels import GradientMemory, gathered_sum, precision, product
from recvae.nn.layers import ClickLinear, Linear


@pytest.fixture(params=["onednn", "blas"])
def library(request, monkeypatch):
    if request.param == "onednn" and not (
        torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    ):
        pytest.skip("this torch has no oneDNN product")
    monkeypatch.setattr(products, "_onednn_is_faster", lambda: request.param == "onednn")


@pytest.mark.parametrize("rows", [1, 7, 64])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("turned", [(), (0,), (1,), (0, 1)])
def test_product(library, rows, biased, turned):
    a, b, bias = oracles.fixed(rows, 33), oracles.fixed(50, 33, phase=1), oracles.fixed(50, phase=2)
    tensors = [torch.tensor(x, dtype=torch.float32) for x in (a, b)]
    for n in turned:
        tensors[n] = tensors[n].T.contiguous().T  # a transposed view
    out = product(*tensors, torch.tensor(bias, dtype=torch.float32) if biased else None)
    np.testing.assert_allclose(out, a @ b.T + (bias if biased else 0), rtol=1e-5, atol=1e-5)


def test_product_of_a_slice(library):
    a, b = oracles.fixed(5, 8), oracles.fixed(30, 8, phase=1)
    whole = torch.tensor(b, dtype=torch.float32)
    out = product(torch.tensor(a, dtype=torch.float32), whole[10:17])
    np.testing.assert_allclose(out, a @ b[10:17].T, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("turned", [False, True])
def test_product_of_columns(library, turned):
    """Half of a code, as chunk gives it, and its transpose as the weight's gradient takes it."""
    a, b = oracles.fixed(20, 16)[:, 8:], oracles.fixed(20, 16, phase=1)[:, :8]
    first, second = (torch.tensor(oracles.fixed(20, 16, phase=p), dtype=torch.float32) for p in (0, 1))
    first, second = first[:, 8:], second[:, :8]
    out, expected = (product(first.T, second.T), a.T @ b) if turned else (product(first, second), a @ b.T)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


def test_rounded_products_have_bfloat16_s_precision_and_leave_no_trace(library):
    a, b, bias = (torch.tensor(oracles.fixed(*shape), dtype=torch.float32) for shape in ((9, 64), (50, 64), (50,)))
    exact = product(a, b, bias)
    with precision("bf16"):
        rounded = product(a, b, bias)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0.15)  # 64 products of 8-bit mantissas
    assert torch.equal(product(a, b, bias), exact)


def test_gathered_sum():
    table = oracles.fixed(6, 3)
    rows, weights, offsets = np.array([5, 0, 0, 2]), np.array([1.0, -2, 0.5, 3]), np.array([0, 2, 2, 4])
    expected = [table[5] - 2 * table[0], np.zeros(3), 0.5 * table[0] + 3 * table[2]]
    arguments = (torch.tensor(x) for x in (table, rows, offsets, weights))
    np.testing.assert_allclose(gathered_sum(*arguments), expected, rtol=1e-12)


def test_rows_that_a_step_leaves_are_zero_in_the_next():
    parameter, memory = torch.ones(5, 2), GradientMemory()
    first = memory.rows(parameter, torch.tensor([1, 3]))
    first[[1, 3]] = 7.0
    memory.written()
    memory.reclaim()
    second = memory.rows(parameter, torch.tensor([3]))
    assert second.data_ptr() == first.data_ptr()
    assert (second == 0).all()
    memory.release()
    assert (memory.rows(parameter, torch.tensor([0])) == 0).all()


def test_a_copied_layer_has_gradients_of_its_own():
    layer = Linear(3, 4)
    place = layer.memory.whole(layer.weight).data_ptr()
    layer.memory.reclaim()
    copied = deepcopy(layer)
    assert copied.memory.whole(copied.weight).data_ptr() != place
    assert layer.memory.whole(layer.weight).data_ptr() == place


def test_precision_ends_with_an_exception():
    a = torch.tensor(oracles.fixed(3, 5), dtype=torch.float32)
    exact = product(a, a)
    with pytest.raises(KeyError), precision("bf16"):
        raise KeyError
    assert torch.equal(product(a, a), exact)


@pytest.mark.parametrize("reclaimed", [False, True])
def test_memory_is_lent_once(reclaimed):
    parameter, memory = torch.nn.Parameter(torch.ones(5, 2)), GradientMemory()
    lent = [memory.rows(parameter, torch.tensor([1]))]
    if reclaimed:  # but the gradient is still there: gradients are being accumulated
        parameter.grad = lent[0]
        memory.reclaim()
    lent += [memory.rows(parameter, torch.tensor([1])), memory.whole(parameter), memory.whole(parameter)]
    assert len({gradient.data_ptr() for gradient in lent}) == 4


def test_memory_follows_its_parameter():
    memory = GradientMemory()
    memory.whole(torch.ones(5, 2))
    memory.reclaim()
    assert memory.whole(torch.ones(5, 2, dtype=torch.float64)).dtype == torch.float64
    memory.reclaim()
    assert memory.rows(torch.ones(7, 2), torch.tensor([6])).shape == (7, 2)


def two_batches():
    clicks = random_clicks(20, 30, 0.3)
    return Batch.of(clicks[:10]), Batch.of(clicks[10:])


def gradients(*sums, clear=()):
    """Gradients of a first layer after backward passes through sums of batches, cleared after some of them."""
    layer = ClickLinear(30, 4)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(oracles.fixed(30, 4)))
        layer.bias.zero_()
    for n, batches in enumerate(sums):
        sum(layer.gathered(b, b.normalised()).square().sum() for b in batches).backward()
        if n in clear:
            layer.zero_grad()
    return layer.weight.grad


def test_gradients_of_several_passes_add_up():
    one, two = two_batches()
    apart = gradients((one,)) + gradients((two,))
    torch.testing.assert_close(gradients((one, two)), apart)
    torch.testing.assert_close(gradients((one,), (two,)), apart)
    torch.testing.assert_close(gradients((one,), (two,), (one,), clear={1}), gradients((one,)))


def test_other_threads_do_not_round():
    a = torch.tensor(oracles.fixed(3, 5), dtype=torch.float32)
    exact = product(a, a)
    with precision("bf16"), ThreadPoolExecutor(1) as pool:
        assert torch.equal(pool.submit(product, a, a).result(), exact)


def test_backward_passes_round_as_their_forward_pass_did():
    grads = []
    for rounded in (False, True):
        layer, x = Linear(5, 4), torch.tensor(oracles.fixed(3, 5), dtype=torch.float32)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor(oracles.fixed(4, 5)))
        with precision("bf16" if rounded else "float32"):
            out = layer(x).sum()
        out.backward()
        grads.append(layer.weight.grad)
    assert not torch.equal(*grads)


def test_tf32_is_put_back_and_leaves_other_settings_alone():
    before = torch.backends.cuda.matmul.fp32_precision
    with precision("tf32"):
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    assert torch.backends.cuda.matmul.fp32_precision == before


@pytest.mark.parametrize("rows", [1, 2, 40])
def test_a_held_layer_gives_the_same_products(library, rows):
    """To the bit for several rows; a single row is summed in another order."""
    layer, a = Linear(33, 50), torch.tensor(oracles.fixed(rows, 33), dtype=torch.float32)
    with torch.no_grad():
        expected = layer(a)
        layer.hold()
        assert (layer.blocks is not None) == products._onednn_is_faster()
        if rows > 1:
            assert torch.equal(layer(a), expected)
        else:
            torch.testing.assert_close(layer(a), expected, rtol=1e-6, atol=1e-6)
        with precision("bf16"):
            assert torch.equal(layer(a), product(a, layer.weight, layer.bias))
    assert layer.state_dict().keys() == {"weight", "bias"}


def test_a_held_layer_asks_for_products_of_few_sizes(library, monkeypatch):
    """oneDNN keeps a program for each number of rows: 20 of the first 64 are asked for, all while holding."""
    layer, whole = Linear(33, 50), torch.tensor(oracles.fixed(70, 33), dtype=torch.float32)
    asked, real = [], torch.ops.mkldnn._linear_pointwise
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda a, *rest: asked.append(len(a)) or real(a, *rest))
    with torch.no_grad():
        expected = layer(whole)
        layer.hold()
        assert {*asked} <= {*products.FEW_ROWS, 70}
        asked.clear()
        for rows in range(2, 71):
            out = layer(whole[:rows])
            assert out.shape == (rows, 50)
            if products._onednn_is_faster():
                assert torch.equal(out, expected[:rows])
            torch.testing.assert_close(out, expected[:rows], rtol=1e-6, atol=1e-6)
    if products._onednn_is_faster():
        assert {*asked} == {*products.FEW_ROWS, *range(65, 71)} - {1}
