"""The prepared dataset: matrices, ids, titles and the manifest, in memory or as a folder on disk.

The folder (format version 2) is the form in which all other parts of recvae read a dataset:

    manifest.json        format version, name, source and its SHA-256, filters, protocol, counts, SHA-256 of each file,
                         and a seal over the whole manifest
    items.csv            index,item_id,title      row i is column i of every matrix; the title may be empty
    users.csv            split,row,user_id
    train.indptr.npy  train.indices.npy      CSR of ones, canonical: where each row begins, and the columns
    validation_in.*  validation_out.*  test_in.*  test_out.*     fold-in and held-out, same rows
    item_tags.csv        item_id,tag              optional: genres and the like
    user_tags.csv        user_id,name,value       optional: user attributes
    arrivals.csv         split,row,new_user,new_item_clicks       of a time split
    train_ratings.indptr.npy  train_ratings.indices.npy  train_ratings.data.npy  validation_in_ratings.*  ...
                         optional: ratings of the same rows and columns, float32

Folders of version 1, with one SciPy npz file for each matrix, are read too.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from data_prep.arrivals import Arrivals, check_arrivals, entries, read_arrivals, write_arrivals
from data_prep.folder import DatasetFolder
from data_prep.interactions import Ids
from data_prep.manifest import AGAIN, MATRICES, RATINGS, SPLITS
from data_prep.mapped import save_matrix
from data_prep.matrices import check_matrix, merged_rows
from data_prep.splits import Split
from data_prep.writing import (
    ITEM_TAGS,
    ITEMS,
    USER_TAGS,
    USERS,
    Tags,
    UserTags,
    new_manifest,
    seal_folder,
    write_items,
    write_user_tags,
    write_users,
)
from recvae.arguments import flag, path_of, shown
from recvae.errors import FormatError, InputError
from recvae.files import Document, JsonObject, recover, same_vocabulary, vocabulary_hash, whole_folder


class Dataset:
    """A prepared dataset; get one from :func:`data_prep.prepare`, :meth:`load` or :meth:`from_split`.

    Matrices are users x items, canonical ``csr_array`` of float32 ones, opened on first access and kept. Those of a
    folder are mapped files: they take memory for the rows in use, and cannot be written to. ``manifest`` is the
    manifest as a dict; ``path`` the folder, or None for a dataset that was not loaded from one. Files are compared with
    the manifest's SHA-256 when they are opened, so that all are of one version of the folder.
    """

    def __init__(
        self,
        manifest: JsonObject,
        *,
        folder: DatasetFolder | None = None,
        split: Split | None = None,
        titles: Mapping[str, str] | None = None,
        item_tags: Tags | None = None,
        user_tags: UserTags | None = None,
        ratings: Mapping[str, csr_array] | None = None,
    ) -> None:
        self.manifest = manifest
        self.path = None if folder is None else folder.path
        self._folder = folder
        self._matrices: dict[str, csr_array] = {}
        if split is None:
            return
        self._matrices = {name: getattr(split, name) for name in MATRICES}
        self._matrices |= {f"{name}_ratings": matrix for name, matrix in (ratings or {}).items()}
        ids = split.item_ids
        known = titles or {}
        # Set in place of the cached properties that read files.
        self.__dict__["_items"] = (ids, np.array([known.get(item, "") for item in ids], dtype=np.object_))
        self.__dict__["_users"] = dict(split.user_ids)
        people = {user for name in SPLITS for user in split.user_ids[name]}
        self.__dict__["_arrivals"] = dict(split.arrivals)
        self.__dict__["item_tags"] = {i: tuple(item_tags[i]) for i in ids if item_tags.get(i)} if item_tags else {}
        self.__dict__["user_tags"] = {u: dict(t) for u, t in user_tags.items() if u in people} if user_tags else {}

    @classmethod
    def from_split(
        cls,
        split: Split,
        *,
        name: str,
        about: Document | None = None,
        titles: Mapping[str, str] | None = None,
        item_tags: Tags | None = None,
        user_tags: UserTags | None = None,
        ratings: Mapping[str, csr_array] | None = None,
    ) -> "Dataset":
        """Make a dataset in memory from a split.

        ``about`` is added to the manifest (source, filters, protocol, ...). ``titles``, ``item_tags`` and ``user_tags``
        are looked up by id; ids outside the split are left out. ``ratings``: as :func:`data_prep.ratings.split_ratings`
        returns them. Raises :class:`FormatError` for a matrix that is not canonical.
        """
        if not isinstance(split, Split):
            raise InputError(f"A split is what data_prep.make_split makes, and not {shown(split)}.")
        manifest = new_manifest(
            name,
            about or {},
            items=split.item_ids,
            users={part: len(split.user_ids[part]) for part in SPLITS},
            clicks={matrix: int(getattr(split, matrix).nnz) for matrix in MATRICES},
            dropped=split.dropped,
            ratings={name: int(matrix.nnz) for name, matrix in (ratings or {}).items()},
        )
        manifest |= entries(split.arrivals, {"validation": split.validation_out, "test": split.test_out})
        dataset = cls(manifest, split=split, titles=titles, item_tags=item_tags, user_tags=user_tags, ratings=ratings)
        dataset._check_shapes()
        return dataset

    def __repr__(self) -> str:
        """Return the name and the counts: training + validation + test users, items and training clicks."""
        counts = self.manifest["counts"]
        users = " + ".join(f"{counts['users'][split]:,}" for split in SPLITS)
        return (
            f"Dataset({self.name!r}, {users} users, {counts['items']:,} items, "
            f"{counts['clicks']['train']:,} training clicks)"
        )

    # --- matrices and ids ----------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The dataset's name, such as "ml-20m" or a file's name."""
        return str(self.manifest["name"])

    @property
    def n_items(self) -> int:
        """Items in the catalogue: columns of every matrix."""
        return int(self.manifest["counts"]["items"])

    def n_users(self, split: str) -> int:
        """Rows of the matrices of ``split``: "train", "validation" or "test"."""
        return int(self.manifest["counts"]["users"][_known_split(split)])

    @property
    def train(self) -> csr_array:
        """Training clicks (n_train, n_items)."""
        return self.matrix("train")

    @property
    def validation_in(self) -> csr_array:
        """Validation users' fold-in clicks (n_validation, n_items)."""
        return self.matrix("validation_in")

    @property
    def validation_out(self) -> csr_array:
        """Validation users' held-out clicks, the same rows; a row may be empty."""
        return self.matrix("validation_out")

    @property
    def test_in(self) -> csr_array:
        """Test users' fold-in clicks (n_test, n_items)."""
        return self.matrix("test_in")

    @property
    def test_out(self) -> csr_array:
        """Test users' held-out clicks, the same rows; a row may be empty."""
        return self.matrix("test_out")

    def matrix(self, name: str) -> csr_array:
        """Return one of ``MATRICES``; raise :class:`FormatError` where its file is damaged or of another shape."""
        if not isinstance(name, str) or name not in MATRICES:
            raise InputError(f"There is no matrix {shown(name)}; there are {', '.join(MATRICES)}.")
        return self._matrix(name)

    @property
    def has_ratings(self) -> bool:
        """Whether there are ratings behind the clicks."""
        return "ratings" in self.manifest

    def ratings(self, name: str) -> csr_array:
        """Return the ratings, float32 above 0, in the rows and columns of one of ``MATRICES``.

        Raises :class:`InputError` where there are none, and :class:`FormatError` as :meth:`matrix`.
        """
        if not isinstance(name, str) or name not in MATRICES:
            raise InputError(f"There is no matrix {shown(name)}; there are {', '.join(MATRICES)}.")
        if not self.has_ratings:
            raise InputError(f"{self.path or self.name} holds clicks alone. Prepare the dataset with --ratings.")
        return self._matrix(f"{name}_ratings")

    def _matrix(self, name: str) -> csr_array:
        """Return one of ``MATRICES`` or ``RATINGS``."""
        if name not in self._matrices:
            shape = (self.n_users(name.split("_")[0]), self.n_items)
            folder = self._opened(name)
            self._matrices[name] = folder.matrix(name, shape, self._entries(name), ratings=name in RATINGS)
        return self._matrices[name]

    def _entries(self, name: str) -> int:
        """Return a matrix's number of entries by the manifest."""
        counts = self.manifest["ratings"] if name in RATINGS else self.manifest["counts"]["clicks"]
        return int(counts[name.removesuffix("_ratings")])

    @property
    def _names(self) -> tuple[str, ...]:
        return (*MATRICES, *RATINGS) if self.has_ratings else MATRICES

    def arrivals(self, split: str) -> Arrivals | None:
        """Return which users of "validation" or "test" are new, and their clicks on new items; None but in time splits.

        Raises :class:`FormatError` where the file is damaged.
        """
        return self._arrivals.get(_known_split(split))

    @cached_property
    def _arrivals(self) -> dict[str, Arrivals]:
        return read_arrivals(self._folder, self.manifest)

    def refit_matrix(self, *, ratings: bool = False) -> csr_array:
        """Return the clicks for a last training without validation, (n_users, n_items).

        They are the training clicks and the validation users' fold-in and held-out clicks, rows matched by user id:
        training users in order, then those validation users who are no training users (all in a strong split), in
        order. Test clicks are left out. Canonical float32 ones, or with ``ratings`` all ratings of these users; errors
        as :meth:`matrix` and :meth:`ratings`.
        """
        take = self.ratings if flag("ratings", ratings) else self.matrix
        places = {user: row for row, user in enumerate(self.user_ids("train"))}
        of_training = np.arange(len(places), dtype=np.int32)
        ids = self.user_ids("validation")
        of_validation = np.array([places.setdefault(user, len(places)) for user in ids], dtype=np.int32)
        names = {"train": of_training, "validation_in": of_validation, "validation_out": of_validation}
        merged = merged_rows([(of_users, take(name)) for name, of_users in names.items()], len(places))
        if not ratings:  # ratings are of strong splits, where no user is in two parts
            merged.data[:] = 1
        return merged

    @property
    def item_ids(self) -> Ids:
        """Item ids as written in the source, object array of str (n_items,); row i names column i."""
        return self._items[0]

    @property
    def item_titles(self) -> Ids:
        """Titles, object array of str (n_items,); empty where there is none."""
        return self._items[1]

    def user_ids(self, split: str) -> Ids:
        """User ids of a split's rows as written in the source, object array of str."""
        return self._users[_known_split(split)]

    @property
    def vocabulary_hash(self) -> str:
        """Hash of the item ids in column order (:func:`recvae.files.vocabulary_hash`)."""
        return vocabulary_hash(self.item_ids)

    @cached_property
    def item_tags(self) -> dict[str, tuple[str, ...]]:
        """Item id -> tags (genres and the like); items without tags are absent."""
        tags: dict[str, list[str]] = {}
        for item, tag in self._optional_rows("item_tags.csv", ITEM_TAGS):
            tags.setdefault(item, []).append(tag)
        return {item: tuple(values) for item, values in tags.items()}

    @cached_property
    def user_tags(self) -> dict[str, dict[str, str]]:
        """User id -> attributes by name (age, gender, ...); users without any are absent."""
        tags: dict[str, dict[str, str]] = {}
        for user, name, value in self._optional_rows("user_tags.csv", USER_TAGS):
            tags.setdefault(user, {})[name] = value
        return tags

    @cached_property
    def _items(self) -> tuple[Ids, Ids]:
        folder = self._opened("items.csv")
        file = folder.path / "items.csv"
        rows = folder.table("items.csv", ITEMS)
        if len(rows) != self.n_items or any(row[0] != str(i) for i, row in enumerate(rows)):
            raise FormatError(f"{file} does not number the {self.n_items:,} items of manifest.json. {AGAIN}")
        ids = np.array([row[1] for row in rows], dtype=np.object_)
        if len(set(ids)) != len(ids):
            raise FormatError(f"{file} names an item twice. {AGAIN}")
        if not same_vocabulary(ids, self.manifest["vocabulary_hash"]):
            raise FormatError(f"{file} was altered: its items are not those of manifest.json. {AGAIN}")
        return ids, np.array([row[2] for row in rows], dtype=np.object_)

    @cached_property
    def _users(self) -> dict[str, Ids]:
        folder = self._opened("users.csv")
        file = folder.path / "users.csv"
        users: dict[str, list[str]] = {split: [] for split in SPLITS}
        for split, row, user in folder.table("users.csv", USERS):
            if split not in users or row != str(len(users[split])):
                raise FormatError(f"{file} has a row out of order: {split},{row},{user}. {AGAIN}")
            users[split].append(user)
        for split, ids in users.items():
            if len(ids) != self.n_users(split) or len(set(ids)) != len(ids):
                raise FormatError(f"{file} does not name {self.n_users(split):,} distinct {split} users. {AGAIN}")
        return {split: np.array(ids, dtype=np.object_) for split, ids in users.items()}

    def _optional_rows(self, name: str, header: Sequence[str]) -> list[list[str]]:
        folder = self._folder
        return folder.table(name, header) if folder is not None and name in folder.names else []

    def _opened(self, name: str) -> DatasetFolder:
        if self._folder is None:
            raise FormatError(f"This dataset was never saved and has no {name}.")
        return self._folder

    # --- the folder ----------------------------------------------------------------------------------------------

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the folder whole or not at all.

        Raises :class:`InputError` where ``path`` exists and ``overwrite`` is false, and :class:`WorkError` where it
        cannot be written (a full disk among others).
        """
        users = [(part, self.user_ids(part)) for part in SPLITS]  # all is read before its own folder may be replaced
        tags, people, arrivals = self.item_tags, self.user_tags, self._arrivals
        texts = (self.item_ids, self.item_titles)
        matrices = {name: self._matrix(name) for name in self._names}
        with whole_folder(path_of(path), marker="manifest.json", overwrite=overwrite) as folder:
            write_items(folder, *texts, tags)
            write_users(folder, users)
            write_user_tags(folder, people)
            write_arrivals(folder, arrivals)
            for name, matrix in matrices.items():
                save_matrix(folder, name, matrix)
            seal_folder(folder, self.manifest)

    @classmethod
    def load(cls, path: str | Path) -> "Dataset":
        """Open a folder: the manifest is checked and the files must be there; they are read and checked on access.

        Raises :class:`InputError` where there is no such folder and :class:`FormatError` where it is not a dataset
        folder of this format version, or is incomplete.
        """
        place = path_of(path)
        recover(place)
        folder = DatasetFolder(place)
        return cls(folder.manifest, folder=folder)

    def verify(self) -> None:
        """Check hashes, canonical form, index ranges, counts, ids, and that no held-out click is in fold-in.

        Files are read again from disk. Raises :class:`FormatError` naming the file at fault.
        """
        dataset = self
        if self.path is not None:
            folder = DatasetFolder(self.path)
            folder.verify()
            dataset = Dataset(folder.manifest, folder=folder)
        dataset._check_shapes()
        where, manifest = "" if self.path is None else f"{self.path}: ", dataset.manifest
        for split in ("validation", "test"):
            shown, hidden = dataset.matrix(f"{split}_in"), dataset.matrix(f"{split}_out")
            if shown.multiply(hidden).nnz:
                raise FormatError(f"{where}{split}_in and {split}_out share clicks. {AGAIN}")
            if dataset.has_ratings and dataset.ratings(f"{split}_in").multiply(dataset.ratings(f"{split}_out")).nnz:
                raise FormatError(f"{where}{split}_in_ratings and {split}_out_ratings share items. {AGAIN}")
        for name in MATRICES if dataset.has_ratings else ():
            if dataset.matrix(name).multiply(dataset.ratings(name)).nnz != dataset.matrix(name).nnz:
                raise FormatError(f"{where}{name} has clicks that {name}_ratings does not rate. {AGAIN}")
        if not same_vocabulary(dataset.item_ids, manifest["vocabulary_hash"]):
            raise FormatError(f"{where}items.csv is not the catalogue of manifest.json. {AGAIN}")
        if manifest.get("protocol", {}).get("split") == "strong":
            everyone = [user for split in SPLITS for user in dataset.user_ids(split)]
            if len(set(everyone)) != len(everyone):
                raise FormatError(f"{where}users.csv has a user in two splits of a strong split. {AGAIN}")
        check_arrivals(where, dataset._arrivals, {part: dataset.matrix(f"{part}_out") for part in SPLITS[1:]}, manifest)
        _ = dataset.item_tags, dataset.user_tags  # read, so that their form is checked too

    def _check_shapes(self) -> None:
        """Raise :class:`FormatError` unless all matrices, ids and counts fit one another."""
        if len(self.item_ids) != self.n_items:
            raise FormatError(f"There are {len(self.item_ids)} item ids for {self.n_items} items. {AGAIN}")
        for name in self._names:
            matrix, split = self._matrix(name), name.split("_")[0]
            if self._folder is None:  # a matrix of a folder was checked when it was opened
                check_matrix(f"The {name} matrix", matrix, ratings=name in RATINGS)
            expected = (len(self.user_ids(split)), self.n_items)
            if matrix.shape != expected or matrix.nnz != self._entries(name):
                raise FormatError(f"The {name} matrix is {matrix.shape}, and users and items make {expected}. {AGAIN}")

    def describe(self) -> JsonObject:
        """Return users, clicks, density, quantiles and the numbers of dropped rows, as plain data."""
        from data_prep.describe import describe

        return describe(self)


def _known_split(split: str) -> str:
    if not isinstance(split, str) or split not in SPLITS:
        raise InputError(f"There is no split {shown(split)}; there are {', '.join(SPLITS)}.")
    return split
