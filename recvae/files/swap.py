"""Replacing a file or folder by a finished new one, and recovery after a process that was killed meanwhile.

Names beside an output ``X``, all hidden:

    .X.????????.part    an unfinished form of X
    .X.next             a run that will replace X and has no model yet; ``--resume`` continues it
    .X.????????.old/X   the earlier X, where two names cannot be exchanged in one step
    .X.lock             names the process that is writing X
"""

import ctypes
import errno
import functools
import glob
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from recvae.errors import InputError, RecvaeError, WorkError
from recvae.files.locks import BusyError, lock

PART = ".part"  # how the names of unfinished files and folders end; they begin with a dot
OLD = ".old"  # the end of the names of folders that hold a replaced output
NEXT = ".next"  # the end of the names of runs that will replace another
READS_FOR = 5.0  # seconds that a reader tries to see one version of a folder that is being replaced

_PRIVATE = "[a-z0-9_]{8}"  # the random part of tempfile's names
# Errors of file systems that cannot sync. EROFS is not among them, although fsync(2) lists it: after a write it means
# that the disk failed and became read-only.
_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
# Errors of file systems that cannot exchange two names, or not these two.
_CANNOT_EXCHANGE = {*_CANNOT_SYNC, errno.EXDEV}
_REMEDIES = {
    errno.EIO: "The disk or its connection fails: check it, or choose another place to write to.",
    errno.EROFS: "It is read-only: choose another place to write to.",
    errno.EACCES: "Choose another place to write to.",
    errno.EPERM: "Choose another place to write to.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
}
_Value = TypeVar("_Value")


def target(path: Path) -> Path:
    """Return the target of a link, so that the target is replaced and the link stays; else ``path``, with a name."""
    return Path(os.path.realpath(path)) if path.is_symlink() or path.name in ("", "..") else path


def need_utf8(path: Path) -> None:
    """Raise :class:`InputError` for a path that is not UTF-8, which safetensors, Arrow and JSON need."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"The name {path} is not valid UTF-8, so it cannot be used here. Rename it.") from error


def failure(path: Path, error: OSError) -> WorkError:
    """Turn an operating-system error into a sentence that names the path and what to do."""
    reason = os.strerror(error.errno) if error.errno else str(error)  # Arrow's own text has more words
    remedy = _REMEDIES.get(error.errno or 0, "Free some space, or choose another place to write to.")
    return WorkError(f"Cannot write {path}: {reason}. {remedy}")


def sync(path: Path) -> None:
    """Flush a file's or a folder's contents to the disk; raise OSError where that may have failed.

    File systems that cannot sync, and folders that cannot be opened (on Windows none can), are passed over.
    """
    folder = path.is_dir()
    try:
        descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR)  # some systems sync only what can be written
    except PermissionError:
        if folder:
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)


def make_folders(path: Path) -> list[Path]:
    """Make a folder and those above it, each flushed into the one above; return the new ones, the outermost first."""
    missing = []
    above = path
    while not above.exists():
        missing.append(above)
        above = above.parent
    made: list[Path] = []
    try:
        for folder in reversed(missing):
            with suppress(FileExistsError):  # another process was quicker
                folder.mkdir()
                made.append(folder)
                sync(folder.parent)
        path.mkdir(exist_ok=True)  # raises where it is a file
    except BaseException:
        remove_empty(made)
        raise
    return made


def remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders, the outermost first in the list, as far as they are empty."""
    for folder in reversed(folders):
        with suppress(OSError):
            folder.rmdir()


def remove(path: Path) -> None:
    """Remove a file or a folder as far as it can be removed."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def put(new: Path, path: Path) -> None:
    """Rename ``new``, a complete file or folder beside ``path``, to ``path``, and flush the folder above.

    A complete ``path`` exists at every moment. Only where the system cannot exchange two names, a folder's name is
    missing for the moment between two renames; if the process is killed then, :func:`recover` finds the earlier folder.
    The earlier one is removed last; on OSError it is in its place.
    """
    aside: Path | None = None
    undo: Callable[[], object]
    if not os.path.lexists(path):
        new.rename(path)
        undo = functools.partial(path.rename, new)
    elif exchange(new, path):
        aside = new
        undo = functools.partial(exchange, new, path)
    elif path.is_dir():
        aside = set_aside(path)
        undo = functools.partial(put_back, aside, path)
        try:
            new.rename(path)
        except BaseException:
            undo()
            raise
        aside = aside.parent
    else:
        new.replace(path)  # of a file: one step, which cannot be undone
        undo = bool
    try:
        sync(path.parent)
    except OSError:
        undo()
        raise
    if aside is not None:
        remove(aside)


def exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; return False where the system or the file system cannot."""
    call = _exchange()
    if call is None:
        return False
    if call(os.fsencode(one), os.fsencode(other)) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


@functools.cache
def _exchange() -> Callable[[bytes, bytes], int] | None:
    """Return the C library's exchange of two names, None where it has none."""
    name = {"linux": "renameat2", "darwin": "renamex_np"}.get(sys.platform)
    if name is None:
        return None
    function: Any = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if function is None:  # an older C library
        return None
    function.restype = ctypes.c_int
    if name == "renamex_np":
        function.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint]
        return lambda one, other: int(function(one, other, 2))  # RENAME_SWAP
    function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    here = -100  # AT_FDCWD: relative names are relative to the folder one is in
    return lambda one, other: int(function(here, one, here, other, 2))  # RENAME_EXCHANGE


# Folders that are moved aside, and recovery after a killed process.


def next_of(path: Path) -> Path:
    """Return the hidden place of a run that will replace ``path`` once it has a model."""
    real = target(path)
    return real.with_name(f".{real.name}{NEXT}")


def set_aside(path: Path) -> Path:
    """Move a folder into a hidden one beside it, and return its new place."""
    hidden = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=OLD, dir=path.parent))
    try:
        return path.rename(hidden / path.name)
    except OSError:
        with suppress(OSError):
            hidden.rmdir()
        raise


def put_back(aside: Path, path: Path) -> None:
    """Move a folder back that :func:`set_aside` moved, and remove the one that is in its place."""
    remove(path)
    aside.rename(path)
    with suppress(OSError):
        aside.parent.rmdir()


def find_aside(path: Path) -> Path | None:
    """Return the folder that a killed process had set aside, None where there is none."""
    path = target(path)
    return next(path.parent.glob(f".{glob.escape(path.name)}.*{OLD}/{glob.escape(path.name)}"), None)


def recover(path: Path, *, marker: str = "", whole: str = "") -> None:
    """Move a folder that a killed process had set aside back to ``path``, unless a complete one is there.

    ``path`` is incomplete if it is a run (it holds the file ``marker``) without a model (without the file ``whole``);
    it then becomes the run that will replace ``path``. Nothing happens while another process writes there. Raises
    :class:`WorkError` where the folder cannot be moved.
    """
    path = target(path)

    def good() -> bool:
        return path.exists() and ((path / whole).exists() or not (path / marker).is_file())

    if good() or find_aside(path) is None:
        return
    try:
        with lock(path):
            aside = find_aside(path)
            if aside is None or good():
                return
            if path.exists():
                remove(next_of(path))
                path.rename(next_of(path))
            put_back(aside, path)
            sync(path.parent)
    except BusyError:
        return
    except OSError as error:
        reason = error.strerror or str(error)
        raise WorkError(f"{find_aside(path)} belongs in the place of {path}, and cannot be moved: {reason}.") from error


def clear_parts(path: Path) -> None:
    """Remove the unfinished forms of an output that killed processes left; the caller holds its lock."""
    path = target(path)
    _clear(path.parent, rf"\.{re.escape(path.name)}\.{_PRIVATE}{re.escape(PART)}")


def clear_replaced(path: Path) -> None:
    """Remove the folders set aside for ``path`` or meant to replace it: ``path`` is complete."""
    name = rf"\.{re.escape(path.name)}"
    _clear(path.parent, rf"{name}(\.{_PRIVATE}{re.escape(OLD)}|{re.escape(NEXT)})")


def clear_inside(folder: Path) -> None:
    """Remove the unfinished files in a folder, those of safetensors included; the caller holds its lock."""
    _clear(folder, rf"\..+{re.escape(PART)}|\.tmp[A-Za-z0-9]{{6}}")


def _clear(folder: Path, pattern: str) -> None:
    with suppress(OSError):  # a folder that cannot be listed, or does not exist
        for found in list(folder.iterdir()):
            if re.fullmatch(pattern, found.name):
                remove(found)


# Readers.


def one_version(folder: Path, read: Callable[[], _Value]) -> _Value:
    """Return the result of ``read``, which reads ``folder``, from one version of the folder.

    Where the folder was replaced meanwhile, it is read again, for some seconds. Raises the errors of ``read``, and
    :class:`WorkError` where the folder keeps being replaced.
    """
    end = time.monotonic() + READS_FOR
    while True:
        error: Exception | None = None
        with _identity(folder) as before:
            try:
                value = read()
            except (RecvaeError, OSError) as caught:
                error = caught
            after = _stat(folder)
        settled = before == after and (after is not None or find_aside(folder) is None)
        if settled or time.monotonic() > end:
            if error is not None:
                raise error
            if settled:
                return value
            raise WorkError(f"{folder} is replaced faster than it can be read. Try again when that has ended.")
        time.sleep(0.01)


@contextmanager
def _identity(folder: Path) -> Iterator[tuple[int, int] | None]:
    """Yield the device and inode of a folder, None where it is missing; no other folder gets them in the body."""
    descriptor = None
    if os.name == "posix":  # the inode of an open folder is not reused
        with suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield _stat(folder) if descriptor is None else _told_apart(os.fstat(descriptor))
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _stat(folder: Path) -> tuple[int, int] | None:
    try:
        return _told_apart(folder.stat())
    except OSError:
        return None


def _told_apart(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


# Outputs and inputs.


def refuse_inputs(out: Path, inputs: Sequence[Path], *, marker: str | None = None) -> None:
    """Raise :class:`InputError` where writing ``out`` would replace an input.

    ``out`` may be no input, by whatever name or link, no folder that holds an input, and no file in an input. With
    ``marker``, the file that folders like ``out`` hold, it may be no folder in an input of that kind either. Inputs
    that do not exist are ignored.
    """
    if not out.exists():
        return
    inside = _lines(out)
    for given in inputs:
        if not given.exists():
            continue
        if out.samefile(given):
            raise InputError(f"{out} is read, so it cannot be written too. Write to another place with --out.")
        if any(above.samefile(out) for above in _lines(given)):
            raise InputError(f"{given}, which is read, is in {out}. Write to another place, such as --out {out}-new.")
        part = given.is_dir() and (out.is_file() or (marker is not None and (given / marker).exists()))
        if part and any(above.samefile(given) for above in inside):
            raise InputError(f"{out} is in {given}, which is read. Write to another place with --out.")


def _lines(path: Path) -> set[Path]:
    """Return the folders above a path, as it is written and as its links lead."""
    return {folder for form in (path.absolute(), path.resolve()) for folder in form.parents if folder.exists()}
