"""Whether a run can be resumed: its settings, items, warm start and clicks, compared with those that are asked for."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from scipy.sparse import csr_array

from recvae.config import run_config
from recvae.errors import ConfigError, FormatError, InputError
from recvae.files import Document, JsonObject
from recvae.matrices import pieces_of
from recvae.training import versions
from recvae.training.records import Later, Run, Started


def check_settings(ours: Run, run: Run, folder: Path, file: Path) -> None:
    """Raise unless ``run`` has the settings and items of ``ours``; more epochs are allowed if no schedule changes.

    ``folder`` is the run's name in sentences, and ``file`` its run.json. Raises :class:`InputError` where they differ,
    and :class:`FormatError` for options of the run that are none.
    """
    if run.model != ours.model:
        raise InputError(f"{folder} holds a '{run.model}' run; resume=True needs the same model.")
    try:
        config = run_config(run.config).to_dict()  # options that the run does not know have their defaults
    except ConfigError as error:
        raise FormatError(f"{file} was altered, or is another version's. {error}") from error
    theirs, mine = (_flat({"config": c, "dataset": r.dataset}) for c, r in ((config, run), (ours.config, ours)))
    free = {"config.train.epochs", "config.train.checkpoint_every"}
    if "refit" not in run.dataset:
        free.add("config.train.stop_after")
    keys = sorted({*theirs, *mine} - free)
    changed = [key for key in keys if theirs.get(key) != mine.get(key)]
    settings = [key for key in changed if key.startswith("config.")]
    if settings:
        was = ", ".join(f"{key.removeprefix('config.')}={theirs.get(key)}" for key in settings)
        raise InputError(f"{folder} was trained with {was}; resume=True needs the same settings.")
    tied = tied_to_epochs(ours.config)
    epochs = theirs.get("config.train.epochs")
    if tied and epochs != mine.get("config.train.epochs"):
        raise InputError(
            f"{folder} has a schedule over its {epochs} epochs ({tied[0]}), so resume=True cannot change "
            f"their number. Train again, or with another {tied[0]}."
        )
    if changed == ["dataset.validation_metric"]:
        metric = theirs.get("dataset.validation_metric")
        raise InputError(f"{folder} was validated by {metric}; resume=True needs --metric {metric}.")
    if run.vocabulary != ours.vocabulary or changed:
        raise InputError(f"{folder} was trained on another dataset; resume=True needs the same one.")


def check_start(ours: Started | None, theirs: Started | None, folder: Path, *, begun: bool) -> None:
    """Raise :class:`InputError` where another warm start is asked for than the run's, or the run's is missing.

    ``ours`` is the start that is asked for, ``theirs`` that of the run in ``folder``. A run that has ``begun``, with an
    epoch or more, goes on from its own state and needs its start no more.
    """
    if ours is None and theirs is not None and not begun:
        raise InputError(
            f"{folder} is to start from the run of version {theirs.version} and has no epoch yet; name that "
            "run again (--warm-start)."
        )
    if ours is not None and ours != theirs:
        began = f"from the run of version {theirs.version}" if theirs else "without a warm start"
        raise InputError(
            f"{folder} began {began}, and not from the one named, of version {ours.version}. Leave the warm "
            "start out to go on, or train into another folder."
        )


def tied_to_epochs(config: Document) -> list[str]:
    """Return the options whose schedule depends on the number of epochs: with more, every epoch would be another."""
    schedules = {"model.anneal": ("share", "cyclical"), "train.decay": ("cosine",)}
    values = _flat(config)
    return [key for key, long in schedules.items() if values.get(key) in long]


def later(run: Run, done: int) -> tuple[Later, ...]:
    """Return the changes of versions during a run that has ``done`` epochs, this process's included."""
    before = tuple(part for part in run.resumed if part.epoch <= done)
    now = versions.versions()
    last = before[-1].versions if before else run.versions
    return before if now == last else (*before, Later(epoch=done + 1, versions=now))


def fingerprint(matrix: csr_array, *, weighted: bool, given: Iterable[bytes]) -> str:
    """Return a digest of a canonical CSR, with its values only if ``weighted``, and of further data."""
    digest = hashlib.sha256(repr((matrix.shape, matrix.nnz)).encode())
    for array, kind in ((matrix.indptr, "<i8"), (matrix.indices, "<i4"), (matrix.data, "<f8")):
        if weighted or array is not matrix.data:
            for piece in pieces_of(array):
                digest.update(array[piece].astype(kind).data)
    for part in given:
        digest.update(part)
    return digest.hexdigest()


def _flat(config: Document) -> JsonObject:
    """Return nested values by dotted name, tuples as lists as in JSON."""
    flat: JsonObject = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{inner}": v for inner, v in _flat(value).items()}
        else:
            flat[key] = list(value) if isinstance(value, tuple) else value
    return flat
