"""Bytes from a plain or packed file, a member of a zip archive or a copied pipe: a stream, never unpacked to disk."""

import bz2
import gzip
import hashlib
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from data_prep.kinds import packing
from recvae.errors import DataError, InputError

Progress = Callable[[str, int, int | None], None]
"""Called as ``progress(what, done, total)`` with amounts in bytes; ``total`` is None where it is not known."""

_SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
_MAGIC = 16
_HEAD = 1 << 16
_PIECE = 1 << 20
_ALWAYS = 1 << 26  # 64 MiB may always be unpacked
_RATIO = 50
_DAMAGE = (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, gzip.BadGzipFile)


@dataclass(frozen=True)
class Spooled:
    """The copy of a pipe: an open temporary file, its ``label`` in messages, a short ``name``, and its origin."""

    file: IO[bytes]
    label: str
    name: str
    origin: str


@dataclass(frozen=True)
class ByteSource:
    """A file, a ``member`` of a zip archive or a copied pipe, that can be opened any number of times.

    Compressed bytes (gzip, bzip2, xz, zstd) are recognised by content, and unpacked while they are read. Pipes become
    one by :func:`data_prep.spool.rereadable`.
    """

    path: Path
    member: str | None = None
    spooled: Spooled | None = None

    @property
    def name(self) -> str:
        """The file's own name, without ``.gz`` and the like; always valid Unicode."""
        name = self.origin if self.spooled is None else self.spooled.name
        return next((name.removesuffix(suffix) for suffix in _SUFFIXES if name.endswith(suffix)), name)

    @property
    def origin(self) -> str:
        """The origin of the bytes, for the manifest: the file's own name, or words for a pipe."""
        if self.spooled is not None:
            return self.spooled.origin
        return readable(Path(self.member or self.path).name)

    def __str__(self) -> str:
        if self.spooled is not None:
            return self.spooled.label
        return f"{self.member} in {self.path}" if self.member else str(self.path)

    @contextmanager
    def raw(self) -> Iterator[IO[bytes]]:
        """Yield the bytes as they are on disk, from the first one on; errors as :meth:`open`."""
        if self.spooled is None and self.path.is_dir():
            raise InputError(f"{self.path} is a folder; give a file.")
        try:
            if self.spooled is not None:
                self.spooled.file.seek(0)
                yield self.spooled.file
            else:
                with self.path.open("rb") as file:
                    yield file
        except (FileNotFoundError, NotADirectoryError) as error:
            raise InputError(f"There is no file {self.path}. Check the path.") from error
        except _DAMAGE as error:
            raise DataError(f"{self} is truncated or damaged ({error}). Download or copy it again.") from error
        except OSError as error:
            if error.errno is None:  # an error of bzip2 or zstd
                raise DataError(f"{self} is truncated or damaged ({error}). Download or copy it again.") from error
            raise InputError(f"{self} cannot be read: {error.strerror or error}.") from error

    @contextmanager
    def open(self, progress: Progress | None = None) -> Iterator["Stream"]:
        """Yield the unpacked bytes as a :class:`Stream`.

        Raises :class:`InputError` where there is no such file and :class:`DataError` where it is truncated or damaged,
        also when that shows only while reading, or unpacks to more than :func:`most_unpacked`.
        """
        with self.raw() as raw:
            if self.member is None:
                size = raw.seek(0, io.SEEK_END)
                raw.seek(0)
                yield self._stream(raw, size, size, progress)
                return
            with zipfile.ZipFile(raw) as archive:
                about = self._about(archive, self.member)
                with archive.open(about) as member:
                    yield self._stream(member, about.file_size, about.compress_size, progress)

    def _about(self, archive: zipfile.ZipFile, member: str) -> zipfile.ZipInfo:
        """Return a member's entry in the archive's table; raise :class:`DataError` where it cannot be unpacked."""
        try:
            about = archive.getinfo(member)
            archive.open(about).close()
        except (
            RuntimeError,
            NotImplementedError,
            KeyError,
            ValueError,
        ) as error:  # encrypted, a rare compression, not there
            raise DataError(f"{self} cannot be unpacked ({error}). Unpack it and give the folder.") from error
        if about.file_size > most_unpacked(about.compress_size):
            raise self._too_much(about.compress_size)
        return about

    def _stream(self, raw: IO[bytes], size: int, packed: int, progress: Progress | None) -> "Stream":
        stream = Stream(raw, f"read {self.name}", size, progress)
        how = packing(stream.peek(_MAGIC))
        if how is None:
            return stream
        return Stream(_unpacked(stream, how), "", None, None, most_unpacked(packed), self._too_much(packed))

    def _too_much(self, packed: int) -> DataError:
        return DataError(
            f"{self} unpacks to more than {most_unpacked(packed):,} bytes, {_RATIO} times its size or more. If that is"
            " right, unpack it, and give the unpacked file."
        )

    def head(self) -> bytes:
        """Return the first 64 KiB of the unpacked bytes."""
        with self.open() as stream:
            return stream.read(_HEAD)

    def read(self) -> bytes:
        """Return all unpacked bytes."""
        with self.open() as stream:
            return stream.read()

    def digest(self) -> str:
        """Return the SHA-256 of the bytes as they are on disk."""
        with self.raw() as raw:
            return hashlib.file_digest(raw, "sha256").hexdigest()  # type: ignore[arg-type]  # it takes IO


def readable(name: str) -> str:
    """Return a file's name as valid Unicode, with a mark for bytes that are not."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def most_unpacked(packed: int) -> int:
    """Return the most bytes that ``packed`` ones may unpack to: text packs to a tenth, a zip bomb to a thousandth."""
    return max(_ALWAYS, _RATIO * packed)


def _unpacked(stream: "Stream", how: str) -> IO[bytes]:
    """Return a reader of the unpacked bytes of ``stream``."""
    source: IO[bytes] = stream  # type: ignore[assignment]  # it has the methods that are called
    if how == "gzip":
        return gzip.GzipFile(fileobj=source, mode="rb")  # type: ignore[return-value]  # it reads as the others do
    if how == "bzip2":
        return bz2.BZ2File(source)
    if how == "xz":
        return lzma.LZMAFile(source)
    import pyarrow as pa

    reader: IO[bytes] = pa.CompressedInputStream(pa.PythonFile(source, mode="r"), "zstd")
    return reader


class Stream:
    """A forward reader that can peek at its start, reports progress, and swaps a long separator for a single byte."""

    closed = False

    def __init__(
        self,
        raw: IO[bytes],
        what: str,
        total: int | None,
        progress: Progress | None,
        most: int | None = None,
        too_much: DataError | None = None,
    ) -> None:
        self._raw, self._what, self._total, self._progress = raw, what, total, progress
        self._most, self._too_much = most, too_much  # ``too_much`` is raised after ``most`` bytes
        self._done = 0
        self._ahead = b""

    def peek(self, n: int) -> bytes:
        """Return the next ``n`` bytes (fewer at the end) without moving."""
        self._ahead += self._raw.read(n - len(self._ahead)) if len(self._ahead) < n else b""
        return self._ahead[:n]

    def read(self, n: int = -1) -> bytes:
        """Return the next ``n`` bytes, fewer at the end, all for n < 0."""
        if n < 0:
            return b"".join(iter(lambda: self.read(_PIECE), b""))
        if self._ahead:
            data, self._ahead = self._ahead[:n], self._ahead[n:]
            data += self._raw.read(n - len(data))
        else:
            data = self._raw.read(n)
        self._done += len(data)
        if self._most is not None and self._done > self._most and self._too_much is not None:
            raise self._too_much
        if self._progress is not None:
            self._progress(self._what, self._done, self._total)
        return data

    def readable(self) -> bool:
        """Return True, for pyarrow."""
        return True

    def seekable(self) -> bool:
        """Return False: this reader only goes forward."""
        return False

    def writable(self) -> bool:
        """Return False, for Python's text reader."""
        return False

    def flush(self) -> None:
        """Do nothing: there is nothing to write."""

    def close(self) -> None:
        """Do nothing: the context manager that opened the file closes it."""


class Separated(Stream):
    """A stream in which a separator of several characters is replaced by one control character.

    Arrow's reader splits at one byte only. The control character must not occur in the data: :class:`DataError`.
    """

    CONTROL = b"\x1f"

    def __init__(self, stream: Stream, separator: str, label: str) -> None:
        super().__init__(stream, "", None, None)  # type: ignore[arg-type]  # it has the read method that is called
        self._stream, self._separator, self._label = stream, separator.encode(), label
        self._carry = b""  # the start of a separator that may go on in the next piece

    def read(self, n: int = -1) -> bytes:
        """Return at most ``n`` bytes after replacement; empty only at the end."""
        while True:
            # the bytes carried and read together never exceed n, the size of Arrow's buffer
            piece = self._stream.read(n if n < 0 else max(n - len(self._carry), 1))
            if self.CONTROL in piece:
                raise DataError(f"{self._label} holds the control character 0x1F, which is not allowed here.")
            data = (self._carry + piece).replace(self._separator, self.CONTROL)
            self._carry = b""
            if not piece or n < 0:
                return data
            for length in range(len(self._separator) - 1, 0, -1):
                if data.endswith(self._separator[:length]):
                    data, self._carry = data[:-length], data[-length:]
                    break
            if data:
                return data
