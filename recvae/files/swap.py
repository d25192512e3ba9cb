"""A finished file or folder takes the place of an earlier one, and what a killed process left on the way is found.

Names beside an output ``X``, all hidden:

    .X.????????.part    what is not finished yet
    .X.next             a run that is to replace X and has no model yet; ``--resume`` goes on with it
    .X.????????.old/X   the earlier X, where two names cannot be exchanged in one step
    .X.lock             says who is writing X
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
OLD = ".old"  # and those of folders that hold what is being replaced
NEXT = ".next"  # and those of runs that are to replace another
READS_FOR = 5.0  # seconds that a reader tries to see one version of a folder that is being replaced

_PRIVATE = "[a-z0-9_]{8}"  # what tempfile makes unique names of
# A file system that cannot sync says so with one of these. EROFS is not among them, although fsync(2) names it: here
# something was just written, so the disk has become read-only under it, as it does after an error.
_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
# And one that cannot exchange two names, or not these two, with one of these.
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
    """Return where a link leads, so that its target is replaced and the link stays; else ``path``, with a name."""
    return Path(os.path.realpath(path)) if path.is_symlink() or path.name in ("", "..") else path


def need_utf8(path: Path) -> None:
    """Raise :class:`InputError` for a path that is not UTF-8: safetensors, Arrow and JSON have no other."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"The name {path} is not valid UTF-8, so it cannot be used here. Rename it.") from error


def failure(path: Path, error: OSError) -> WorkError:
    """Turn an operating-system error into a sentence that names the path and what to do."""
    reason = error.strerror or str(error)
    remedy = _REMEDIES.get(error.errno or 0, "Free some space, or choose another place to write to.")
    return WorkError(f"Cannot write {path}: {reason}. {remedy}")


def sync(path: Path) -> None:
    """Flush a file's or a folder's contents to the disk; raise OSError where they may not have got there.

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
    """Give ``new``, a complete file or folder in the same folder as ``path``, the name ``path``, and flush that.

    There is a whole ``path`` at every moment, where there was one. Where the system cannot exchange two names, a folder
    is without its name for the moment between two renames; a process killed there leaves the earlier one set aside,
    for :func:`recover`. Raises OSError with the earlier one in its place. That one is removed last.
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
        new.replace(path)  # a file: one step, which cannot be taken back
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


# What is set aside, and what a killed process left.


def next_of(path: Path) -> Path:
    """Return where a run that is to replace ``path`` is kept until it has a model."""
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
    """Give what :func:`set_aside` moved its place again, instead of whatever is there now."""
    remove(path)
    aside.rename(path)
    with suppress(OSError):
        aside.parent.rmdir()


def find_aside(path: Path) -> Path | None:
    """Return what a killed process had set aside, None where there is nothing."""
    path = target(path)
    return next(path.parent.glob(f".{glob.escape(path.name)}.*{OLD}/{glob.escape(path.name)}"), None)


def recover(path: Path, *, marker: str = "", whole: str = "") -> None:
    """Give a folder that a killed process had set aside its place again, where there is nothing better now.

    That is where ``path`` is missing, or is a run (it holds the file ``marker``) that was only begun (it does not hold
    the file ``whole``), which becomes the run that is to replace ``path``. Raises :class:`WorkError` where what is
    found cannot be moved. Nothing happens while a living process is at it.
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
    """Remove all that was set aside for ``path`` or was to replace it: a whole one is in its place."""
    name = rf"\.{re.escape(path.name)}"
    _clear(path.parent, rf"{name}(\.{_PRIVATE}{re.escape(OLD)}|{re.escape(NEXT)})")


def clear_inside(folder: Path) -> None:
    """Remove the unfinished files in a folder of ours, safetensors' among them; the caller holds its lock."""
    _clear(folder, rf"\..+{re.escape(PART)}|\.tmp[A-Za-z0-9]{{6}}")


def _clear(folder: Path, pattern: str) -> None:
    with suppress(OSError):  # a folder that cannot be listed, or does not exist
        for found in list(folder.iterdir()):
            if re.fullmatch(pattern, found.name):
                remove(found)


# Readers.


def one_version(folder: Path, read: Callable[[], _Value]) -> _Value:
    """Return what ``read`` returns of ``folder``, all of it from one version of the folder.

    Where the folder was replaced meanwhile, it is read again, for some seconds. Raises what ``read`` raises, and
    :class:`WorkError` where the folder does not stay one for long enough.
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
    """Yield what tells a folder from all others, None where there is none; no other folder is the same in the body."""
    descriptor = None
    if os.name == "posix":  # an open folder's number is not given to a new one
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
    """Raise :class:`InputError` where writing ``out`` would replace something that is read.

    That is one of ``inputs`` itself, by whatever name or link; a folder that one of them is in; or a file that is in
    one of them. With ``marker``, the file that folders like ``out`` hold, a folder in an input of that kind is refused
    too: it may be a part of it. What does not exist is passed over.
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
