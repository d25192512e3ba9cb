"""One writer at a time for each output: a lock file beside it, which names its holder and ends with its process.

The lock is the operating system's, on an open file, and ends with the process that holds it, also if that is killed.
The file is removed with the lock. Where a file system has no such locks, the existence of the file is the lock, and the
file of a process that has ended is taken over. The library filelock implements both.
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
"""The command of this process, such as ``recvae train``, which a lock file names; by default the program's name."""

_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}  # the errors of file systems without locks
_held: dict[tuple[int, int, str], int] = {}  # how many times, by process (a fork holds nothing), thread and lock file


class BusyError(WorkError):
    """Another process, or another thread, is writing the same output."""


@contextmanager
def lock(path: Path) -> Iterator[bool]:
    """Hold the lock of the output ``path`` in the body; yield whether this thread did not hold it before.

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
    """Return the lock file of an output: the same file for all links to the output.

    It is beside the output, or inside it where the output is a folder whose parent cannot be written to.
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
            return made  # filelock writes a record of its own
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
    with suppress(OSError):  # on Windows a locked file cannot be written; then the holder stays unknown
        place.write_text(json.dumps(record) + "\n", encoding="utf-8")
    return made


def _release(held: "BaseFileLock", place: Path) -> None:
    """Remove the lock file while it is locked, so that no other process's is removed, and release the lock.

    A process that waits with the removed file open sees that the file was removed, and opens a new one.
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
    """Return the holder of a lock for a sentence; a new lock file is empty for a moment."""
    for _ in range(10):
        with suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads(place.read_text(encoding="utf-8"))
            return f"process {record['pid']} on {record['host']} ({record['doing']}, since {record['since']})"
        time.sleep(0.02)
    return "another process"
