"""Datasets that were altered, damaged, crafted or replaced: a sentence names the file, and nothing of it is used."""

import dataclasses
import json
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csc_array, csr_array, save_npz
from small_datasets import as_version_1, build, rehash, split_of

from data_prep import Dataset
from data_prep.manifest import MATRICES, SPLITS, matrix_files
from recvae.errors import FormatError


@pytest.fixture
def folder(tmp_path) -> Path:
    build().save(tmp_path / "set")
    return tmp_path / "set"


@pytest.fixture
def first_version(folder) -> Path:
    """The same dataset as a folder of format version 1."""
    as_version_1(folder)
    return folder


def fails(folder: Path, part: str) -> None:
    with pytest.raises(FormatError) as error:
        Dataset.load(folder).verify()
    assert part in str(error.value)
    assert "\n" not in str(error.value)


TABLES = ["items.csv", "users.csv", "item_tags.csv", "user_tags.csv"]
FILES = [*(file for name in MATRICES for file in matrix_files(name)), *TABLES]
NPZ = [f"{name}.npz" for name in MATRICES]


@pytest.mark.parametrize("name", FILES)
def test_truncated_altered_and_missing_files_are_named(folder, name):
    content = (folder / name).read_bytes()
    for altered in (
        content[:-3],
        content[:10],
        b"",
        content[: len(content) // 2] + b"?" + content[len(content) // 2 + 1 :],
    ):
        (folder / name).write_bytes(altered)
        fails(folder, f"{name} was altered")
    (folder / name).unlink()
    fails(folder, f"{name} is missing")


@pytest.mark.parametrize("name", NPZ)
def test_truncated_and_missing_files_of_version_1_are_named(first_version, name):
    content = (first_version / name).read_bytes()
    for altered in (content[:-3], b"", content[: len(content) // 2] + b"?" + content[len(content) // 2 + 1 :]):
        (first_version / name).write_bytes(altered)
        fails(first_version, f"{name} was altered")
    (first_version / name).unlink()
    fails(first_version, f"{name} is missing")


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from([*FILES, *NPZ]), data=st.data())
def test_damage_with_a_forged_hash_never_crashes(name, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("forged") / "set"
    build().save(folder)
    if name in NPZ:
        as_version_1(folder)
    content = bytearray((folder / name).read_bytes())
    cut = data.draw(st.integers(0, len(content)))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = data.draw(st.integers(0, 255))
    (folder / name).write_bytes(content[: max(cut, place)] if data.draw(st.booleans()) else content)
    rehash(folder)
    try:
        Dataset.load(folder).verify()
    except FormatError as error:
        assert "\n" not in str(error)  # noqa: PT017


def save_raw(path: Path, base: csr_array, **parts: object) -> None:
    arrays = {"data": base.data, "indices": base.indices, "indptr": base.indptr, "shape": np.array(base.shape)} | parts
    np.savez(path, format=np.array(b"csr"), _is_array=np.array(True), **arrays)


def test_arrays_that_are_no_canonical_matrix_are_refused(folder):
    pointers, columns = (folder / f"train.{part}.npy" for part in ("indptr", "indices"))
    good = Dataset.load(folder).train
    indptr, indices = good.indptr.copy(), good.indices.copy()
    wild, negative, swapped, falling = indices.copy(), indices.copy(), indices.copy(), indptr.copy()
    wild[0], negative[3] = 99, -1
    swapped[:2] = swapped[1::-1]
    falling[1], falling[2] = falling[2], falling[1]
    pickled = np.array([{"a": 1}] * len(indices), dtype=object)
    for file, array, problem in (
        (columns, wild, "train.indices.npy has a column outside its 12 items"),
        (columns, negative, "train.indices.npy has a column outside its 12 items"),
        (columns, swapped, "train.indices.npy has columns that are not sorted or are doubled"),
        (pointers, falling, "train.indptr.npy has row pointers that fall"),
        (pointers, indptr + 1, "train.indptr.npy has row pointers that do not fit"),
        (pointers, indptr[:-1], "train.indptr.npy is truncated, altered or no array of 19 values"),
        (pointers, indptr.astype(np.int64), "are of two types"),
        (columns, indices.astype(np.float32), "train.indices.npy is truncated, altered or no array"),
        (columns, indices.astype(">i4"), "train.indices.npy is truncated, altered or no array"),
        (columns, indices[None], "train.indices.npy is truncated, altered or no array"),
        (columns, np.append(indices, indices[:1]), "train.indices.npy is truncated, altered or no array"),
        (columns, pickled, "train.indices.npy is truncated, altered or no array"),  # a pickle is never opened
    ):
        content = file.read_bytes()
        np.save(file, array, allow_pickle=True)
        rehash(folder)
        fails(folder, problem)
        with pytest.raises(FormatError, match="train"):
            _ = Dataset.load(folder).train
        file.write_bytes(content)
    longer = columns.read_bytes()
    for altered in (longer + b"1234", longer[:-4], longer[:128], b"\x93NUMPY\x09" + longer[7:]):
        columns.write_bytes(altered)
        rehash(folder)
        fails(folder, "train.indices.npy is truncated, altered or no array of 144 values")


def test_sums_that_are_too_large_for_the_files_are_refused_before_memory_is_taken(folder):
    counts = json.loads((folder / "manifest.json").read_text())["counts"]
    counts["clicks"]["train"] = counts["users"]["train"] = 10**15
    with (folder / "train.indices.npy").open("wb") as file:
        header = {"descr": "<i4", "fortran_order": False, "shape": (10**15,)}
        np.lib.format.write_array_header_1_0(file, header)
    rehash(folder, counts=counts)
    with pytest.raises(FormatError, match=r"train\.indptr\.npy is truncated"):
        _ = Dataset.load(folder).train


def test_a_manifest_of_version_2_has_a_seal(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("seal")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    fails(folder, "manifest.json was altered")


def test_matrices_of_version_1_that_are_not_canonical_are_refused(first_version):
    folder = first_version
    file = folder / "train.npz"
    good = Dataset.load(folder).train
    wild = good.indices.copy()
    wild[0] = 99
    swapped = good.indices.copy()
    swapped[:2] = swapped[1::-1]
    falling = good.indptr.copy()
    falling[1], falling[2] = falling[2], falling[1]
    for parts, problem in (
        ({"indices": wild}, "train.npz has a column outside"),
        ({"indices": swapped}, "not sorted or are doubled"),
        ({"indptr": falling}, "row pointers that fall"),
        ({"data": good.data * 0}, "other than clicks"),
        ({"data": good.data.astype(np.float64)}, "other than clicks"),
    ):
        save_raw(file, good, **parts)
        rehash(folder)
        fails(folder, problem)
        with pytest.raises(FormatError, match=r"train\.npz"):
            _ = Dataset.load(folder).train
    save_npz(file, csc_array(good))
    rehash(folder)
    fails_on_load = pytest.raises(FormatError, match="csc matrix")
    with fails_on_load:
        _ = Dataset.load(folder).train
    save_npz(file, good[:-1])
    rehash(folder)
    with pytest.raises(FormatError, match=r"train\.npz is 17 x 12 .* says 18 x 12"):
        _ = Dataset.load(folder).train
    np.savez(file, x=np.array([{"a": 1}], dtype=object))  # a pickle inside is never opened
    rehash(folder)
    with pytest.raises(FormatError, match=r"train\.npz is truncated, altered or not"):
        _ = Dataset.load(folder).train


def use(data: Dataset) -> None:
    """Read everything, without a request to verify."""
    _ = [data.matrix(name) for name in MATRICES], data.item_titles, data.user_ids("test")
    _ = data.item_tags, data.user_tags


@pytest.mark.parametrize("name", [*FILES, *NPZ])
def test_an_altered_file_is_not_read(folder, name):
    if name in NPZ:
        as_version_1(folder)
    content = (folder / name).read_bytes()
    place = content.index(b"Drama") if name == "item_tags.csv" else len(content) * 2 // 3
    (folder / name).write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(FormatError, match=f"{name} was altered or is truncated: its SHA-256 is not"):
        use(Dataset.load(folder))


def test_an_altered_manifest_is_not_read(folder):
    text = (folder / "manifest.json").read_text()
    for old, new in (
        ('"toy"', '"tow"'),
        ('"strong"', '"strung"'),
        ('"seal"', '"sea1"'),
        ("  ", "\t "),
        ("}\n", "}\n\n"),
    ):
        (folder / "manifest.json").write_text(text.replace(old, new, 1))
        with pytest.raises(FormatError, match=r"manifest\.json (was altered|is incomplete or altered)"):
            Dataset.load(folder)
    (folder / "manifest.json").write_text(text)
    as_version_1(folder)
    use(Dataset.load(folder))  # the first version had no seal
    assert "seal" not in json.loads((folder / "manifest.json").read_text())


def test_a_dataset_is_of_one_version(folder):
    data = Dataset.load(folder)
    _ = data.train
    other = split_of(Dataset.load(folder))
    Dataset.from_split(dataclasses.replace(other, test_in=other.validation_in), name="toy").save(folder, overwrite=True)
    for read in (lambda: data.test_in, lambda: data.item_tags, lambda: data.item_titles):
        with pytest.raises(FormatError, match="was replaced or removed while it was in use"):
            read()
    assert data.validation_in.nnz  # the same in both
    shutil.rmtree(folder)
    with pytest.raises(FormatError, match="was replaced or removed"):
        _ = data.validation_out


@pytest.mark.parametrize("claims", [8 * 10**6, None])
def test_a_matrix_that_unpacks_to_more_is_refused_before_memory_is_taken(first_version, claims):
    folder = first_version
    zeros = np.zeros(12 * 10**6, dtype=np.int64)
    with (folder / "train.npz").open("wb") as file:
        np.savez_compressed(file, data=zeros, indices=zeros, indptr=zeros, shape=np.array([18, 12]), format=b"csr")
    counts = json.loads((folder / "manifest.json").read_text())["counts"]
    if claims is not None:  # then the manifest says so too
        counts["clicks"]["train"] = 10**9
        counts["users"]["train"] = 10**9
    rehash(folder, counts=counts)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=r"train\.npz unpacks to 288,000,\d+ bytes, too many for"):
            _ = Dataset.load(folder).train
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"kind": "recvae-dataset", "format_version": 1, "name": "\\ud800"}',
        "[NaN]",
        "1e999",
        "\ud800",
        "9" * 5000,
        "null",
    ],
)
def test_any_json_in_the_manifests_place_is_a_sentence(folder, text):
    (folder / "manifest.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    fails(folder, "manifest.json")


@pytest.mark.parametrize(
    "changes",
    [
        {
            "counts": {
                "items": 10**18,
                "users": dict.fromkeys(SPLITS, 10**18),
                "clicks": dict.fromkeys(MATRICES, 10**18),
            }
        },
        {"dropped": {"duplicate_clicks": "3"}},
        {"before_split": {"users": 1}},
        {"before_split": {"users": [], "items": 1, "clicks": 2}},
        {"source": {"file": ["x"]}},
        {"filters": {"min_rating": "x"}},
        {"protocol": {"split": {}}},
        {"name": "\ud800"},
        {"name": None},
        {"files": 3},
        {"ratings": {}},
        {"counts": {"items": 12, "users": {"x": "y"}, "clicks": {}}},
    ],
)
def test_entries_of_another_kind_are_a_sentence(folder, changes):
    rehash(folder, **changes)
    if "files" in changes:
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(manifest | changes))
    with pytest.raises(FormatError) as error:
        Dataset.load(folder).verify()
    assert "\n" not in str(error.value)


def test_inconsistent_contents_are_named(folder):
    pristine = folder.parent / "pristine"
    shutil.copytree(folder, pristine)

    def altered(name: str, old: str, new: str) -> None:
        shutil.copytree(pristine, folder, dirs_exist_ok=True)
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))
        rehash(folder)

    altered("items.csv", "0,", "1,")
    fails(folder, "items.csv does not number the 12 items")
    altered("items.csv", "index,", "row,")
    fails(folder, "header index,item_id,title")
    altered("items.csv", ",13,", ",99,")
    fails(folder, "items.csv was altered")
    altered("items.csv", ",13,", ",12,")
    fails(folder, "items.csv names an item twice")
    altered("users.csv", "train,1,", "train,7,")
    fails(folder, "users.csv has a row out of order")
    altered("user_tags.csv", "25", "25,26")
    fails(folder, "row 1: 4 fields for 3")
    altered("users.csv", Dataset.load(pristine).user_ids("train")[0], Dataset.load(pristine).user_ids("test")[0])
    fails(folder, "users.csv has a user in two splits")
    shutil.copytree(pristine, folder, dirs_exist_ok=True)
    (folder / "items.csv").write_bytes(b"\xff" + (folder / "items.csv").read_bytes())
    rehash(folder)
    fails(folder, "items.csv cannot be read")
    shutil.copytree(pristine, folder, dirs_exist_ok=True)
    for part in ("indptr", "indices"):
        shutil.copy(folder / f"test_in.{part}.npy", folder / f"test_out.{part}.npy")
    counts = json.loads((folder / "manifest.json").read_text())["counts"]
    counts["clicks"]["test_out"] = counts["clicks"]["test_in"]
    rehash(folder, counts=counts)
    fails(folder, "test_in and test_out share clicks")


def test_a_file_that_the_manifest_does_not_name_is_another_datasets(folder):
    """As where the manifest of a dataset without ratings is put in the place of one that has them."""
    shutil.copy(folder / "train.indices.npy", folder / "train_ratings.indices.npy")
    fails(folder, "manifest.json does not name train_ratings.indices.npy, which lies beside it: one of them is another")
