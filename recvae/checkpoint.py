"""The run folder: weights in safetensors, facts in JSON, items in CSV; each file whole or not at all.

    model.safetensors    weights; its header holds a digest of them, the epoch and the vocabulary's hash
    run.json             format version, model, config, item count, vocabulary hash, best epoch, metrics, versions
    items.csv            index,item_id,title
    metrics.jsonl        one object per epoch
    resume/state.safetensors    what the next epoch depends on

Nothing is pickled. A file that is truncated, altered or of another kind raises a FormatError that names it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from recvae.errors import FormatError, InputError, WorkError
from recvae.files import (
    read_json,
    read_table,
    recover,
    same_vocabulary,
    vocabulary_hash,
    whole_file,
    write_json,
    write_table,
    write_text,
)
from recvae.swap import need_utf8
from recvae.training import TrainState

FORMAT = 1
_ITEM_COLUMNS = ("index", "item_id", "title")

RUN, WEIGHTS, ITEMS, METRICS, STATE = (
    "run.json",
    "model.safetensors",
    "items.csv",
    "metrics.jsonl",
    "resume/state.safetensors",
)


@dataclass(frozen=True)
class Vocabulary:
    """The items a model knows: raw ids in column order, and titles (empty where there are none)."""

    ids: Sequence[str]
    titles: Sequence[str]

    def __len__(self) -> int:
        return len(self.ids)

    def hash(self) -> str:
        """Return the SHA-256 of the ids in order, one per line: two catalogues are the same where it is."""
        return vocabulary_hash(self.ids)

    def titles_hash(self) -> str:
        """Return the SHA-256 of the titles, by which an altered items.csv shows."""
        return vocabulary_hash(self.titles)


@dataclass(frozen=True)
class Run:
    """What run.json says of a trained model."""

    model: str
    config: dict[str, Any]
    n_items: int
    vocabulary: str  # hash
    titles: str  # hash
    versions: dict[str, str]
    best_epoch: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    dataset: dict[str, Any] = field(default_factory=dict)


def write_run(folder: Path, run: Run) -> None:
    """Write run.json."""
    write_json(folder / RUN, {"kind": "recvae-run", "format": FORMAT, **run.__dict__})


def read_run(folder: Path) -> Run:
    """Read run.json; raise :class:`FormatError` where ``folder`` is no run folder or the file is damaged."""
    recover(folder, marker=RUN, whole=WEIGHTS)
    if not folder.exists():
        raise InputError(f"{folder} does not exist.")
    path = folder / RUN
    if not path.is_file():
        if (folder / "manifest.json").is_file():
            raise FormatError(
                f"{folder} is a dataset folder, not a run folder. Name a folder that 'recvae train' wrote."
            )
        raise FormatError(f"{folder} is not a run folder: it has no {RUN}. Name a folder that 'recvae train' wrote.")
    record = read_json(path)
    if not isinstance(record, dict) or record.pop("kind", None) != "recvae-run":
        raise FormatError(f"{path} does not describe a recvae run.")
    version = record.pop("format", None)
    if version != FORMAT:
        raise FormatError(f"{path} has format version {version}; this recvae reads version {FORMAT}. Train again.")
    kinds = {
        "model": str,
        "config": dict,
        "n_items": int,
        "vocabulary": str,
        "titles": str,
        "versions": dict,
        "metrics": dict,
    }
    kinds |= {"dataset": dict, "best_epoch": int | None}  # type: ignore[dict-item]  # isinstance takes a union too
    if record.keys() != kinds.keys() or any(not isinstance(record[key], kind) for key, kind in kinds.items()):
        raise FormatError(f"{path} was altered: a field is missing, added or of another kind. Train again.")
    return Run(**record)


def write_items(folder: Path, items: Vocabulary) -> None:
    """Write items.csv."""
    rows = ((i, *item) for i, item in enumerate(zip(items.ids, items.titles, strict=True)))
    write_table(folder / ITEMS, _ITEM_COLUMNS, rows)


def read_items(folder: Path, run: Run) -> Vocabulary:
    """Read items.csv; raise :class:`FormatError` where it is not the one the model was trained with."""
    path = folder / ITEMS
    rows = read_table(path, _ITEM_COLUMNS, "Train again, or copy it from the dataset folder.")
    items = Vocabulary([row[1] for row in rows], [row[2] for row in rows])
    same = same_vocabulary(items.ids, run.vocabulary) and same_vocabulary(items.titles, run.titles)
    if not same or len(items) != run.n_items:
        raise FormatError(f"{path} was altered: its items are not the ones the model was trained with. Train again.")
    return items


def write_weights(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors with a digest of them and JSON-able ``facts`` in the header."""
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # One entry: with two, safetensors would write them in any order, and the same run not the same file.
    header = {"recvae": json.dumps({"facts": facts, "digest": _digest(kept)})}
    with whole_file(path) as temporary:
        try:
            save_file(kept, temporary, metadata=header)
        except SafetensorError as error:  # it wraps the operating system's error
            raise WorkError(f"Cannot write {path}: {error}. Free some space, or write elsewhere.") from error


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors, on the CPU, and the facts; raise :class:`FormatError` where the file is damaged."""
    need_utf8(path)
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        header = json.loads(header["recvae"])
        facts, digest = header["facts"], header["digest"]
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise FormatError(f"{path} is missing, truncated or not a recvae file. Train again.") from error
    if digest != _digest(tensors):
        raise FormatError(f"{path} was altered: its contents do not match its digest. Train again.")
    return tensors, facts


def header_hash(path: Path) -> str:
    """Return the SHA-256 of what a weights file says of itself, its tensors' digest included, without reading them."""
    with safe_open(path, framework="pt") as file:
        return hashlib.sha256((file.metadata() or {}).get("recvae", "").encode()).hexdigest()


def write_state(folder: Path, state: TrainState, facts: Mapping[str, Any]) -> None:
    """Write the resumable state; its appearance is the moment an epoch counts as done."""
    write_weights(folder / STATE, state.tensors, {"values": state.values, **facts})


def read_state(folder: Path) -> tuple[TrainState, dict[str, Any]] | None:
    """Return the resumable state and its facts, or None where there is none."""
    if not (folder / STATE).is_file():
        return None
    tensors, facts = read_weights(folder / STATE)
    return TrainState(tensors, facts.pop("values")), facts


def write_metrics(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write metrics.jsonl."""
    write_text(folder / METRICS, "".join(json.dumps(row) + "\n" for row in rows))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return metrics.jsonl's rows, none where there is no such file."""
    path = folder / METRICS
    if not path.is_file():
        return []
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise FormatError(f"{path} is damaged ({error}); delete it, or train again.") from error


def versions() -> dict[str, str]:
    """Return the versions that a run's bits depend on."""
    import platform

    import numpy as np

    from recvae import __version__

    return {
        "recvae": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the tensors' names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        data: Any = tensor.reshape(-1).view(torch.uint8).numpy()
        digest.update(data)
    return digest.hexdigest()
