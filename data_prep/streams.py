"""Bytes from a plain file, a gzip file or a member of a zip archive, read as a stream and never unpacked to disk."""

import gzip
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from recvae.errors import DataError, InputError

Progress = Callable[[str, int, int | None], None]
"""Called as ``progress(what, done, total)`` with amounts in bytes; ``total`` is None where it is not known."""

_GZIP_MAGIC = b"\x1f\x8b"
_HEAD = 1 << 16


@dataclass(frozen=True)
class ByteSource:
    """A file, or a ``member`` of a zip archive, that can be opened any number of times; gzip is seen by its content."""

    path: Path
    member: str | None = None

    @property
    def name(self) -> str:
        """The file's own name, without ``.gz``."""
        return Path(self.member or self.path).name.removesuffix(".gz")

    def __str__(self) -> str:
        return f"{self.member} in {self.path}" if self.member else str(self.path)

    @contextmanager
    def open(self, progress: Progress | None = None) -> Iterator["Stream"]:
        """Yield the decompressed bytes as a :class:`Stream`.

        Raises :class:`InputError` where there is no such file and :class:`DataError` where it is truncated or damaged,
        also when that shows only while reading.
        """
        if self.path.is_dir():
            raise InputError(f"{self.path} is a folder; give a file.")
        try:
            if self.member is None:
                with self.path.open("rb") as raw:
                    yield self._stream(raw, self.path.stat().st_size, progress)
            else:
                with zipfile.ZipFile(self.path) as archive, self._member(archive, self.member) as raw:
                    yield self._stream(raw, archive.getinfo(self.member).file_size, progress)
        except FileNotFoundError as error:
            raise InputError(f"There is no file {self.path}. Check the path.") from error
        except (EOFError, zlib.error, zipfile.BadZipFile, gzip.BadGzipFile) as error:
            raise DataError(f"{self} is truncated or damaged ({error}). Download or copy it again.") from error
        except OSError as error:
            raise InputError(f"{self.path} cannot be read: {error.strerror or error}.") from error

    def _member(self, archive: zipfile.ZipFile, member: str) -> IO[bytes]:
        try:
            return archive.open(member)
        except (RuntimeError, NotImplementedError, KeyError) as error:  # encrypted, a rare compression, not there
            raise DataError(f"{self} cannot be unpacked ({error}). Unpack it and give the folder.") from error

    def _stream(self, raw: IO[bytes], size: int, progress: Progress | None) -> "Stream":
        stream = Stream(raw, f"read {self.name}", size, progress)
        if stream.peek(len(_GZIP_MAGIC)) == _GZIP_MAGIC:
            unpacked = gzip.GzipFile(fileobj=stream, mode="rb")  # type: ignore[call-overload,unused-ignore]  # some stubs do not see that it can read this
            return Stream(unpacked, "", None, None)
        return stream

    def head(self) -> bytes:
        """Return the first 64 KiB of the decompressed bytes."""
        with self.open() as stream:
            return stream.read(_HEAD)

    def read(self) -> bytes:
        """Return all decompressed bytes, for files that are small."""
        with self.open() as stream:
            return stream.read()


class Stream:
    """A forward reader that can peek at its start, reports progress, and swaps a long separator for a single byte."""

    closed = False

    def __init__(self, raw: IO[bytes], what: str, total: int | None, progress: Progress | None) -> None:
        self._raw, self._what, self._total, self._progress = raw, what, total, progress
        self._done = 0
        self._ahead = b""

    def peek(self, n: int) -> bytes:
        """Return the next ``n`` bytes (fewer at the end) without moving."""
        self._ahead += self._raw.read(n - len(self._ahead)) if len(self._ahead) < n else b""
        return self._ahead[:n]

    def read(self, n: int = -1) -> bytes:
        """Return the next ``n`` bytes, fewer at the end, all for n < 0."""
        if n < 0:
            data = self._ahead + self._raw.read()
            self._ahead = b""
        elif self._ahead:
            data, self._ahead = self._ahead[:n], self._ahead[n:]
            data += self._raw.read(n - len(data))
        else:
            data = self._raw.read(n)
        self._done += len(data)
        if self._progress is not None:
            self._progress(self._what, self._done, self._total)
        return data

    def readable(self) -> bool:
        """Say that this is a reader, as pyarrow asks."""
        return True

    def seekable(self) -> bool:
        """Say that this reader only goes forward."""
        return False

    def close(self) -> None:
        """Do nothing: the context manager that opened the file closes it."""


class Separated(Stream):
    """A stream in which a separator of several characters is replaced by one control character.

    Arrow's reader splits at one byte only. The control character must not occur in the data: :class:`DataError`.
    """

    CONTROL = b"\x1f"

    def __init__(self, stream: Stream, separator: str, label: str) -> None:
        super().__init__(stream, "", None, None)  # type: ignore[arg-type]  # it has the read that is asked of it
        self._stream, self._separator, self._label = stream, separator.encode(), label
        self._carry = b""  # the start of a separator that may go on in the next piece

    def read(self, n: int = -1) -> bytes:
        """Return at most ``n`` bytes after replacement; empty only at the end."""
        while True:
            # what was carried plus what is read never exceeds n, since Arrow copies into a buffer of that size
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
