"""Matrices as mapped files: the same clicks as in memory, and no more memory than the rows in use."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from small_datasets import as_version_1, build

import recvae
from data_prep import Dataset, mapped
from data_prep.folder import DatasetFolder
from data_prep.manifest import MATRICES, matrix_files
from data_prep.mapped import save_matrix
from data_prep.matrices import check_matrix
from recvae.matrices import canonical, item_counts, mapping_of
from recvae.nn.batches import Clicks
from recvae.nn.noise import Noise

FORMAT_1 = Path(__file__).parent.parent / "fixtures" / "format-1" / "dataset"


def same(a: csr_array, b: csr_array) -> None:
    assert a.shape == b.shape
    for part in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(a, part), getattr(b, part))


def test_matrices_of_a_folder_are_mapped_and_cannot_be_written_to(tmp_path):
    build().save(tmp_path / "set")
    data = Dataset.load(tmp_path / "set")
    for name in MATRICES:
        matrix = data.matrix(name)
        same(matrix, build().matrix(name))
        assert mapping_of(matrix.indices) is not None
        assert mapping_of(canonical(matrix).indices) is mapping_of(matrix.indices)  # no copy
        with pytest.raises(ValueError, match="read-only"):
            matrix.indices[0] = 3
    copied = data.train.copy()
    copied.indices[0] = 3  # a copy is the caller's own


def test_both_versions_hold_the_same_and_are_saved_as_the_second(tmp_path):
    build().save(tmp_path / "second")
    shutil.copytree(tmp_path / "second", tmp_path / "first")
    as_version_1(tmp_path / "first")
    for folder in (tmp_path / "first", FORMAT_1):
        data = Dataset.load(folder)
        assert data.manifest["format_version"] == 1
        data.verify()
        data.save(tmp_path / "again", overwrite=True)
        again = Dataset.load(tmp_path / "again")
        again.verify()
        assert again.manifest["format_version"] == 2
        for name in MATRICES:
            same(again.matrix(name), data.matrix(name))
            if data.has_ratings:
                same(again.ratings(name), data.ratings(name))
    Dataset.load(tmp_path / "first").save(tmp_path / "again", overwrite=True)
    for file in (tmp_path / "second").iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_matrices_without_clicks_and_rows_of_64_bits(tmp_path, monkeypatch):
    empty = csr_array((4, 3), dtype=np.float32)
    some = csr_array(np.array([[0, 1, 1], [0, 0, 0], [1, 0, 0]], np.float32))
    for wide in (False, True):
        monkeypatch.setattr(mapped, "index_type", lambda *_, wide=wide: np.int64 if wide else np.int32)
        for matrix in (empty, some):
            save_matrix(tmp_path, "train", matrix)
            read = opened(tmp_path, "train", matrix)
            same(read, matrix)
            assert read.indices.dtype == read.indptr.dtype == (np.int64 if wide else np.int32)
    assert mapped.index_type  # the real one below
    monkeypatch.undo()
    assert mapped.index_type((10, 10), 2**31 - 1) is np.int32
    assert mapped.index_type((10, 10), 2**31) is np.int64
    assert mapped.index_type((2**31, 10), 5) is np.int64


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.float32])
def test_arrays_are_written_as_numpy_writes_them(tmp_path, kind):
    for length in (0, 1, 5000):
        array = np.arange(length, dtype=kind)
        mapped.save_array(tmp_path / "ours.npy", array)
        np.save(tmp_path / "numpy.npy", array)
        assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "numpy.npy").read_bytes()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
@pytest.mark.parametrize("length", [3, 100_000])
def test_an_array_that_does_not_fit_the_disk_is_an_error(length):
    """NumPy's own writing of a small array to a full disk ends without one."""
    with pytest.raises(OSError, match="No space left"), Path("/dev/full").open("wb") as file:
        mapped.write_values(file, np.arange(length))


def opened(folder: Path, name: str, matrix: csr_array) -> csr_array:
    files = {file: (folder / file).open("rb") for file in matrix_files(name)}
    try:
        return mapped.read_mapped(folder, files, matrix.shape, matrix.nnz)
    finally:
        for file in files.values():
            file.close()


def test_many_clicks_have_one_common_one(tmp_path, monkeypatch):
    """Ones that share a place in memory are read as ones in memory are: products, slices, checks, training."""
    build().save(tmp_path / "set")
    monkeypatch.setattr(mapped, "ONES", 10)
    matrix, plain = Dataset.load(tmp_path / "set").train, build().train
    assert matrix.data.strides == (0,)
    check_matrix("train", matrix)
    same(matrix[2:9], plain[2:9])
    same(matrix[[5, 1]], plain[[5, 1]])
    np.testing.assert_array_equal((matrix.T @ matrix).toarray(), (plain.T @ plain).toarray())
    np.testing.assert_array_equal(item_counts(matrix), np.bincount(plain.indices, minlength=12))
    settings = {"epochs": 2, "batch_size": 6, "hidden": 8, "latent": 4, "device": "cpu"}
    one, other = (recvae.RecVAE(**settings).fit(clicks) for clicks in (matrix, plain))
    for name, tensor in one.tensors().items():
        assert torch.equal(tensor, other.tensors()[name]), name


@pytest.mark.parametrize("weighted", [False, True])
def test_batches_of_mapped_clicks_are_those_in_memory(tmp_path, weighted):
    data = Dataset.load(FORMAT_1)
    data.save(tmp_path / "set")
    ours = Dataset.load(tmp_path / "set").ratings("train")
    plain = csr_array((ours.data.copy(), ours.indices.copy(), ours.indptr.copy()), shape=ours.shape)
    sides = [Clicks(matrix, weighted=weighted) for matrix in (ours, plain)]
    assert sides[0].columns.tensor is None
    assert sides[1].columns.tensor is not None
    for mine, theirs in zip(*(side.shuffled(7, Noise(3, "cpu")) for side in sides), strict=True):
        for part in ("users", "offsets", "rows", "columns", "values"):
            assert torch.equal(getattr(mine, part), getattr(theirs, part)), part


def resident_mb() -> float:
    text = Path("/proc/self/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", text)[1]) / 1000


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's account of memory")
def test_memory_stays_flat_over_the_batches_of_a_large_file(tmp_path):
    """Batches that pass over a file of 120 MB: the process's memory, the file's pages included, does not grow."""
    users, items, each = 300_000, 100_000, 100
    step = items // each
    columns = np.arange(0, items, step, dtype=np.int32)
    indices = (np.tile(columns, (users, 1)) + (np.arange(users) % step).astype(np.int32)[:, None]).reshape(-1)
    indptr = np.arange(0, users * each + 1, each, dtype=np.int32)
    data = np.broadcast_to(np.float32(1), len(indices))
    save_matrix(tmp_path, "train", csr_array((data, indices, indptr), shape=(users, items)))
    shape = csr_array((users, items), dtype=np.float32)
    del indices, indptr
    shape.indptr = np.array([0, users * each])  # only its number of entries is read
    before = resident_mb()
    clicks = Clicks(opened(tmp_path, "train", shape))
    held = resident_mb() - before
    assert held < 20, f"opening took {held:.0f} MB"
    batches = clicks.shuffled(1500, Noise(1, "cpu"))
    warm = [float(next(batches).values.sum()) for _ in range(20)]  # the order is drawn, and memory for batches is there
    start = resident_mb()
    total = sum(float(batch.values.sum()) for batch in batches)
    assert total + sum(warm) == users * each
    assert resident_mb() - start < 24  # of the 112 MB that were read


def test_a_replaced_folder_is_read_on_from_the_old_files(tmp_path):
    build().save(tmp_path / "set")
    train = Dataset.load(tmp_path / "set").train
    before = train.copy()
    shutil.rmtree(tmp_path / "set")
    same(train, before)


def test_only_the_files_of_a_version_are_its_own(tmp_path):
    build().save(tmp_path / "set")
    assert "train.indices.npy" in DatasetFolder(tmp_path / "set").names
    as_version_1(tmp_path / "set")
    assert "train.npz" in DatasetFolder(tmp_path / "set").names
    assert not any(name.endswith(".npy") for name in DatasetFolder(tmp_path / "set").names)
