import dataclasses
import errno
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csc_array, csr_array, load_npz, save_npz

from data_prep import Dataset, Interactions, make_split
from data_prep.dataset import MATRICES, SPLITS
from data_prep.matrices import check_matrix
from recvae.errors import DataError, FormatError, InputError, WorkError
from recvae.files import read_table, vocabulary_hash, write_table

ITEM_IDS = ["007", "7", "a,b", 'say "hi"', " x ", "é", "line\nbreak", "cr\rhere", "10", "11", "12", "13"]


def build() -> Dataset:
    draw = np.random.default_rng(5)
    pairs = draw.permutation([(u, i) for u in range(30) for i in draw.permutation(12)[:8].tolist()]).astype(np.int32)
    data = Interactions(
        user=pairs[:, 0].copy(),
        item=pairs[:, 1].copy(),
        user_ids=np.array([f"user {n}" for n in range(30)], dtype=object),
        item_ids=np.array(ITEM_IDS, dtype=object),
    )
    return Dataset.from_split(
        make_split(data, held_out_users=6),
        name="toy",
        about={"source": {"kind": "file"}, "protocol": {"split": "strong"}, "dropped": {"duplicate_clicks": 0}},
        titles={"007": 'Title, with "all"', "é": "Caf\u00e9\nNoir", "unknown": "x"},
        item_tags={"007": ("Spy", "Drama"), "7": ()},
        user_tags={"user 3": {"age": "25", "job": "a,b"}, "nobody": {"age": "1"}},
    )


@pytest.fixture
def folder(tmp_path) -> Path:
    build().save(tmp_path / "set")
    return tmp_path / "set"


def same(a: Dataset, b: Dataset) -> None:
    for name in MATRICES:
        assert (a.matrix(name) != b.matrix(name)).nnz == 0
        assert b.matrix(name).dtype == np.float32
    for split in SPLITS:
        assert list(a.user_ids(split)) == list(b.user_ids(split))
    assert list(a.item_ids) == list(b.item_ids)
    assert list(a.item_titles) == list(b.item_titles)
    assert a.item_tags == b.item_tags
    assert a.user_tags == b.user_tags
    assert a.vocabulary_hash == b.vocabulary_hash


def test_round_trip(folder):
    made, loaded = build(), Dataset.load(folder)
    same(made, loaded)
    loaded.verify()
    made.verify()
    assert sorted(loaded.item_ids) == sorted(ITEM_IDS)
    assert loaded.item_tags == {"007": ("Spy", "Drama")}
    assert loaded.user_tags == {"user 3": {"age": "25", "job": "a,b"}}
    assert loaded.describe() == made.describe()
    assert {file.name for file in folder.iterdir()} == {
        *(f"{name}.npz" for name in MATRICES),
        *("manifest.json", "items.csv", "users.csv", "item_tags.csv", "user_tags.csv"),
    }


def test_the_folder_is_the_contract(folder):
    assert (folder / "items.csv").read_text().startswith("index,item_id,title\n0,")
    assert (folder / "users.csv").read_text().startswith("split,row,user_id\ntrain,0,")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["kind"], manifest["format_version"], manifest["name"]) == ("recvae-dataset", 1, "toy")
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    train = load_npz(folder / "train.npz")
    assert isinstance(train, csr_array)
    assert train.shape == (18, 12)


def test_saving_is_deterministic_and_saves_again(folder, tmp_path):
    Dataset.load(folder).save(tmp_path / "again")
    for file in folder.iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()
    with pytest.raises(InputError, match="exists already"):
        build().save(folder)
    Dataset.load(folder).save(folder, overwrite=True)  # onto itself
    Dataset.load(folder).verify()


def test_a_place_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(WorkError, match="Cannot write"):
        build().save(tmp_path / "file" / "set")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_leaves_the_old_folder_and_nothing_else(folder, monkeypatch):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def full(path, matrix):
        path.write_bytes(b"part")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("data_prep.dataset.save_matrix", full)
    for place, overwrite in ((folder, True), (folder.parent / "new", False)):
        with pytest.raises(WorkError, match=r"Cannot write .*: No space left on device\. Free some space"):
            build().save(place, overwrite=overwrite)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [file.name for file in folder.parent.iterdir()] == [folder.name]


def test_describe(folder):
    numbers = Dataset.load(folder).describe()
    json.dumps(numbers, allow_nan=False)
    train = numbers["splits"]["train"]
    assert (train["users"], train["clicks"], numbers["items"]) == (18, 144, 12)
    assert train["density"] == pytest.approx(144 / (18 * 12))
    assert train["clicks_per_user"]["median"] == 8
    assert numbers["popularity"]["mean"] == 12
    assert numbers["splits"]["test"]["held_out_clicks"] == 6
    assert numbers["splits"]["test"]["users_without_held_out"] == 0
    assert numbers["items_with_title"] == 2
    assert numbers["dropped"]["duplicate_clicks"] == 0


def rehash(folder: Path, **changes: object) -> None:
    """Make a change look genuine: the manifest's hashes are those of the altered files."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in manifest["files"]}
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))


def fails(folder: Path, part: str) -> None:
    with pytest.raises(FormatError) as error:
        Dataset.load(folder).verify()
    assert part in str(error.value)
    assert "\n" not in str(error.value)


FILES = [*(f"{name}.npz" for name in MATRICES), "items.csv", "users.csv", "item_tags.csv", "user_tags.csv"]


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


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(FILES), data=st.data())
def test_damage_with_a_forged_hash_never_crashes(name, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("forged") / "set"
    build().save(folder)
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


def test_matrices_that_are_not_canonical_are_refused(folder):
    file = folder / "train.npz"
    good = Dataset.load(folder).train
    wild = good.indices.copy()
    wild[0] = 99
    swapped = good.indices.copy()
    swapped[:2] = swapped[1::-1]
    falling = good.indptr.copy()
    falling[1], falling[2] = falling[2], falling[1]
    for parts, problem in (
        ({"indices": wild}, "train.npz"),
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
    fails_on_load = pytest.raises(FormatError, match="csc matrix")
    with fails_on_load:
        _ = Dataset.load(folder).train
    save_npz(file, good[:-1])
    with pytest.raises(FormatError, match=r"train\.npz is 17 x 12 .* says 18 x 12"):
        _ = Dataset.load(folder).train
    np.savez(file, x=np.array([{"a": 1}], dtype=object))  # a pickle inside is never opened
    with pytest.raises(FormatError, match=r"train\.npz"):
        _ = Dataset.load(folder).train


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
    shutil.copy(folder / "test_in.npz", folder / "test_out.npz")
    counts = json.loads((folder / "manifest.json").read_text())["counts"]
    counts["clicks"]["test_out"] = counts["clicks"]["test_in"]
    rehash(folder, counts=counts)
    fails(folder, "test_in.npz and test_out.npz share clicks")


def test_foreign_folders(folder, tmp_path):
    with pytest.raises(InputError, match="There is no dataset folder"):
        Dataset.load(tmp_path / "none")
    fails(folder / "items.csv", "is a file, not a dataset folder")
    (tmp_path / "run").mkdir()
    fails(tmp_path / "run", "has no manifest.json")
    (tmp_path / "run" / "run.json").write_text("{}")
    fails(tmp_path / "run", "is a run folder (a trained model), not a dataset folder")
    rehash(folder, format_version=2)
    fails(folder, "has format version 2, and this recvae reads version 1")
    rehash(folder, format_version=1, kind="cake")
    fails(folder, "not a dataset's manifest")
    rehash(folder, kind="recvae-dataset", counts={})
    fails(folder, "incomplete or altered")
    (folder / "manifest.json").write_text("{")
    fails(folder, "damaged or not JSON")


def test_names_are_checked(folder):
    data = Dataset.load(folder)
    with pytest.raises(InputError, match="no split 'dev'"):
        data.user_ids("dev")
    with pytest.raises(InputError, match="no matrix 'all'"):
        data.matrix("all")
    bad = dataclasses.replace(make_from(data), train=csr_array(data.train * 2))
    with pytest.raises(FormatError, match="The train matrix holds something other"):
        Dataset.from_split(bad, name="x")
    check_matrix("empty", csr_array((3, 4), dtype=np.float32))


def make_from(data: Dataset):
    from data_prep import Split

    matrices = {name: data.matrix(name) for name in MATRICES}
    return Split(**matrices, user_ids={split: data.user_ids(split) for split in SPLITS}, item_ids=data.item_ids)


def test_vocabulary_hash_is_the_stated_one():
    assert vocabulary_hash(["1", "é"]) == hashlib.sha256("1\né".encode()).hexdigest()


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.tuples(st.text(max_size=5), st.text(",\"\r\n' ab", max_size=5)), max_size=6))
def test_tables_bring_back_any_text(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "x.csv"
    try:
        write_table(path, ("a", "b"), rows)
    except DataError as error:
        assert "Unicode" in str(error)  # noqa: PT017
        return
    assert [tuple(row) for row in read_table(path, ("a", "b"), "Again.")] == rows


def test_a_dataset_says_what_it_is(folder):
    made = build()
    users = " + ".join(f"{made.n_users(split)}" for split in SPLITS)
    said = f"Dataset('{made.name}', {users} users, {made.n_items} items, {made.train.nnz} training clicks)"
    assert repr(made) == repr(Dataset.load(folder)) == said
