"""Top-k lists against a stable sort in Python."""

import numpy as np
import oracles
import pytest
import torch
from conftest import random_clicks
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from recvae.errors import InputError, WorkError
from recvae.queries import Query
from recvae.ranking.lists import rank
from recvae.ranking.selection import top_k


def scorer(scores):
    """A score function that looks rows up by a number hidden in nothing: it is called in order."""
    position = 0

    def score(part):
        nonlocal position
        rows = scores[position : position + part.shape[0]]
        position += part.shape[0]
        return torch.from_numpy(rows.copy())

    return score


@given(
    n=st.integers(0, 8),
    items=st.integers(1, 12),
    k=st.integers(1, 15),
    values=st.integers(1, 6),
    batch_size=st.integers(1, 9),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans()),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=200, deadline=None)
def test_rank_equals_a_stable_sort(n, items, k, values, batch_size, flags, seed):
    """Few distinct values make many ties; masks leave short rows; k may exceed the catalogue."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, values, (n, items)).astype(np.float32)
    histories = random_clicks(n, items, 0.3, seed) if n else csr_array((0, items), dtype=np.float32)
    exclude, by_row, use_allow, use_deny = flags
    allowed = np.ones((n, items), dtype=bool)
    allow = deny = None
    if use_allow:
        mask = rng.random((n, items) if by_row else items) < 0.6
        allow = csr_array(mask.astype(np.float32)) if by_row else np.flatnonzero(mask)
        allowed &= mask
    if use_deny:
        mask = rng.random((n, items) if by_row else items) < 0.3
        deny = csr_array(mask.astype(np.float32)) if by_row else np.flatnonzero(mask)
        allowed &= ~mask
    if exclude:
        allowed &= histories.toarray() == 0
    ids, best = rank(scorer(scores), Query(histories, k, exclude, allow, deny), batch_size=batch_size)
    assert ids.dtype == np.int32
    assert best.dtype == np.float32
    assert ids.shape == best.shape == (n, k)
    for u in range(n):
        expected_ids, expected = oracles.ranking(scores[u], k, allowed[u])
        assert ids[u].tolist() == expected_ids
        assert best[u].tolist() == expected


@given(
    rows=st.integers(1, 7),
    items=st.integers(1, 700),
    k=st.integers(1, 40),
    distinct=st.sampled_from([1, 3, 40, 10**6]),
    seed=st.integers(0, 999),
)
@settings(max_examples=300, deadline=None)
def test_top_k_is_the_stable_sort(rows, items, k, distinct, seed):
    """From all-equal scores, where blocks tie with each other, to scores without a tie; zeros of both signs."""
    draw = torch.rand(rows, items, generator=torch.Generator().manual_seed(seed))
    scores = (draw * distinct).floor() / distinct - 0.5
    scores[:, ::3] *= -1
    scores[scores.abs() < 0.1] *= 0
    k = min(k, items)
    values, columns = top_k(scores, k)
    expected_values, expected = scores.sort(dim=1, descending=True, stable=True)
    assert torch.equal(values, expected_values[:, :k])
    assert torch.equal(columns, expected[:, :k])


@pytest.mark.parametrize("place", [0, 350, 698, 699])
@pytest.mark.parametrize("nan", [np.nan, -np.nan])
@pytest.mark.parametrize("rows", [1, 2, 9])
@pytest.mark.parametrize("k", [2, 300, 699, 700])
def test_a_nan_anywhere_is_an_error(place, nan, rows, k):
    scores = torch.zeros(rows, 700)
    scores[-1, place] = nan
    with pytest.raises(WorkError, match="not numbers"):
        top_k(scores, k)


@pytest.mark.parametrize("rows", [1, 9])
def test_a_few_finite_scores_among_infinitely_low_ones(rows):
    scores = torch.full((rows, 700), -torch.inf)
    scores[:, [3, 600]] = torch.tensor([1.0, 2.0])
    values, columns = top_k(scores, 4)
    for row in range(rows):
        assert columns[row, :2].tolist() == [600, 3]
        assert values[row].tolist() == [2, 1, -np.inf, -np.inf]


def test_nan_scores_are_an_error():
    with pytest.raises(WorkError, match="not numbers"):
        rank(scorer(np.array([[1, np.nan, 0]], np.float32)), Query(csr_array((1, 3)), 1))


@pytest.mark.parametrize("rows", [2, 9])
@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_scores_of_other_types_are_ranked_as_float32(dtype, rows):
    scores = np.random.default_rng(1).permutation(rows * 90).reshape(rows, 90).astype(dtype)
    ids, best = rank(scorer(scores), Query(csr_array((rows, 90)), 3))
    assert best.dtype == np.float32
    assert ids.tolist() == np.argsort(-scores, axis=1, kind="stable")[:, :3].tolist()


def test_no_rows():
    values, columns = top_k(torch.zeros(0, 700), 3)
    assert values.shape == columns.shape == (0, 3)


@pytest.mark.parametrize("k", [0, -3, 1.5, True, "10"])
def test_a_bad_k(k):
    with pytest.raises(InputError, match="k must be"):
        rank(scorer(np.zeros((1, 3), np.float32)), Query(csr_array((1, 3)), k))


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (np.array([0, 3]), "outside 0 .. 2"),
        (np.array([-1]), "outside 0 .. 2"),
        (np.array([0.5]), "item indices"),
        (np.array([[0]]), "one-dimensional"),
        (csr_array((2, 3)), "shape"),
    ],
)
@pytest.mark.parametrize("name", ["allow", "deny"])
def test_a_bad_mask(name, mask, said):
    with pytest.raises(InputError, match=said) as error:
        rank(scorer(np.zeros((1, 3), np.float32)), Query(csr_array((1, 3)), 1, **{name: mask}))
    assert name in str(error.value)


def test_an_empty_allow_list_leaves_nothing():
    ids, scores = rank(scorer(np.zeros((1, 3), np.float32)), Query(csr_array((1, 3)), 2, allow=[]))
    assert ids.tolist() == [[-1, -1]]
    assert scores.tolist() == [[-np.inf, -np.inf]]
