"""Clicks in several files: a folder, or a pattern such as ``clicks/*.parquet``, read as one table.

Parts are in the order of their paths, by code point, and their rows follow one another: what depends on the order of
rows in a file depends on the order of all of them. Each part is a table with the columns that are read.
"""

import glob
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.columns import Rows, interactions
from data_prep.interactions import Interactions
from data_prep.readers import read_pieces, read_rows_of
from data_prep.streams import ByteSource, Progress, readable
from recvae.errors import DataError, InputError
from recvae.files import JsonObject
from recvae.frames.ids import Columns

_SUFFIXES = re.compile(r"\.(parquet|parq|pq|csv|tsv|tab|txt|dat)(\.(gz|bz2|xz|zst))?", re.IGNORECASE)


@dataclass(frozen=True)
class Parts:
    """The files of one table, in order, by ``label``: the folder, pattern or single file that was given."""

    label: str
    files: tuple[Path, ...]

    @property
    def name(self) -> str:
        """A name for the dataset: that of the folder that is given, or that a pattern begins with, or of the file."""
        if self._single:
            return Path(ByteSource(self.files[0]).name).stem
        fixed = Path(self.label) if not _is_pattern(self.label) else _before_pattern(self.label)
        return readable(fixed.resolve().name) or "clicks"

    def about(self) -> JsonObject:
        """Return the source for the manifest; its digest is that of the lines that sha256sum prints for the parts."""
        if self._single:
            whole = ByteSource(self.files[0])
            return {"kind": "file", "file": whole.origin, "sha256": whole.digest()}
        digest = hashlib.sha256()
        root = _before_pattern(self.label) if _is_pattern(self.label) else Path(self.label)
        for file in self.files:
            digest.update(f"{ByteSource(file).digest()}  {readable(file.relative_to(root).as_posix())}\n".encode())
        last = Path(self.label).parts[-2:] if _is_pattern(self.label) else Path(self.label).parts[-1:]
        shown = readable("/".join(part for part in last if part != "/"))
        return {"kind": "parts", "file": shown, "parts": len(self.files), "sha256": digest.hexdigest()}

    @property
    def _single(self) -> bool:
        return self.label == str(self.files[0])


def find_parts(source: object) -> Parts | None:
    """Return the files of a folder or a pattern, None for anything else; raise :class:`InputError` where it has none.

    A folder's files are those below it whose names end in .parquet, .csv and the like, packed or not, and have no dot
    or underscore in front, as the names of unfinished and hidden files do.
    """
    if not isinstance(source, str | Path):
        return None
    path, text = Path(source), str(source)
    try:
        is_folder, is_there = path.is_dir(), path.exists()
    except (OSError, ValueError):  # no path that there can be: the reader raises the error
        return None
    if is_folder:
        shown = (file.relative_to(path) for file in path.rglob("*") if file.is_file())
        chosen = [file for file in shown if not any(part.startswith((".", "_")) for part in file.parts)]
        files = sorted(file.as_posix() for file in chosen if _SUFFIXES.search(file.name))
        if not files:
            raise InputError(f"{path} is a folder without Parquet or CSV files. Give a file, or a folder of parts.")
        return Parts(text, tuple(path / file for file in files))
    if is_there or not _is_pattern(text):
        return None
    root = _before_pattern(text)
    matching = root.glob(path.relative_to(root).as_posix())
    found = sorted(file.as_posix() for file in matching if file.is_file() and not file.name.startswith("."))
    if not found:
        raise InputError(f"No file matches {text}. Check the pattern.")
    return Parts(text, tuple(map(Path, found)))


def read_parts(
    parts: Parts,
    want: Columns,
    *,
    columns: Sequence[str] | None = None,
    separator: str | None = None,
    progress: Progress | None = None,
) -> Interactions:
    """Read all parts into memory; parts without rows are passed over. Errors as ``read_interactions``."""
    found: list[Rows] = []
    kinds = Kinds(want)
    for file, report in _reported(parts, progress):
        rows = read_rows_of(file, want, columns=columns, separator=separator, progress=report)
        if rows is not None:
            kinds.check(file, rows)
            found.append(rows)
    if not found:
        raise DataError(f"{parts.label} has no rows.")
    return interactions(found, parts.label)


def pieces_of_parts(
    parts: Parts,
    want: Columns,
    *,
    columns: Sequence[str] | None = None,
    separator: str | None = None,
    progress: Progress | None = None,
) -> Iterator[Rows]:
    """Yield the rows of all parts in pieces; otherwise as :func:`read_parts`."""
    kinds, some = Kinds(want), False
    for file, report in _reported(parts, progress):
        for rows in read_pieces(file, want, columns, separator, report):
            kinds.check(file, rows)
            some = True
            yield rows
    if not some:
        raise DataError(f"{parts.label} has no rows.")


class Kinds:
    """Remembers whether the times of the first part are dates: numbers in another part would not compare with them."""

    def __init__(self, want: Columns) -> None:
        self.want = want
        self.first: tuple[Path, bool] | None = None

    def check(self, file: Path, rows: Rows) -> None:
        """Raise :class:`DataError` where times are dates in one part and numbers in another."""
        if rows.time is None:
            return
        if self.first is None:
            self.first = file, rows.dated
        if rows.dated != self.first[1]:
            dates, numbers = (file, self.first[0]) if rows.dated else (self.first[0], file)
            raise DataError(
                f"Column '{self.want.time}' holds dates in {dates} and numbers in {numbers}. Write the times of all"
                " parts in one way."
            )


def _reported(parts: Parts, progress: Progress | None) -> Iterator[tuple[Path, Progress | None]]:
    """Yield each part with a function that reports its bytes as those of all parts together."""
    sizes = [file.stat().st_size for file in parts.files]
    whole, before = sum(sizes), 0
    for file, size in zip(parts.files, sizes, strict=True):

        def report(what: str, done: int, total: int | None, before: int = before, size: int = size) -> None:
            if progress is not None:
                progress(f"read {len(sizes)} files", before + min(done, size), whole)

        yield file, None if progress is None else report
        before += size


def _is_pattern(text: str) -> bool:
    return glob.has_magic(text)


def _before_pattern(text: str) -> Path:
    """Return the folders of a pattern before the first part that has a wildcard."""
    parts = Path(text).parts
    fixed = next(place for place, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:fixed])
