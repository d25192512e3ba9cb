"""Files that appear whole or not at all, CSV tables that bring back any text, and hashes.

A file is written under a temporary name in its own folder, flushed to the disk and renamed, so that a reader sees the
old file or the new one and never a part. A folder of files is built beside its final place and renamed in the same way.
"""

import csv
import glob
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recvae.errors import DataError, FormatError, InputError, WorkError

__all__ = [
    "OLD",
    "PART",
    "file_hash",
    "fill_json",
    "fill_table",
    "find_aside",
    "from_json",
    "put_back",
    "read_json",
    "read_table",
    "refuse_existing",
    "set_aside",
    "vocabulary_hash",
    "whole_file",
    "whole_folder",
    "write_json",
    "write_table",
    "write_text",
]

PART = ".part"  # how the names of unfinished files and folders end; they begin with a dot
OLD = ".old"  # and those of folders that hold what is being replaced

# csv.writer leaves a bare carriage return unquoted, and csv.reader then takes it for the end of the row.
_NEEDS_QUOTES = re.compile(r'[,"\r\n]')


def _failure(path: Path, error: OSError) -> WorkError:
    """Turn an operating-system error into a sentence that names the path and what to do."""
    reason = error.strerror or str(error)
    return WorkError(f"Cannot write {path}: {reason}. Free some space, or choose another place to write to.")


def _sync(path: Path) -> None:
    """Flush one file's or folder's contents to the disk (a folder cannot be opened on Windows)."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError:  # some file systems refuse to sync a read-only descriptor; the rename is still atomic
        pass
    finally:
        os.close(descriptor)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in ``path``'s folder; rename it to ``path`` if the body succeeds, else delete it.

    Raises :class:`WorkError` naming ``path`` where the operating system refuses.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=PART, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        _sync(temporary)
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes private files; ours are ordinary ones
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise _failure(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path, *, marker: str, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; rename it to ``path`` if the body succeeds, else delete it.

    Raises :class:`InputError` where ``path`` exists and may not be replaced (before the body runs; see
    :func:`refuse_existing`), and :class:`WorkError` where the operating system refuses. An existing folder is removed
    only after the new one is complete.
    """
    refuse_existing(path, marker=marker, overwrite=overwrite)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=PART, dir=path.parent))
        temporary.chmod(0o777 & ~_umask())
        yield temporary
        for file in temporary.rglob("*"):
            _sync(file)
        aside = set_aside(path) if path.exists() else None
        try:
            temporary.rename(path)
        except OSError:
            if aside is not None:
                put_back(aside, path)
            raise
        if aside is not None:
            shutil.rmtree(aside.parent, ignore_errors=True)
        _sync(path.parent)
    except WorkError as error:  # from a file within: name the place that the user knows
        raise WorkError(str(error).replace(str(temporary), str(path))) from error
    except OSError as error:
        raise _failure(path, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def set_aside(path: Path) -> Path:
    """Move a folder into a hidden one beside it, and return its new place; raise :class:`WorkError` if refused."""
    hidden = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=OLD, dir=path.parent))
    try:
        return path.rename(hidden / path.name)
    except OSError as error:
        hidden.rmdir()
        raise _failure(path, error) from error


def put_back(aside: Path, path: Path) -> None:
    """Give what :func:`set_aside` moved its place again, instead of whatever is there now."""
    shutil.rmtree(path, ignore_errors=True)
    aside.rename(path)
    aside.parent.rmdir()


def find_aside(path: Path) -> Path | None:
    """Return what a killed process had set aside, None where there is nothing."""
    return next(path.parent.glob(f".{glob.escape(path.name)}.*{OLD}/{glob.escape(path.name)}"), None)


def refuse_existing(path: Path, *, marker: str, overwrite: bool) -> None:
    """Raise :class:`InputError` where the folder ``path`` exists, is not empty, and may not be replaced.

    Leftovers of a write that was cut off do not count. The folder one is in cannot be renamed under one's feet.

    With ``overwrite`` only a folder that holds the file ``marker``, one of our own kind, may be: a slip of the hand
    must not delete anything else.
    """
    if path.resolve() == Path.cwd():
        raise InputError(f"{path} is the folder you are in. Name another one, which is made.")
    if not path.exists() or (path.is_dir() and all(file.name.endswith(PART) for file in path.iterdir())):
        return
    if not overwrite:
        raise InputError(f"{path} exists already. Choose another place, or replace it with --overwrite.")
    if not (path / marker).is_file():
        raise InputError(f"{path} has no {marker}, so it is not replaced. Choose another place.")


def _umask() -> int:
    """Return the process's umask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 ``text`` to ``path``, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, whole or not at all; NaN and infinities are refused."""
    with whole_file(path) as temporary:
        fill_json(temporary, value)


def fill_json(path: Path, value: Any) -> None:
    """Write as :func:`write_json` does to a temporary file."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    path.write_text(text, encoding="utf-8", newline="\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; raise :class:`FormatError` where it is missing, truncated or not JSON."""
    try:
        return from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FormatError(f"{path} is missing.") from error
    except (OSError, ValueError) as error:
        raise FormatError(f"{path} is damaged or not JSON ({error}); make it again.") from error


def from_json(text: str) -> Any:
    """Return what JSON text holds; raise ValueError where it is not JSON that we would write.

    That is also where it is nested too deeply to be read, where a text in it is no Unicode (half a surrogate pair), and
    for NaN, infinities and numbers too long to be one.
    """
    try:
        value = json.loads(text, parse_constant=_finite, parse_float=_finite)
        if "\\u" in text:  # the only way to a lone surrogate
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("a text in it is not valid Unicode") from None
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is too large to be a number" if text[-1].isdigit() else f"{text} is no number")
    return value


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a UTF-8 CSV table, quoted where needed, so that any id and title comes back as it was.

    Raises :class:`DataError` where a text is not valid Unicode.
    """
    with whole_file(path) as temporary:
        fill_table(temporary, header, rows, path.name)


def fill_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]], name: str) -> None:
    """Write a table as :func:`write_table` does to a temporary file, of what will be called ``name``."""
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            file.write(",".join(header) + "\n")
            file.writelines(_line(row) for row in rows)
    except UnicodeEncodeError as error:
        raise DataError(f"{error.object!r} is not valid Unicode and cannot be written to {name}.") from error


def read_table(path: Path, header: Sequence[str], remedy: str) -> list[list[str]]:
    """Read the rows below ``header``; raise :class:`FormatError`, ending in ``remedy``, where the file is not such."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file, strict=True))
    except FileNotFoundError as error:
        raise FormatError(f"{path} is missing. {remedy}") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FormatError(f"{path} cannot be read ({error}). {remedy}") from error
    if not rows or rows[0] != list(header):
        raise FormatError(f"{path} does not begin with the header {','.join(header)}. {remedy}")
    for number, row in enumerate(rows[1:], start=1):
        if len(row) != len(header):
            raise FormatError(f"{path}, row {number:,}: {len(row)} fields for {len(header)}. {remedy}")
    return rows[1:]


def _line(row: Sequence[object]) -> str:
    fields = [str(value) for value in row]
    if _NEEDS_QUOTES.search("".join(fields)):  # rarely: one search for all of them
        fields = ['"' + text.replace('"', '""') + '"' if _NEEDS_QUOTES.search(text) else text for text in fields]
    return ",".join(fields) + "\n"


def vocabulary_hash(item_ids: Iterable[str]) -> str:
    """Return the SHA-256 of item ids in column order, one per line: two catalogues are the same where it is."""
    return hashlib.sha256("\n".join(item_ids).encode("utf-8", "surrogatepass")).hexdigest()


def file_hash(path: Path, algorithm: str = "sha256") -> str:
    """Return the hexadecimal digest of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
