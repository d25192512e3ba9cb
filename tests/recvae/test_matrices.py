"""Matrices as people hand them over: any type of number, any form, and indices that do not fit."""

import os
import subprocess
import sys
from pathlib import Path

import inconsistent_matrices
import numpy as np
import pytest
from conftest import checkerboard, random_clicks
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import bsr_array, coo_array, csc_array, csr_array, csr_matrix, dia_array, lil_array

import recvae
from eval import ListCounts, evaluate
from recvae.errors import DataError, InputError
from recvae.matrices import Rows, canonical
from recvae.nn.batches import Clicks

INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
NUMBERS = ("bool", *INTEGERS, "float16", "float32", "float64")


def most(dtype):
    """The largest weight of a type that sums are tried with: its own maximum, as far as float32 has ordinary sizes."""
    kind = np.dtype(dtype).kind
    return 1 if kind == "b" else int(np.iinfo(dtype).max) if kind in "iu" else 60_000


@st.composite
def repeated_clicks(draw):
    dtype = np.dtype(draw(st.sampled_from(NUMBERS)))
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    cell = st.tuples(st.integers(0, rows - 1), st.integers(0, columns - 1))
    entries = draw(st.lists(st.tuples(cell, st.sampled_from([0, 1, (most(dtype) + 1) // 2, most(dtype)])), max_size=30))
    places = np.array([place for place, _ in entries], dtype=np.int64).reshape(-1, 2)
    values = np.array([value for _, value in entries], dtype=dtype)
    return places, values, (rows, columns)


def as_csr(places, values, shape):
    """A CSR that still has every entry by itself."""
    order = np.argsort(places[:, 0], kind="stable")
    indptr = np.concatenate([[0], np.cumsum(np.bincount(places[:, 0], minlength=shape[0]))])
    return csr_array((values[order], places[order, 1], indptr), shape=shape)


def as_bsr(places, values, shape):
    matrix = as_csr(places, values, shape)
    return bsr_array((matrix.data[:, None, None], matrix.indices, matrix.indptr), shape=shape, blocksize=(1, 1))


FORMS = {
    "csr": as_csr,
    "csr_matrix": lambda *given: csr_matrix(as_csr(*given)),
    "csc": lambda places, values, shape: as_csr(places[:, ::-1], values, shape[::-1]).T,
    "coo": lambda places, values, shape: coo_array((values, (places[:, 0], places[:, 1])), shape=shape),
    "bsr": as_bsr,
}


@pytest.mark.parametrize("form", FORMS)
@given(repeated_clicks())
@settings(max_examples=80, deadline=None)
def test_clicks_of_any_type_add_up_as_in_float64(form, clicks):
    places, values, shape = clicks
    half = values.dtype == np.float16  # SciPy makes no such matrix, but whoever sets the values can
    dense = np.zeros(shape)
    np.add.at(dense, (places[:, 0], places[:, 1]), values.astype(np.float64))
    matrix = FORMS[form](places, values.astype(np.float32) if half else values, shape)
    if half:
        matrix.data = matrix.data.astype(np.float16)
    made = canonical(matrix)
    np.testing.assert_allclose(made.toarray().astype(np.float64), dense, rtol=1e-6)
    assert made.has_canonical_format
    assert (made.data > 0).all()


def test_a_click_that_wrapped_to_nothing_is_seen_and_counted():
    """128 + 128 = 0 in eight bits: the click was lost, and the item that the user has seen was recommended."""
    twice = csr_array((np.array([128, 128], np.uint8), np.array([3, 3]), np.array([0, 2])), shape=(1, 40))
    model = recvae.Popularity().fit(checkerboard())
    ids, _ = model.recommend(twice, k=40)
    assert 3 not in ids[0]
    weights = csr_array((np.array([200, 200], np.uint8), np.array([3, 3]), np.array([0, 2])), shape=(1, 40))
    assert Clicks(weights, weighted=True).weights.tensor.tolist() == [400.0]


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "float32"])
def test_evaluation_takes_any_type_of_number(dtype):
    fold_in, held_out = random_clicks(20, 40, 0.2, seed=1), random_clicks(20, 40, 0.2, seed=2)
    held_out = csr_array(held_out - held_out.multiply(fold_in))
    held_out.eliminate_zeros()
    model = recvae.Popularity().fit(checkerboard())
    expected = evaluate(model, fold_in, held_out, "recall@5").metrics
    assert evaluate(model, fold_in.astype(dtype), held_out.astype(dtype), "recall@5").metrics == expected


# --- indices that do not fit --------------------------------------------------------------------------------------


def test_an_inconsistent_csr_is_one_sentence_everywhere():
    """In a process of its own: where no check is made, memory is read and written beyond the arrays."""
    program = Path(inconsistent_matrices.__file__)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=environment)
    assert done.returncode == 0, f"{done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


@pytest.mark.parametrize("form", [csc_array, coo_array, lil_array, bsr_array])
def test_other_forms_are_looked_at_too(form):
    matrix = form(checkerboard())
    if matrix.format == "coo":
        matrix.coords = (matrix.coords[0], np.full_like(matrix.coords[1], 4000))
    elif matrix.format == "lil":
        matrix.rows[3] = [4000] * len(matrix.rows[3])
    else:
        matrix.indices[3] = 4000
    with pytest.raises(DataError):
        canonical(matrix)


def test_forms_without_indices_and_empty_ones_are_taken():
    assert canonical(dia_array((np.ones((1, 3)), [0]), shape=(3, 3))).nnz == 3
    for shape in ((0, 0), (0, 4), (4, 0), (3, 3)):
        assert canonical(csr_array(shape)).shape == shape


def test_counts_of_lists_take_no_list_beyond_the_catalogue():
    with pytest.raises(InputError, match="outside the catalogue"):
        ListCounts("coverage@1", 3).add(np.array([[3]], np.int32))


@given(
    seed=st.integers(0, 10_000), n=st.integers(0, 6), width=st.integers(1, 9), density=st.sampled_from([0.0, 0.3, 1.0])
)
@settings(max_examples=60, deadline=None)
def test_rows_without_scipy_are_those_of_scipy(seed, n, width, density):
    rng = np.random.default_rng(seed)
    dense = ((rng.random((n, width)) < density) * rng.integers(1, 5, (n, width))).astype(np.float32)
    of_scipy = csr_array(dense)
    places = rng.permutation(of_scipy.nnz)
    at = of_scipy.tocoo()
    rows = Rows.of_entries(at.data[places], at.coords[0][places], at.coords[1][places], shape=dense.shape)
    assert canonical(rows) is rows
    np.testing.assert_array_equal(rows.in_scipy().toarray(), dense)
    np.testing.assert_array_equal(rows.by_column.in_scipy().toarray(), dense.T)
    start, stop = sorted(rng.integers(0, n + 1, 2))
    chosen = rng.integers(0, n, 5) if n else np.zeros(0, np.int64)
    for part in (slice(start, stop), slice(stop, start), slice(None), chosen):
        taken = rows[part]
        assert taken.shape == of_scipy[part].shape
        np.testing.assert_array_equal(taken.in_scipy().toarray(), dense[part])
    lists = [np.flatnonzero(row).tolist() for row in dense]
    np.testing.assert_array_equal(Rows.of_lists(lists, width, 2.0).in_scipy().toarray(), (dense > 0) * 2.0)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        (([1.0, 1.0], [1, 0], [0, 2]), "row 0 of the matrix do not ascend"),
        (([1.0, 1.0], [1, 1], [0, 2]), "row 0 of the matrix do not ascend"),
        (([1.0, 0.0], [0, 1], [0, 2]), "weight 0.0"),
        (([1.0, np.nan], [0, 1], [0, 2]), "weight nan"),
        (([1.0, 1.0], [0, 3], [0, 2]), "names column 3"),
        (([1.0], [0], [0, 2]), "row pointers"),
    ],
)
def test_rows_that_are_not_canonical_are_refused(arrays, said):
    data, indices, indptr = arrays
    rows = Rows((np.array(data, np.float32), np.array(indices), np.array(indptr)), shape=(1, 3))
    with pytest.raises(DataError, match=said):
        canonical(rows)
