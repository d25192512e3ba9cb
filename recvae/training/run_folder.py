"""The run folder: weights in safetensors, facts in JSON, items in CSV; each file whole or not at all.

    model.safetensors    weights; its header holds a digest of them, the epoch and the vocabulary's hash
    fixed-<16 digits>.safetensors    those of them that no epoch changes, where a model has such (fixed.py)
    run.json             format version, model, config, item count, vocabulary hash, best epoch, metrics, versions
    items.csv            index,item_id,title
    metrics.jsonl        one object per epoch
    resume/state.safetensors    what the next epoch depends on
    resume/best.safetensors     the weights a longer run has as its best, where the last epoch's are better (runs.py)
    seal.json            the digests of all of these (seals.py)

Nothing is pickled. A file that is truncated, altered or of another kind raises a FormatError that names it.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from recvae.arguments import shown
from recvae.errors import DataError, FormatError, InputError, RecvaeError, WorkError
from recvae.files import (
    Document,
    JsonObject,
    fill_json,
    fill_table,
    from_json,
    read_json,
    read_table,
    recover,
    same_vocabulary,
)
from recvae.files.swap import clear_inside, need_utf8, remove, remove_empty
from recvae.training import seals
from recvae.training.loop import TrainState
from recvae.training.records import (
    ConfigShape,
    DatasetFacts,
    FixedFacts,
    Record,
    Row,
    Run,
    StateFacts,
    WeightFacts,
    checked,
)
from recvae.training.tensors import Expected, Shape, wrong_form, wrong_values
from recvae.training.vocabulary import Vocabulary

FORMAT = 1
_ITEM_COLUMNS = ("index", "item_id", "title")

RUN, WEIGHTS, ITEMS, METRICS, STATE, BEST = FILES = (
    "run.json",
    "model.safetensors",
    "items.csv",
    "metrics.jsonl",
    "resume/state.safetensors",
    "resume/best.safetensors",
)
FIXED = "fixed"  # the entry of the weights' facts that names the digest of the tensors which no epoch changes
_OF_FIXED = "fixed-*.safetensors"
_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
}

Facts = JsonObject
Forms = Mapping[str, Expected]


def files_of(folder: Path) -> tuple[str, ...]:
    """Return the names of the files that a run's seal covers, where they are there."""
    return (*FILES, *sorted(path.name for path in folder.glob(_OF_FIXED)))


def write_run(folder: Path, run: Run) -> None:
    """Write run.json."""
    with seals.sealed_files(folder, RUN, beside=files_of(folder)) as (temporary,):
        _fill_run(temporary, run)


def _fill_run(path: Path, run: Run) -> None:
    fill_json(path, {"kind": "recvae-run", "format": FORMAT, **run.model_dump(), "sealed": True}, RUN)


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
        raise FormatError(f"{path} has format version {shown(version)}; this recvae reads {FORMAT}. Train again.")
    seals.check(folder, RUN)
    run = checked(Run, record, path)
    checked(DatasetFacts, run.dataset, path)
    checked(ConfigShape, run.config, path)
    # The seal comes after run.json, so that a folder that was begun is known for what it is, and before the others.
    if run.sealed and not (folder / seals.SEAL).is_file() and any((folder / name).is_file() for name in FILES[1:]):
        raise FormatError(f"{folder / seals.SEAL} is missing. {seals.REMEDY}")
    return run


def write_items(folder: Path, items: Vocabulary) -> None:
    """Write items.csv."""
    rows = ((i, *item) for i, item in enumerate(zip(items.ids, items.titles, strict=True)))
    with seals.sealed_files(folder, ITEMS, beside=files_of(folder)) as (temporary,):
        fill_table(temporary, _ITEM_COLUMNS, rows, ITEMS)


def read_items(folder: Path, run: Run) -> Vocabulary:
    """Read items.csv; raise :class:`FormatError` where it is not the one the model was trained with."""
    path = folder / ITEMS
    rows = read_table(path, _ITEM_COLUMNS, "Train again, or copy it from the dataset folder.")
    seals.check(folder, ITEMS)
    items = Vocabulary([row[1] for row in rows], [row[2] for row in rows])
    same = same_vocabulary(items.ids, run.vocabulary) and same_vocabulary(items.titles, run.titles)
    if not same or len(items) != run.n_items:
        raise FormatError(f"{path} was altered: its items are not the ones the model was trained with. Train again.")
    return items


def write_weights(folder: Path, tensors: Mapping[str, Tensor], facts: Facts) -> None:
    """Write model.safetensors."""
    with seals.sealed_files(folder, WEIGHTS, beside=files_of(folder)) as (temporary,):
        _fill(temporary, folder / WEIGHTS, tensors, facts)


def write_best(folder: Path, run: Run, tensors: Mapping[str, Tensor] | None = None, facts: Facts | None = None) -> None:
    """Write model.safetensors and run.json; without tensors, the former is what :func:`keep_aside` kept."""
    with seals.sealed_files(folder, WEIGHTS, RUN, beside=files_of(folder)) as (weights, of_run):
        if tensors is None:
            shutil.copyfile(folder / BEST, weights)
        else:
            _fill(weights, folder / WEIGHTS, tensors, facts or {})
        _fill_run(of_run, run)


def write_fixed(folder: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write tensors that no epoch changes, before the weights that name them; return the digest to name them by."""
    kept = _on_cpu(tensors)
    digest = _digest(kept)
    name = _fixed_file(digest)
    with seals.sealed_files(folder, name, beside=files_of(folder)) as (temporary,):
        _save(temporary, folder / name, kept, digest, {})
    return digest


def tidy_fixed(folder: Path) -> None:
    """Delete the fixed tensors that no weights name, which a killed run has left."""
    found = sorted(path.name for path in folder.glob(_OF_FIXED))
    if len(found) > 1:
        facts = [read_facts(folder, file) or {} for file in (WEIGHTS, BEST)]
        named = {_fixed_file(of_file[FIXED]) for of_file in facts if of_file.get(FIXED)}
        for name in found:
            if name not in named:
                seals.remove(folder, name, beside=files_of(folder))


def _fixed_file(digest: str) -> str:
    return _OF_FIXED.replace("*", digest[:16])


def keep_aside(folder: Path) -> None:
    """Copy model.safetensors to resume/best.safetensors."""
    with seals.sealed_files(folder, BEST, beside=files_of(folder)) as (temporary,):
        shutil.copyfile(folder / WEIGHTS, temporary)


def remove_aside(folder: Path) -> None:
    """Delete resume/best.safetensors, where there is one."""
    seals.remove(folder, BEST, beside=files_of(folder))


def read_weights(
    folder: Path, expected: Callable[[Facts], Forms] | None = None, *, file: str = WEIGHTS
) -> tuple[dict[str, Tensor], Facts]:
    """Return the tensors of model.safetensors and the fixed ones that belong to them, on the CPU, and its facts.

    ``expected`` says from the facts what tensors there are to be; it is asked before any of them is read. Raises
    :class:`FormatError` where a file is damaged or holds other tensors.
    """
    return _read(folder, file, WeightFacts, expected)


def read_facts(folder: Path, file: str = WEIGHTS) -> Facts | None:
    """Return the facts of a weights file without reading its tensors, None where there is no such file."""
    if not (folder / file).is_file():
        return None
    seals.check(folder, file)
    with _opened(folder / file) as opened:
        return _said(opened, folder / file, WeightFacts)[0]


def header_hash(path: Path) -> str:
    """Return the SHA-256 of what a weights file says of itself, its tensors' digest included, without reading them."""
    with _opened(path) as file:
        return hashlib.sha256((file.metadata() or {}).get("recvae", "").encode()).hexdigest()


def write_state(folder: Path, state: TrainState, facts: Facts) -> None:
    """Write the resumable state and metrics.jsonl; the state's appearance is the moment an epoch counts as done."""
    with seals.sealed_files(folder, STATE, METRICS, beside=files_of(folder)) as (of_state, of_rows):
        _fill(of_state, folder / STATE, state.tensors, {"values": state.values, **facts})
        _fill_metrics(of_rows, facts["rows"])


def read_state(folder: Path) -> tuple[TrainState, Facts] | None:
    """Return the resumable state and its facts, or None where there is none."""
    seals.check(folder, STATE)
    path = folder / STATE
    if not path.is_file():
        return None
    tensors, facts = _read(folder, STATE, StateFacts)
    _numbered(facts["rows"], path)
    if len(facts["rows"]) != facts["values"]["done"]:
        raise FormatError(f"{path} was altered: it has not a row for each epoch. Train again.")
    return TrainState(tensors, facts.pop("values"), str(path)), facts


def write_metrics(folder: Path, rows: Sequence[Document]) -> None:
    """Write metrics.jsonl."""
    with seals.sealed_files(folder, METRICS, beside=files_of(folder)) as (temporary,):
        _fill_metrics(temporary, rows)


def _fill_metrics(path: Path, rows: Sequence[Document]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8", newline="\n")


def read_metrics(folder: Path) -> list[JsonObject]:
    """Return metrics.jsonl's rows, none where there is no such file."""
    path = folder / METRICS
    if not path.is_file():
        return []
    seals.check(folder, METRICS)
    try:
        rows = [from_json(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise FormatError(f"{path} is damaged ({error}); delete it, or train again.") from error
    for row in rows:
        checked(Row, row, path, "Delete it, or train again.")
    _numbered(rows, path)
    return rows


def verify(folder: Path) -> bool:
    """Read and check all of a run folder but its model; return whether there was a seal to compare all files with."""
    read_metrics(folder)
    read_state(folder)
    if (folder / BEST).is_file():
        read_weights(folder, file=BEST)
    return seals.verify(folder)


def seal(folder: Path, *more: str) -> None:
    """Seal a run folder that was just made, with ``more`` files beside those that every run has."""
    seals.seal(folder, (*files_of(folder), *more))


def remove_run(folder: Path) -> None:
    """Delete the files of a run that has no weights, and the folder if it is empty then, as far as that can be.

    run.json goes last, after the seal: what a kill leaves is known for what it is, and can be gone on with.
    """
    for name in reversed(files_of(folder)[1:]):
        with suppress(OSError, RecvaeError):  # a disk that takes no seal any more is no reason to keep the file
            seals.remove(folder, name, beside=files_of(folder))
        remove(folder / name)
    for name in (seals.SEAL, RUN):
        remove(folder / name)
    for home in (folder, (folder / STATE).parent):
        clear_inside(home)  # a file that was being made when the run was asked to end
    remove_empty([folder, (folder / STATE).parent])


def _fill(path: Path, named: Path, tensors: Mapping[str, Tensor], facts: Facts) -> None:
    """Write tensors, with a digest of them and JSON-able ``facts`` in the header, to what will be ``named``."""
    kept = _on_cpu(tensors)
    _save(path, named, kept, _digest(kept), facts)


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _save(path: Path, named: Path, kept: dict[str, Tensor], digest: str, facts: Facts) -> None:
    # One entry: with two, safetensors would write them in any order, and the same run not the same file.
    text = json.dumps({"facts": facts, "digest": digest})
    try:
        from_json(text)
    except ValueError as error:
        raise DataError(f"{named} cannot hold what it is to say of itself: {error}.") from error
    try:
        save_file(kept, path, metadata={"recvae": text})
    except SafetensorError as error:  # it wraps the operating system's error
        raise WorkError(f"Cannot write {named}: {error}. Free some space, or write elsewhere.") from error


def _read(
    folder: Path, name: str, kind: type[Record], expected: Callable[[Facts], Forms] | None = None
) -> tuple[dict[str, Tensor], Facts]:
    """Return the tensors and the facts of a file; raise :class:`FormatError` where they are not as they should be.

    Tensors of a second file, which the facts name, are among them.
    """
    path = folder / name
    with ExitStack() as stack:
        parts = [_checked_part(stack, folder, name, kind)]
        facts = parts[0].facts
        if facts.get(FIXED) is not None:
            parts.append(_checked_part(stack, folder, _fixed_file(facts[FIXED]), FixedFacts))
            if parts[1].digest != facts[FIXED] or parts[0].forms.keys() & parts[1].forms.keys():
                raise FormatError(f"{path} and {parts[1].path.name} do not belong together. Train again.")
        both = " with ".join([str(path), *(part.path.name for part in parts[1:])])
        wanted = None if expected is None else expected(facts)
        forms = {name: form for part in parts for name, form in part.forms.items()}
        if wanted is not None and (wrong := wrong_form(wanted, forms)):
            raise FormatError(f"{both} is not of the model that {RUN} names: it {wrong}. Train again.")
        tensors: dict[str, Tensor] = {}
        for part in parts:
            found = {name: part.file.get_tensor(name) for name in part.forms}
            if part.digest != _digest(found):
                raise FormatError(f"{part.path} was altered: its contents do not match its digest. Train again.")
            tensors |= found
    if wanted is not None and (wrong := wrong_values(wanted, tensors)):
        raise FormatError(f"{both} cannot be used: it {wrong}. Train again.")
    return tensors, facts


@dataclass(frozen=True)
class _Part:
    """An open safetensors file, and what its header says."""

    path: Path
    file: Any
    facts: Facts
    digest: str
    forms: dict[str, tuple[Shape, torch.dtype]]


def _checked_part(stack: ExitStack, folder: Path, name: str, kind: type[Record]) -> _Part:
    """Compare a file with the folder's seal, and open it until ``stack`` is closed."""
    path = folder / name
    with _opened(path):  # a file that was cut off is called so
        seals.check(folder, name)
    file = stack.enter_context(_opened(path))  # once: a run under way may put another in its place
    return _Part(path, file, *_said(file, path, kind))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Yield a safetensors file, which the library has no type for; raise :class:`FormatError` where it is none."""
    need_utf8(path)
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise _unreadable(path) from error


def _said(file: Any, path: Path, kind: type[Record]) -> tuple[Facts, str, dict[str, tuple[Shape, torch.dtype]]]:
    """Return what an open file says: its facts, its tensors' digest, and their shapes and types."""
    try:
        entry = from_json((file.metadata() or {})["recvae"])
        facts, digest = entry["facts"], entry["digest"]
        parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        forms = {name: (tuple(part.get_shape()), _TYPES[part.get_dtype()]) for name, part in parts.items()}
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(path) from error
    checked(kind, facts, path)
    return facts, digest, forms


def _unreadable(path: Path) -> FormatError:
    return FormatError(f"{path} is missing, truncated or not a recvae file. Train again.")


def _numbered(rows: Sequence[Document], path: Path) -> None:
    """Raise :class:`FormatError` unless the rows are of epochs 1, 2 and so on."""
    if [row["epoch"] for row in rows] != list(range(1, len(rows) + 1)):
        raise FormatError(f"{path} was altered: its rows are not of epochs 1, 2 and so on. Train again.")


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the tensors' names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
