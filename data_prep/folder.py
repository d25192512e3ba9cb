"""A dataset folder on disk: its manifest, and files that are compared with its SHA-256 whenever they are read.

If a folder is replaced while it is open, no files of two versions are read together: a file of another version does not
have the digest in the manifest that was read on opening.
"""

import copy
import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from scipy.sparse import csr_array

from data_prep.manifest import AGAIN, matrix_files, optional, read_manifest, required
from data_prep.mapped import read_mapped
from data_prep.matrices import read_npz
from recvae.errors import FormatError, InputError
from recvae.files import JsonObject, parse_table


class DatasetFolder:
    """An opened dataset folder: ``path``, ``manifest`` and the reading of its files.

    Opening reads and checks the manifest and sees that the files are there. Raises :class:`InputError` where there is
    no such folder and :class:`FormatError` where it is not a dataset folder of this format version, or is incomplete.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise InputError(f"There is no dataset folder {path}. Make one with: recvae prepare ... --out {path}")
        if not path.is_dir():
            raise FormatError(f"{path} is a file, not a dataset folder. Give the folder that recvae prepare wrote.")
        self._manifest_file = path / "manifest.json"
        if not self._manifest_file.exists():
            if (path / "run.json").exists():
                what = "is a run folder (a trained model), not a dataset folder"
            else:
                what = "is not a dataset folder: it has no manifest.json"
            raise FormatError(f"{path} {what}. Give the folder that recvae prepare wrote.")
        self.path = path
        self.manifest: JsonObject = read_manifest(self._manifest_file)
        self._opened = copy.deepcopy(self.manifest)  # a caller may change ``manifest``
        self._digests: dict[str, str] = self._opened["files"]
        self.version: int = self._opened["format_version"]
        for name in self.names:
            if not (path / name).is_file():
                raise self._missing(name)

    @property
    def names(self) -> tuple[str, ...]:
        """The files that belong to the dataset, by name."""
        return (*required(self.version), *(name for name in optional(self.version) if name in self._digests))

    def table(self, name: str, header: Sequence[str]) -> list[list[str]]:
        """Return the rows of a CSV file below ``header``; raise :class:`FormatError` where it was altered."""
        with self._open(name) as file:
            data = file.read()
        if hashlib.sha256(data).hexdigest() != self._digests[name]:
            raise self._altered(name)
        return parse_table(self.path / name, data, header, AGAIN)

    def matrix(self, name: str, shape: tuple[int, int], entries: int, *, ratings: bool = False) -> csr_array:
        """Return the canonical CSR called ``name``, of ``shape`` with ``entries``; errors as :meth:`table`.

        The arrays of a folder of version 2 are mapped, read-only, from the files that were compared.
        """
        names = matrix_files(name, self.version)
        with ExitStack() as stack:
            files = {}
            for file_name in names:
                file = files[file_name] = stack.enter_context(self._open(file_name))
                self._compare(file_name, file)
                file.seek(0)  # the same open file: the bytes that were compared are read
            if self.version == 1:
                return read_npz(self.path / names[0], files[names[0]], shape, entries, ratings=ratings)
            return read_mapped(self.path, files, shape, entries)

    def verify(self) -> None:
        """Compare every file with its SHA-256; raise :class:`FormatError` naming the first that differs.

        A file of a dataset that the manifest does not name is an error too: the two are of different datasets.
        """
        for name in self.names:
            with self._open(name) as file:
                self._compare(name, file)
        for name in optional(self.version):
            if name not in self._digests and (self.path / name).exists():
                raise self._replaced() or FormatError(
                    f"{self._manifest_file} does not name {name}, which lies beside it: one of them is another "
                    f"dataset's. {AGAIN}"
                )

    def _open(self, name: str) -> IO[bytes]:
        try:
            return (self.path / name).open("rb")
        except FileNotFoundError as error:
            raise self._missing(name) from error
        except OSError as error:
            raise FormatError(f"{self.path / name} cannot be read ({error.strerror or error}). {AGAIN}") from error

    def _compare(self, name: str, file: IO[bytes]) -> None:
        if hashlib.file_digest(file, "sha256").hexdigest() != self._digests[name]:  # type: ignore[arg-type]  # typeshed asks for a buffered file by a private name
            raise self._altered(name)

    def _missing(self, name: str) -> FormatError:
        return self._replaced() or FormatError(f"{self.path / name} is missing. {AGAIN}")

    def _altered(self, name: str) -> FormatError:
        return self._replaced() or FormatError(
            f"{self.path / name} was altered or is truncated: its SHA-256 is not the manifest's. {AGAIN}"
        )

    def _replaced(self) -> FormatError | None:
        """Return the error of a folder whose manifest has changed since it was opened, else None."""
        try:
            same = read_manifest(self._manifest_file) == self._opened
        except FormatError:
            same = False
        if same:
            return None
        return FormatError(f"{self.path} was replaced or removed while it was in use. Run again, to read the new one.")
