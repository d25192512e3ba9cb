"""Files that appear whole or not at all, CSV tables that bring back any text, and hashes.

A file is written under a temporary name in its own folder, flushed to the disk and renamed, so that a reader sees the
old file or the new one and never a part. A folder of files is built beside its final place and renamed in the same way.
"""

import csv
import hashlib
import io
import json
import math
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from recvae.errors import DataError, FormatError, InputError, WorkError
from recvae.files.locks import LOCK, lock
from recvae.files.swap import (
    PART,
    clear_parts,
    clear_replaced,
    failure,
    make_folders,
    need_utf8,
    put,
    recover,
    remove,
    remove_empty,
    sync,
    target,
)

__all__ = [
    "Document",
    "JsonObject",
    "file_hash",
    "fill_json",
    "fill_table",
    "from_json",
    "parse_table",
    "read_json",
    "read_table",
    "recover",
    "refuse_existing",
    "same_vocabulary",
    "vocabulary_hash",
    "whole_file",
    "whole_folder",
    "write_json",
    "write_table",
    "write_text",
    "writing",
]

Document = Mapping[str, Any]
"""A JSON object that is read: its reader knows, or has checked, the types of the fields."""
JsonObject = dict[str, Any]
"""A JSON object that is being made."""

# csv.writer leaves a bare carriage return unquoted, and csv.reader then takes it for the end of the row.
_TOGETHER = 1 << 10  # rows of a table that are written together
_NEEDS_QUOTES = re.compile(r'[,"\r\n]')


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Hold the lock of the output ``path`` in the body, and remove unfinished forms of it first.

    A thread that holds the lock may enter again. Folders above ``path`` are made, and removed again where they stay
    empty. Raises :class:`WorkError` naming another process that writes there, or where the operating system refuses.
    """
    need_utf8(path)
    if not target(path).name:
        raise InputError(f"{path} is the root of a file system. Name a place in it.")
    with ExitStack() as stack:
        try:
            _enter(stack, path)
        except OSError as error:
            raise failure(path, error) from error
        yield


def _enter(stack: ExitStack, path: Path) -> None:
    """Make the folders above ``path`` and lock it; again where another process removes its empty folders meanwhile."""
    for last in (False, False, True):
        stack.callback(remove_empty, make_folders(path.parent))
        try:
            first = stack.enter_context(lock(path))
        except FileNotFoundError:
            if last:
                raise
        else:
            break
    recover(path)
    if first:  # on entering again, unfinished forms may be this writer's
        clear_parts(path)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in ``path``'s folder; rename it to ``path`` if the body succeeds, else delete it.

    No lock is taken (:func:`writing` takes one). Raises :class:`WorkError` naming ``path`` where the
    operating system refuses.
    """
    temporary: Path | None = None
    place = target(path)
    try:
        make_folders(place.parent)
        handle, name = tempfile.mkstemp(prefix=f".{place.name}.", suffix=PART, dir=place.parent)
        temporary = Path(name)
        os.close(handle)
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes files that others cannot read
        sync(temporary)
        put(temporary, place)
    except OSError as error:
        raise failure(path, error) from error
    finally:
        if temporary is not None:
            remove(temporary)


@contextmanager
def whole_folder(path: Path, *, marker: str, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; rename it to ``path`` if the body succeeds, else delete it.

    Raises :class:`InputError` where ``path`` exists and may not be replaced (before the body runs; see
    :func:`refuse_existing`), and :class:`WorkError` where another process writes there or the operating system refuses.
    An existing folder is removed only after the new one has its place.
    """
    place = target(path)
    temporary: Path | None = None
    with writing(path):
        refuse_existing(path, marker=marker, overwrite=overwrite)
        try:
            temporary = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=PART, dir=place.parent))
            temporary.chmod(0o777 & ~_umask())
            yield temporary
            for file in (*temporary.rglob("*"), temporary):
                sync(file)
            put(temporary, place)
            clear_replaced(place)
        except WorkError as error:  # of a file within: name the folder that the user named
            raise WorkError(str(error).replace(str(temporary), str(path))) from error
        except OSError as error:
            raise failure(path, error) from error
        finally:
            if temporary is not None:
                remove(temporary)


def refuse_existing(path: Path, *, marker: str, overwrite: bool) -> None:
    """Raise :class:`InputError` where the folder ``path`` exists, is not empty, and may not be replaced.

    Leftovers of a killed process do not count. The current folder is refused, since it cannot be renamed. With
    ``overwrite`` only a folder that holds the file ``marker``, and so is of our kind, may be replaced: a mistyped path
    must not delete anything else.
    """
    if path.resolve() == Path.cwd():
        raise InputError(f"{path} is the folder you are in. Name another one, which is made.")
    if not path.exists() or (path.is_dir() and all(file.name.endswith((PART, LOCK)) for file in path.iterdir())):
        return
    if not overwrite:
        raise InputError(f"{path} exists already. Choose another place, or replace it with overwrite=True.")
    if not (path / marker).is_file():
        raise InputError(f"{path} has no {marker}, so it is not replaced. Choose another place.")


def _umask() -> int:
    """Return the process's umask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 ``text`` to ``path``, whole or not at all; raise :class:`DataError` where it is not valid Unicode."""
    data = _encoded(text, path.name)
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


def _encoded(text: str, name: str) -> bytes:
    """Return text for a file called ``name``; raise :class:`DataError` where it is not valid Unicode."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        wrong = error.object[max(0, error.start - 20) : error.end + 20]
        raise DataError(f"{wrong!r} is not valid Unicode and cannot be written to {name}. Rename it.") from error


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as indented JSON, whole or not at all; NaN and infinities are refused."""
    with whole_file(path) as temporary:
        fill_json(temporary, value, path.name)


def fill_json(path: Path, value: object, name: str) -> None:
    """Write as :func:`write_json` does to a temporary file; errors use its later ``name``."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    path.write_bytes(_encoded(text, name))


def read_json(path: Path) -> Any:
    """Read a JSON file; raise :class:`FormatError` where it is missing, truncated or not JSON."""
    try:
        return from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FormatError(f"{path} is missing.") from error
    except (OSError, ValueError) as error:
        raise FormatError(f"{path} is damaged or not JSON ({error}); make it again.") from error


def from_json(text: str) -> Any:
    """Return the value of JSON text; raise ValueError for text that this project would not write.

    Such text is not JSON, is nested too deeply to be read, holds a text that is not valid Unicode (half a surrogate
    pair), NaN, an infinity, or a number that is too large.
    """
    try:
        value = json.loads(text, parse_constant=_finite, parse_float=_finite)
        if "\\u" in text:  # only an escape can make a lone surrogate
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
    """Write a UTF-8 CSV table, quoted where needed, so that every id and title is read back unchanged.

    Raises :class:`DataError` where a text is not valid Unicode.
    """
    with whole_file(path) as temporary:
        fill_table(temporary, header, rows, path.name)


def fill_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]], name: str) -> None:
    """Write a table as :func:`write_table` does to a temporary file; errors use its later ``name``."""
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            file.write(",".join(header) + "\n")
            rest = iter(rows)
            while some := list(islice(rest, _TOGETHER)):
                file.write(_lines(some))
    except UnicodeEncodeError as error:
        wrong = error.object[max(0, error.start - 20) : error.end + 20]
        raise DataError(f"{wrong!r} is not valid Unicode and cannot be written to {name}.") from error


def read_table(path: Path, header: Sequence[str], remedy: str) -> list[list[str]]:
    """Read the rows below ``header``; raise :class:`FormatError`, ending in ``remedy``, for any other file."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise FormatError(f"{path} is missing. {remedy}") from error
    except OSError as error:
        raise FormatError(f"{path} cannot be read ({error}). {remedy}") from error
    return parse_table(path, data, header, remedy)


def parse_table(path: Path, data: bytes, header: Sequence[str], remedy: str) -> list[list[str]]:
    """Return the rows of ``data``, a file's bytes; errors as :func:`read_table`."""
    try:
        rows = list(csv.reader(io.StringIO(data.decode(), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise FormatError(f"{path} cannot be read ({error}). {remedy}") from error
    if not rows or rows[0] != list(header):
        raise FormatError(f"{path} does not begin with the header {','.join(header)}. {remedy}")
    for number, row in enumerate(rows[1:], start=1):
        if len(row) != len(header):
            raise FormatError(f"{path}, row {number:,}: {len(row)} fields for {len(header)}. {remedy}")
    return rows[1:]


def _lines(rows: Sequence[Sequence[object]]) -> str:
    columns = [list(map(str, values)) for values in zip(*rows, strict=True)]
    if any(_NEEDS_QUOTES.search("".join(texts)) for texts in columns):  # rarely true: one search for all fields
        columns = [list(map(_quoted, texts)) for texts in columns]
    return "\n".join(map(",".join, zip(*columns, strict=True))) + "\n"


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if _NEEDS_QUOTES.search(text) else text


def vocabulary_hash(item_ids: Iterable[str]) -> str:
    """Return the SHA-256 of item ids in column order, one per line: two catalogues are the same where it is.

    Where an id itself holds a line feed, all are hashed with line feeds and backslashes escaped, after a byte that
    UTF-8 never holds, so that no other catalogue has the same bytes.
    """
    ids = list(item_ids)
    if any("\n" in text for text in ids):
        return _lines_hash((text.replace("\\", r"\\").replace("\n", r"\n") for text in ids), b"\xff")
    return _lines_hash(ids)


def same_vocabulary(item_ids: Iterable[str], digest: str) -> bool:
    """Return whether ``digest`` is the hash of these ids, by :func:`vocabulary_hash` or by older versions."""
    ids = list(item_ids)
    return digest in (vocabulary_hash(ids), _lines_hash(ids))


def _lines_hash(texts: Iterable[str], prefix: bytes = b"") -> str:
    return hashlib.sha256(prefix + "\n".join(texts).encode("utf-8", "surrogatepass")).hexdigest()


def file_hash(path: Path, algorithm: str = "sha256") -> str:
    """Return the hexadecimal digest of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
