"""One writer at a time for each output: a lock file beside it that names its holder, and that no dead process can keep.

The lock is the operating system's, on an open file: it ends with the process that holds it, however that ends. The file
is removed with the lock. Where a file system has no such locks, the file itself is the lock, and one whose process is
gone is taken over (both are the library filelock's).
"""

import errno
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from recvae.errors import WorkError

if TYPE_CHECKING:
    from filelock import BaseFileLock


LOCK = ".lock"  # how the names of lock files end; they begin with a dot
PATIENCE = 0.5  # seconds that a second writer waits: the first one may be about to end

doing: ContextVar[str] = ContextVar("doing", default="")
"""What this process is at, such as ``recvae train``, for those who find its lock; the program's name by default."""

_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}  # what file systems without locks answer
_held: dict[tuple[int, int, str], int] = {}  # how many times, by process (a fork holds nothing), thread and lock file


class BusyError(WorkError):
    """Another process, or another thread, is writing the same output."""


@contextmanager
def lock(path: Path) -> Iterator[bool]:
    """Hold the lock of the output ``path`` in the body; a thread that has it already may take it again.

    Yields whether it was taken for the first time.

    The folder above ``path`` must exist. Raises :class:`BusyError` naming the holder where the output is locked, and
    OSError where the lock file cannot be written.
    """
    place = lock_file(path)
    key = (os.getpid(), threading.get_ident(), str(place))
    if key in _held:
        _held[key] += 1
        try:
            yield False
        finally:
            _held[key] -= 1
        return
    held = _acquire(place, path)
    _held[key] = 1
    try:
        yield True
    finally:
        del _held[key]
        _release(held, place)


def lock_file(path: Path) -> Path:
    """Return the lock file of an output: one for all names (links) of it.

    It is beside the output, or inside a folder whose surroundings cannot be written to.
    """
    real = Path(os.path.realpath(path))
    if real.is_dir() and not os.access(real.parent, os.W_OK):
        return real / LOCK
    return real.with_name(f".{real.name}{LOCK}")


def _acquire(place: Path, path: Path) -> "BaseFileLock":
    from filelock import FileLock, SoftFileLock, Timeout

    made: BaseFileLock = FileLock(place, timeout=PATIENCE, fallback_to_soft=False)
    try:
        try:
            made.acquire(poll_interval=0.02)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            made = SoftFileLock(place, timeout=PATIENCE)
            made.acquire(poll_interval=0.02)
            return made  # its file has a record of its own
    except (Timeout, PermissionError) as error:
        if isinstance(error, PermissionError) and not place.exists():
            raise
        raise BusyError(
            f"{path} is being written by {_holder(place)}. Wait until that is done, or choose another place."
        ) from error
    record = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
        "doing": doing.get() or Path(sys.argv[0]).name or "Python",
    }
    with suppress(OSError):  # Windows lets nobody read or write a locked file; then the holder has no name
        place.write_text(json.dumps(record) + "\n", encoding="utf-8")
    return made


def _release(held: "BaseFileLock", place: Path) -> None:
    """Remove the lock file while it is locked, so that nobody else's is removed, and let go of it.

    A waiting process that has opened the removed file sees that it has no name any more, and opens a new one.
    """
    from filelock import SoftFileLock

    with suppress(OSError):
        if not isinstance(held, SoftFileLock):  # which removes its file itself
            place.unlink()
    with suppress(OSError):
        held.release()
    with suppress(OSError):
        if os.name == "nt":  # an open file cannot be removed there
            place.unlink()


def _holder(place: Path) -> str:
    """Say who holds a lock; its file is empty for a moment after it is made."""
    for _ in range(10):
        with suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads(place.read_text(encoding="utf-8"))
            return f"process {record['pid']} on {record['host']} ({record['doing']}, since {record['since']})"
        time.sleep(0.02)
    return "another process"
