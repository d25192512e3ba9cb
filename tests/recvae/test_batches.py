"""The CSR on the device, its batches, and the sparse first layer."""

import numpy as np
import pytest
import torch
from conftest import random_clicks
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array, csr_array

from recvae.errors import DataError
from recvae.matrices import canonical
from recvae.nn.batches import Batch, Clicks, number_of_batches
from recvae.nn.layers import ClickLinear
from recvae.nn.noise import Noise


def dense_of(batch):
    return batch.dense(batch.values).numpy()


@given(st.integers(1, 40), st.integers(1, 30), st.floats(0, 0.5), st.integers(1, 50), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_a_shuffled_epoch_holds_every_row_once(users, items, density, batch_size, seed):
    matrix = random_clicks(users, items, density, seed)
    seen = np.zeros(users, dtype=int)
    for batch in Clicks(matrix).shuffled(batch_size, Noise(seed)):
        assert len(batch) <= batch_size
        rows = batch.users.numpy()
        seen[rows] += 1
        np.testing.assert_array_equal(dense_of(batch), matrix[rows].toarray())
        np.testing.assert_array_equal(batch.totals, matrix[rows].sum(axis=1))
    assert (seen == 1).all()


def test_in_order_and_drop_last():
    clicks = Clicks(random_clicks(10, 5, 0.4))
    assert [b.users.tolist() for b in clicks.in_order(4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [len(b) for b in clicks.shuffled(4, Noise(0), drop_last=True)] == [4, 4]
    assert [len(b) for b in clicks.shuffled(40, Noise(0), drop_last=True)] == [10]  # never the only one
    assert [number_of_batches(10, 4), number_of_batches(10, 4, drop_last=True), number_of_batches(8, 4)] == [3, 2, 2]


def test_orders_differ_between_passes_and_repeat_with_the_seed():
    clicks = Clicks(random_clicks(50, 5, 0.4))
    noise, again = Noise(7), Noise(7)
    first, second, repeat = (
        [b.users.tolist() for b in clicks.shuffled(10, source)] for source in (noise, noise, again)
    )
    assert first != second
    assert first == repeat


def test_an_empty_row_is_normalised_without_nan():
    matrix = csr_array(np.array([[0, 0, 0], [1, 0, 1.0]]))
    batch = Batch.of(matrix)
    np.testing.assert_allclose(batch.dense(batch.normalised()), [[0, 0, 0], [0.5**0.5, 0, 0.5**0.5]])


def test_weights_are_used_or_binarised():
    matrix = csr_array(np.array([[3, 0, 4.0]]))
    np.testing.assert_array_equal(dense_of(Batch.of(matrix)), [[1, 0, 1]])
    weighted = Batch.of(matrix, weighted=True)
    np.testing.assert_allclose(weighted.dense(weighted.normalised()), [[0.6, 0, 0.8]])


def test_the_dense_buffer_is_reused():
    clicks = Clicks(random_clicks(6, 9, 0.3))
    buffer = torch.full((4, 9), 7.0)
    batch = next(clicks.in_order(4))
    assert batch.dense(batch.values, out=buffer) is buffer
    np.testing.assert_array_equal(buffer, dense_of(batch))


@pytest.mark.parametrize("weight", [-1.0, np.nan, np.inf])
def test_a_bad_weight_is_named(weight):
    matrix = csr_array(np.array([[1, 0], [0, weight]]))
    with pytest.raises(DataError, match="user row 1 on item 1"):
        Clicks(matrix, weighted=True)


def test_canonical_leaves_the_callers_matrix_alone():
    given_matrix = csr_array(coo_array((np.ones(3), ([0, 0, 1], [1, 1, 0])), shape=(2, 2)))
    messy = csr_array((np.array([1.0, 1.0, 0.0]), np.array([1, 1, 0]), np.array([0, 2, 3])), shape=(2, 2))
    made = canonical(messy)
    assert messy.nnz == 3
    assert made.nnz == 1
    assert made[0, 1] == 2
    assert canonical(given_matrix).has_canonical_format


@pytest.mark.parametrize(
    ("values", "columns", "expected"),
    [
        ([1.0, 2.0], [1, 1], [0, 3]),  # a click twice
        ([5.0, 2.0], [1, 0], [2, 5]),  # out of order
        ([0.0, 2.0], [0, 1], [0, 2]),  # no click at all
    ],
)
def test_canonical_sums_sorts_and_drops(values, columns, expected):
    made = canonical(csr_array((np.array(values), np.array(columns), np.array([0, 2])), shape=(1, 2)))
    assert made.toarray().tolist() == [expected]
    assert made.indices.tolist() == np.flatnonzero(expected).tolist()
    assert made.has_canonical_format
    assert made.data.all()


@pytest.mark.parametrize("weight", [1e300, 1e-30])
def test_a_weight_that_float32_cannot_square_is_named(weight):
    with pytest.raises(DataError, match="ordinary size"):
        Clicks(csr_array(np.array([[1, weight]])), weighted=True)


def test_a_negative_weight_is_not_hidden_by_a_duplicate():
    twice = csr_array((np.array([2.0, -1.0]), np.array([1, 1]), np.array([0, 2])), shape=(1, 2))
    with pytest.raises(DataError, match="weight -1"):
        canonical(twice)


def test_values_that_are_no_numbers():
    for wrong in (np.array([["a", "b"]]), np.array([[1 + 2j]])):
        with pytest.raises(DataError, match=r"numbers"):
            canonical(wrong)


@pytest.mark.parametrize("wrong", [[[1, 0]], "matrix", None])
def test_what_is_no_matrix_is_refused(wrong):
    with pytest.raises(DataError, match="users x items"):
        canonical(wrong)


@pytest.mark.parametrize("rows_at_once", [1, 4, 1024])
def test_gathered_and_multiplied_first_layers_are_equal(rows_at_once, monkeypatch):
    """The sparse path against the plain dense one: outputs and gradients, however the gradient's rows are divided."""
    monkeypatch.setattr("recvae.nn.layers.ROWS_AT_ONCE", rows_at_once)
    batch = Batch.of(random_clicks(12, 30, 0.2))
    values = Noise(1).dropout(batch.normalised(), 0.5)
    layer = ClickLinear(30, 8)
    with torch.no_grad():
        layer.weight.normal_(generator=torch.Generator().manual_seed(1))
        layer.bias.normal_(generator=torch.Generator().manual_seed(2))
    results = []
    for path in (layer.gathered, layer.multiplied):
        layer.zero_grad()
        out = path(batch, values)
        out.square().sum().backward()
        results.append((out.detach(), layer.weight.grad.clone(), layer.bias.grad.clone()))
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


def test_dropout_is_inverted_and_has_its_rate():
    kept = Noise(3).dropout(torch.ones(100_000), 0.3)
    assert kept.unique().tolist() == pytest.approx([0, 1 / 0.7])
    # s.e. of the share is 0.00145: seven of them fail by luck less than once in 10^11 runs.
    assert (kept == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)


def test_latent_noise_has_standard_deviation_one():
    draws = Noise(4).normal(torch.empty(100_000))
    # s.e. 0.0022: nine of them.
    assert draws.std().item() == pytest.approx(1, abs=0.02)
    assert draws.mean().item() == pytest.approx(0, abs=0.02)
