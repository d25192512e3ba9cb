import dataclasses
import errno
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from small_datasets import ITEM_IDS, build, rehash, split_of

from data_prep import Dataset
from data_prep.dataset import MATRICES, SPLITS
from data_prep.matrices import check_matrix
from recvae.errors import DataError, FormatError, InputError, WorkError
from recvae.files import read_table, vocabulary_hash, write_table


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
        *(f"{name}.{part}.npy" for name in MATRICES for part in ("indptr", "indices")),
        *("manifest.json", "items.csv", "users.csv", "item_tags.csv", "user_tags.csv"),
    }


def test_the_folder_is_the_contract(folder):
    assert (folder / "items.csv").read_text().startswith("index,item_id,title\n0,")
    assert (folder / "users.csv").read_text().startswith("split,row,user_id\ntrain,0,")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["kind"], manifest["format_version"], manifest["name"]) == ("recvae-dataset", 2, "toy")
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    indptr, indices = (np.load(folder / f"train.{part}.npy") for part in ("indptr", "indices"))
    assert indptr.dtype == indices.dtype == np.int32
    assert indptr.shape == (19,)
    assert indices.shape == (manifest["counts"]["clicks"]["train"],)


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

    def full(place, name, matrix):
        (place / f"{name}.indices.npy").write_bytes(b"part")
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


def fails(folder: Path, part: str) -> None:
    with pytest.raises(FormatError) as error:
        Dataset.load(folder).verify()
    assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_foreign_folders(folder, tmp_path):
    with pytest.raises(InputError, match="There is no dataset folder"):
        Dataset.load(tmp_path / "none")
    fails(folder / "items.csv", "is a file, not a dataset folder")
    (tmp_path / "run").mkdir()
    fails(tmp_path / "run", "has no manifest.json")
    (tmp_path / "run" / "run.json").write_text("{}")
    fails(tmp_path / "run", "is a run folder (a trained model), not a dataset folder")
    for version in (3, "2", True, None):
        rehash(folder, format_version=version)
        fails(folder, f"has format version {version!r}, and this recvae reads versions 1 and 2")
    rehash(folder, format_version=2, kind="cake")
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
    bad = dataclasses.replace(split_of(data), train=csr_array(data.train * 2))
    with pytest.raises(FormatError, match="The train matrix holds something other"):
        Dataset.from_split(bad, name="x")
    check_matrix("empty", csr_array((3, 4), dtype=np.float32))


def test_vocabulary_hash_is_the_stated_one():
    assert vocabulary_hash(["1", "é"]) == hashlib.sha256("1\né".encode()).hexdigest()
    assert vocabulary_hash(["a\\n", "b\\"]) == hashlib.sha256(b"a\\n\nb\\").hexdigest()  # no line feed: as it was


@settings(max_examples=200, deadline=None)
@given(pair=st.tuples(*[st.lists(st.text("a\\n\n", min_size=1, max_size=3), min_size=1, max_size=3)] * 2))
@example(pair=(["a\nb"], ["a", "b"]))
@example(pair=(["a\nb", "c"], ["a", "b\nc"]))
@example(pair=(["a\nb"], ["a\\nb"]))
def test_two_catalogues_share_no_hash(pair):
    one, two = pair
    assert (vocabulary_hash(one) == vocabulary_hash(two)) == (one == two)


def test_a_folder_with_a_line_feed_in_an_id_and_the_hash_of_before_still_loads(folder):
    before = hashlib.sha256("\n".join(Dataset.load(folder).item_ids).encode()).hexdigest()
    assert before != build().vocabulary_hash
    rehash(folder, vocabulary_hash=before)
    Dataset.load(folder).verify()
    assert Dataset.load(folder).vocabulary_hash == build().vocabulary_hash


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
