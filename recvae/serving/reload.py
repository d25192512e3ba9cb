"""The served models by name, and the exchange of one for a new run or export that was put in its folder's place.

The folder is read at the start and for an exchange; in between its identity alone is looked at. A new run is loaded and
tried beside the old one, in a thread of its own, and takes its place between two batches: a request keeps the model
that it came to, so that no answer is of two versions. A run that cannot be used is refused, and the old one serves on.
"""

import gc
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import Protocol

from recvae.errors import RecvaeError, WorkError
from recvae.files.swap import one_version
from recvae.serving.model import load_model
from recvae.serving.served import Served
from recvae.training import export_folder, seals

RUN = "run.json"  # of recvae.training.run_folder, which needs torch
VERSION_DIGITS = 12  # hexadecimal
POLL_EVERY = 1.0  # seconds

Identity = tuple[tuple[int, ...] | None, ...]


class Reporter(Protocol):
    """Exchanges are reported to such an object."""

    def swapped(self, served: Served, before: Served | None) -> None:
        """Note a model that was loaded, and the one that it replaced."""

    def refused(self, name: str, folder: Path, reason: str) -> None:
        """Note a run that was refused."""


class Shelf:
    """The served models by name, each with the run folder that it came from; the first is the default."""

    def __init__(self, runs: Mapping[str, Path], device: str, threads: int, reporter: Reporter) -> None:
        self._runs, self._device, self._threads, self._reporter = runs, device, threads, reporter
        self._served: dict[str, Served] = {}
        self._seen: dict[str, Identity] = {}
        self._turn = Lock()  # one exchange at a time

    @property
    def default(self) -> Served:
        """The model that is asked where none is named."""
        return next(iter(self._served.values()))

    def __iter__(self) -> Iterator[Served]:
        return iter([*self._served.values()])

    def get(self, name: str) -> Served | None:
        """Return the model of a name, None where there is none."""
        return self._served.get(name)

    def load(self) -> None:
        """Load every run; raise the errors of :func:`read_served`."""
        for name, folder in self._runs.items():
            self._seen[name] = identity(folder)
            self._put(read_served(name, folder, self._device, self._threads))
        # From now on Python looks for garbage among new objects alone: a look at all those of the imported packages
        # holds up every request for a tenth of a second.
        gc.collect()
        gc.freeze()

    def look(self, *, again: bool = False) -> None:
        """Exchange the models whose run folders were replaced since the last look; with ``again``, look at refused runs
        once more. Never raises: a run that cannot be used is reported.
        """
        with self._turn:
            for name, folder in self._runs.items():
                seen = identity(folder)
                if seen[1] is None and seen[2] is None and not again:
                    continue  # a folder between two renames, or removed: the model serves on
                if seen == self._seen[name] and not again:
                    continue
                self._seen[name] = seen
                self._exchange(name, folder)

    def _exchange(self, name: str, folder: Path) -> None:
        try:
            if version_of(folder) == self._served[name].version:
                return  # touched, and not changed
            self._put(read_served(name, folder, self._device, self._threads))
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a new run, the old one must serve on
            reason = str(error) if isinstance(error, RecvaeError) else f"{type(error).__name__}: {error}"
            self._reporter.refused(name, folder, " ".join(reason.split()))

    def _put(self, served: Served) -> None:
        before = self._served.get(served.name)
        self._served[served.name] = served
        self._reporter.swapped(served, before)


def read_served(name: str, folder: Path, device: str, threads: int = 1) -> Served:
    """Return the model of a run folder or export, loaded, checked against the folder's digests and asked once.

    ``threads``: of an export; those of torch are the process's. Raises :class:`FormatError` where the folder is
    damaged, of another version or none, and :class:`WorkError` where the model cannot rank.
    """

    def read() -> Served:
        model = load_model(folder, device, threads)
        if not export_folder.is_export(folder):  # whose files were checked before they were used
            seals.verify(folder)
        return Served(name, model, version_of(folder))

    served = one_version(folder, read)
    try:
        served.warm()
    except RecvaeError as error:
        raise WorkError(f"{folder} was loaded and cannot rank: {error}") from error
    return served


def version_of(folder: Path) -> str:
    """Return 12 hexadecimal digits of a digest of the files that make the model in ``folder``, a run or an export."""
    if export_folder.is_export(folder):
        return export_folder.version_of(folder)[:VERSION_DIGITS]
    from recvae.training import run_folder

    return run_folder.version_of(folder)


def identity(folder: Path) -> Identity:
    """Return which folder, and which run.json, manifest of an export and seal in it, are there; None for a missing one.

    No file is read.
    """
    return tuple(_told_apart(folder / name) for name in ("", RUN, export_folder.MANIFEST, seals.SEAL))


def _told_apart(path: Path) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - a path of pathlib, and quicker
    except OSError:
        return None
    if path.is_dir():
        return found.st_dev, found.st_ino
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
