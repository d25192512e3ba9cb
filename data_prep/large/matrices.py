"""Matrices of clicks that are written row by row, in the form of :mod:`data_prep.mapped`."""

from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
import numpy.typing as npt

from data_prep.manifest import MATRICES, matrix_files
from data_prep.mapped import HEADER, index_type, save_array, write_header, write_values
from recvae.matrices import pieces_of


class Matrices(AbstractContextManager["Matrices"]):
    """The matrices of a split in a folder; the files are complete once the context ends without an error.

    ``counts``: the number of clicks in each. Memory is taken for the row pointers alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.counts = dict.fromkeys(MATRICES, 0)
        self.n_items = 0
        self._lengths: dict[str, list[npt.NDArray[np.int64]]] = {name: [] for name in MATRICES}
        self._files: dict[str, IO[bytes]] = {}
        self._stack = ExitStack()

    def begin(self, n_items: int) -> None:
        """Begin the files, of matrices with ``n_items`` columns."""
        self.n_items = n_items
        for name in MATRICES:
            file = self._stack.enter_context((self.folder / matrix_files(name)[1]).open("w+b"))
            write_header(file, np.dtype(np.int32), 0)
            self._files[name] = file

    def add(self, name: str, n_rows: int, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int32]) -> None:
        """Append ``n_rows`` rows, whose clicks are at ``rows`` (from 0, ascending) and ``columns``, (n,)."""
        cells = np.sort(rows * self.n_items + columns)
        write_values(self._files[name], (cells % self.n_items).astype(np.int32))
        self._lengths[name].append(np.bincount(rows, minlength=n_rows))
        self.counts[name] += len(rows)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if error is None:
                for name in MATRICES:
                    self._finish(name)

    def _finish(self, name: str) -> None:
        """Write the row pointers, and the header of the columns."""
        lengths = np.concatenate([np.zeros(1, np.int64), *self._lengths[name]])
        entries = self.counts[name]
        kind = index_type((len(lengths) - 1, self.n_items), entries)
        pointers, columns = (self.folder / file for file in matrix_files(name))
        save_array(pointers, np.cumsum(lengths).astype(kind))
        file = self._files[name]
        if kind is np.int32:
            file.seek(0)
            write_header(file, np.dtype(np.int32), entries)
            return
        file.flush()
        narrow = np.memmap(columns, np.int32, "r", HEADER, (entries,))
        wide = columns.with_suffix(".wide")
        with wide.open("w+b") as output:
            write_header(output, np.dtype(np.int64), entries)
            for piece in pieces_of(narrow):
                write_values(output, narrow[piece].astype(np.int64))
        del narrow
        wide.replace(columns)
