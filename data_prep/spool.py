"""Pipes and other sources that can be read once: they are copied to a temporary file, which can be read repeatedly.

``-`` is standard input. The temporary file has no name, so that it ends with the process.
"""

import os
import re
import select
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from data_prep.streams import ByteSource, Progress, Spooled
from recvae.arguments import Frame
from recvae.errors import DataError, InputError, WorkError
from recvae.frames.tables import Table

LIMIT = 1 << 36
"""The most bytes that are copied from a pipe (64 GiB), and at most nine tenths of the temporary folder's free space."""

WRITER_SECONDS = 30.0
"""Seconds to wait for a writer of a named pipe."""

_PIECE = 1 << 20
_DESCRIPTOR = re.compile(r"/dev/(?:stdin|fd/(\d+))|/proc/self/fd/(\d+)")


@contextmanager
def rereadable(source: str | Path | ByteSource, progress: Progress | None = None) -> Iterator[ByteSource]:
    """Yield a source that can be opened repeatedly: a regular file itself, a copy of any other source.

    Raises :class:`InputError` for a pipe that cannot be read, or has no writer within ``WRITER_SECONDS``,
    :class:`DataError` for one of more than ``LIMIT`` bytes and :class:`WorkError` where the copy does not fit the disk.
    """
    if isinstance(source, ByteSource):
        yield source
        return
    path = Path(source)
    number = _descriptor(path)
    if not _is_pipe(path, number):
        yield ByteSource(path)
        return
    label = "stdin" if number == 0 else str(path)
    with tempfile.TemporaryFile(prefix="recvae-") as copy:
        descriptor = _open(path, label, number)
        try:
            _copy(_pieces(descriptor, label, number, progress), copy, label, progress)
        except OSError as error:
            place = tempfile.gettempdir()
            raise WorkError(
                f"{label} could not be copied to a temporary file in {place}: {error.strerror or error}. Set TMPDIR"
                " to a folder with more space, or write the data to a file and give that."
            ) from error
        finally:
            os.close(descriptor)
        names = ("stdin", "standard input") if number == 0 else ("pipe", "a pipe") if number else (path.name, path.name)
        yield ByteSource(path, spooled=Spooled(copy, label, *names))


@contextmanager
def all_rereadable(
    clicks: Sequence[str | Path | ByteSource | Frame],
    texts: Sequence[str | Path | ByteSource | None],
    progress: Progress | None = None,
) -> Iterator[tuple[list[ByteSource | Table], list[ByteSource | None]]]:
    """Yield sources that can be read repeatedly: files as :func:`rereadable` yields them, and frames as tables.

    Raises :class:`InputError` where two of them are the same pipe, which the first would leave empty, and for a source
    that is neither a file nor a frame.
    """
    seen: dict[tuple[int, int], object] = {}
    with ExitStack() as stack:

        def opened(source: str | Path | ByteSource) -> ByteSource:
            identity = None if isinstance(source, ByteSource) else _identity(Path(source))
            if identity is not None and identity in seen:
                raise InputError(
                    f"{seen[identity]} and {source} are the same pipe, which can be read once. Write one of the two"
                    " to a file."
                )
            if identity is not None:
                seen[identity] = source
            return stack.enter_context(rereadable(source, progress))

        yield (
            [opened(source) if isinstance(source, str | Path | ByteSource) else Table(source) for source in clicks],
            [None if source is None else opened(source) for source in texts],
        )


def is_stdin(source: object) -> bool:
    """Return whether a source names standard input."""
    return str(source) == "-" if isinstance(source, str | Path) else False


def _descriptor(path: Path) -> int | None:
    """Return the number of the open file that a path such as ``-`` or ``/dev/fd/63`` names, else None."""
    if str(path) == "-":
        return 0
    match = _DESCRIPTOR.fullmatch(str(path))
    return int(match[1] or match[2] or 0) if match else None


def _is_pipe(path: Path, number: int | None) -> bool:
    """Return whether a path must be copied: ``-``, and a path that exists and is no regular file and no folder."""
    if number == 0 and sys.stdin is None:
        raise InputError("Standard input is closed: pipe the data into it, or name a file.")
    try:
        mode = path.stat().st_mode if str(path) != "-" else os.fstat(0).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False  # the reader raises the error
    except ValueError as error:  # a NUL or a lone surrogate in it
        raise InputError(f"There is no file {str(path)!r}. Check the path.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    if number is not None and stat.S_ISCHR(mode) and os.isatty(number):
        raise InputError("Nothing is piped into standard input: pipe the data into it, or name a file.")
    return str(path) == "-" or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _identity(path: Path) -> tuple[int, int] | None:
    """Return the device and inode of a pipe, by which its names compare; None for other files and missing ones."""
    try:
        about = path.stat() if str(path) != "-" else os.fstat(0)
    except (OSError, ValueError):
        return None
    of_bytes_once = stat.S_ISFIFO(about.st_mode) or stat.S_ISSOCK(about.st_mode) or str(path) == "-"
    return (about.st_dev, about.st_ino) if of_bytes_once else None


def _open(path: Path, label: str, number: int | None) -> int:
    """Return a descriptor to read from, at once also where a named pipe has no writer."""
    try:
        # An open descriptor is duplicated: a pipe reopened by its name looks like a pipe without a writer.
        return os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)) if number is None else os.dup(number)
    except OSError as error:
        raise InputError(f"{label} cannot be read: {error.strerror or error}.") from error


def _copy(pieces: Iterator[bytes], copy: IO[bytes], label: str, progress: Progress | None) -> None:
    """Copy all pieces; raise :class:`DataError` for more bytes than the limit."""
    most = min(LIMIT, shutil.disk_usage(tempfile.gettempdir()).free * 9 // 10)
    done = 0
    for piece in pieces:
        done += len(piece)
        if done > most:
            raise DataError(
                f"{label} gives more than {most:,} bytes, which is the limit of a pipe here. Write the data to a file"
                " and give that."
            )
        copy.write(piece)
        if progress is not None:
            progress(f"copy {label} to a temporary file", done, None)
    copy.flush()


def _pieces(descriptor: int, label: str, number: int | None, progress: Progress | None) -> Iterator[bytes]:
    """Yield the bytes of a pipe; raise :class:`InputError` for a named pipe without a writer."""
    named = number is None and stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    had_writer, deadline = not named, time.monotonic() + WRITER_SECONDS
    while True:
        try:
            piece = os.read(descriptor, _PIECE)
        except BlockingIOError:  # a writer has the pipe open and has written nothing new
            had_writer = True
            select.select([descriptor], [], [])
            continue
        if piece:
            had_writer = True
            yield piece
        elif had_writer:
            return
        elif time.monotonic() < deadline:
            if progress is not None:
                progress(f"wait for a writer of {label}", 0, None)
            had_writer = _came_and_went(descriptor)
        else:
            raise InputError(
                f"{label} is a pipe that nobody writes to: waited {WRITER_SECONDS:g} seconds. Start the program that"
                " writes to it, or name a file."
            )


def _came_and_went(descriptor: int) -> bool:
    """Watch an empty pipe for a tenth of a second; return whether a writer opened and closed it."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return any(event & select.POLLHUP for _, event in poll.poll(100))
