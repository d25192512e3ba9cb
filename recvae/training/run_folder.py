"""The run folder: weights in safetensors, facts in JSON, items in CSV; each file whole or not at all.

    model.safetensors    weights; its header holds a digest of them, the epoch and the vocabulary's hash
    fixed-<16 digits>.safetensors    the weights that no epoch changes, of a model that has such weights (fixed.py)
    run.json             format version, model, config, item count, vocabulary hash, best epoch, metrics, versions
    items.csv            index,item_id,title
    item_tags.csv        item_id,tag, where the items have tags such as genres
    metrics.jsonl        one object per epoch
    resume/state.safetensors    the state from which training continues
    resume/held.json, resume/held-<number>/   such a state of a run of several processes (held_folder.py)
    resume/best.safetensors     the best weights of a longer run, where the last epoch's are better (keepers.py)
    seal.json            the digests of all of these (seals.py)

Nothing is pickled. A file that is truncated, altered or of another kind raises a FormatError that names it.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from recvae.arguments import shown
from recvae.errors import FormatError, InputError, RecvaeError
from recvae.files import (
    Document,
    JsonObject,
    fill_json,
    from_json,
    read_json,
    recover,
    same_vocabulary,
)
from recvae.files.swap import clear_inside, remove, remove_empty
from recvae.training import item_files, seals
from recvae.training.export_folder import is_export
from recvae.training.item_files import ITEMS, TAGS, fill_items, fill_tags
from recvae.training.loop import TrainState
from recvae.training.records import (
    ConfigShape,
    DatasetFacts,
    HeldFacts,
    Row,
    Run,
    StateFacts,
    WeightFacts,
    checked,
)
from recvae.training.tensor_files import (
    FIXED,
    FIXED_FILES,
    Blocks,
    Facts,
    Forms,
    digest_of,
    fill_tensors,
    fixed_file,
    on_cpu,
    opened,
    read_header,
    read_rows,
    read_tensors,
    save_tensors,
    stream_tensors,
)
from recvae.training.tensors import Expected
from recvae.training.vocabulary import Vocabulary

FORMAT = 1
_REMEDY = "Train again, or copy it from the dataset folder."

RUN, WEIGHTS, METRICS, STATE, BEST = (
    "run.json",
    "model.safetensors",
    "metrics.jsonl",
    "resume/state.safetensors",
    "resume/best.safetensors",
)
FILES = (RUN, WEIGHTS, ITEMS, TAGS, METRICS, STATE, BEST)
HELD = "resume/held.json"


def files_of(folder: Path) -> tuple[str, ...]:
    """Return the names of the files that a run's seal covers, where they are there."""
    return (*FILES, HELD, *sorted(path.name for path in folder.glob(FIXED_FILES)))


def forms_of(folder: Path) -> seals.Forms:
    """Return the digests of a run's files: those of its seal, or of the files themselves where it has none."""
    forms = seals.read_seal(folder)
    return seals.found(folder, files_of(folder)) if forms is None else forms


def version_of(folder: Path) -> str:
    """Return 12 hexadecimal digits of a digest of the files that make the model in ``folder``."""
    forms = forms_of(folder).items()
    kept = {name: digests for name, digests in forms if name != METRICS and not name.startswith("resume/")}
    return hashlib.sha256(repr(sorted(kept.items())).encode()).hexdigest()[:12]


def write_run(folder: Path, run: Run) -> None:
    """Write run.json."""
    with seals.sealed_files(folder, RUN, beside=files_of(folder)) as (temporary,):
        _fill_run(temporary, run)


def _fill_run(path: Path, run: Run) -> None:
    fill_json(path, {"kind": "recvae-run", "format": FORMAT, **run.to_dict(), "sealed": True}, RUN)


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
        if is_export(folder):
            raise FormatError(
                f"{folder} is an export, which 'recvae serve', 'recommend', 'similar' and 'info' read. Name the run "
                "folder that it was made of."
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
    # A new folder gets run.json first, so that it is known as a run, then the seal, then the other files.
    if run.sealed and not (folder / seals.SEAL).is_file() and any((folder / name).is_file() for name in FILES[1:]):
        raise FormatError(f"{folder / seals.SEAL} is missing. {seals.REMEDY}")
    return run


def write_items(folder: Path, items: Vocabulary) -> None:
    """Write items.csv, and item_tags.csv where items have tags."""
    with seals.sealed_files(folder, ITEMS, beside=files_of(folder)) as (temporary,):
        fill_items(temporary, items)
    if not items.tag_names:
        seals.remove(folder, TAGS, beside=files_of(folder))  # of a run that is continued without
        return
    with seals.sealed_files(folder, TAGS, beside=files_of(folder)) as (temporary,):
        fill_tags(temporary, items)


def read_items(folder: Path, run: Run) -> Vocabulary:
    """Read items.csv and item_tags.csv; raise :class:`FormatError` where one is not that of the model's training."""
    path = folder / ITEMS
    items = item_files.read_items(folder, seals.check, _REMEDY)
    same = same_vocabulary(items.ids, run.vocabulary) and same_vocabulary(items.titles, run.titles)
    if not same or len(items) != run.n_items:
        raise FormatError(f"{path} was altered: its items are not the ones the model was trained with. Train again.")
    return items if run.tags is None else _tagged(folder, run, items)


def _tagged(folder: Path, run: Run, items: Vocabulary) -> Vocabulary:
    """Return the items with the tags in item_tags.csv; raise :class:`FormatError` where it was altered."""
    items = item_files.read_tags(folder, items, seals.check, _REMEDY)
    if items.tags_hash() != run.tags:
        path = folder / TAGS
        raise FormatError(f"{path} was altered: its tags are not the ones the model was trained with. Train again.")
    return items


def write_weights(folder: Path, tensors: Mapping[str, Tensor], facts: Facts) -> None:
    """Write model.safetensors."""
    with seals.sealed_files(folder, WEIGHTS, beside=files_of(folder)) as (temporary,):
        fill_tensors(temporary, folder / WEIGHTS, tensors, facts)


def write_best(folder: Path, run: Run, tensors: Mapping[str, Tensor] | None = None, facts: Facts | None = None) -> None:
    """Write model.safetensors and run.json; without tensors, the former is the file of :func:`keep_aside`."""
    with seals.sealed_files(folder, WEIGHTS, RUN, beside=files_of(folder)) as (weights, of_run):
        if tensors is None:
            shutil.copyfile(folder / BEST, weights)
        else:
            fill_tensors(weights, folder / WEIGHTS, tensors, facts or {})
        _fill_run(of_run, run)


def stream_best(folder: Path, run: Run, forms: Mapping[str, Expected], blocks: Blocks, facts: Facts) -> None:
    """Write model.safetensors, row by row, and run.json."""
    with seals.sealed_files(folder, WEIGHTS, RUN, beside=files_of(folder)) as (weights, of_run):
        stream_tensors(weights, folder / WEIGHTS, forms, blocks, facts)
        _fill_run(of_run, run)


def write_fixed(folder: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write the tensors that no epoch changes, before the weights file that names them; return their digest."""
    kept = on_cpu(tensors)
    digest = digest_of(kept)
    name = fixed_file(digest)
    with seals.sealed_files(folder, name, beside=files_of(folder)) as (temporary,):
        save_tensors(temporary, folder / name, kept, digest, {})
    return digest


def tidy_fixed(folder: Path) -> None:
    """Delete the files of fixed tensors that no weights file names: a killed run leaves such files."""
    found = sorted(path.name for path in folder.glob(FIXED_FILES))
    if len(found) > 1:
        facts = [read_facts(folder, file) or {} for file in (WEIGHTS, BEST)]
        named = {fixed_file(of_file[FIXED]) for of_file in facts if of_file.get(FIXED)}
        for name in found:
            if name not in named:
                seals.remove(folder, name, beside=files_of(folder))


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
    """Return the tensors of model.safetensors and of its fixed file, on the CPU, and its facts.

    ``expected`` and errors as for :func:`recvae.training.tensor_files.read_tensors`.
    """
    return read_tensors(folder, file, WeightFacts, expected)


def read_weights_by_rows(
    folder: Path, expected: Callable[[Facts], Forms], take: Callable[[str, Tensor, int], None]
) -> Facts:
    """Pass the rows of model.safetensors on, as :func:`recvae.training.tensor_files.read_rows` does."""
    return read_rows(folder, WEIGHTS, WeightFacts, expected, take)


def read_facts(folder: Path, file: str = WEIGHTS) -> Facts | None:
    """Return the facts of a weights file without reading its tensors, None where there is no such file."""
    if not (folder / file).is_file():
        return None
    seals.check(folder, file)
    with opened(folder / file) as weights:
        return read_header(weights, folder / file, WeightFacts)[0]


def header_hash(path: Path) -> str:
    """Return the SHA-256 of a weights file's header entry: of its facts and its tensors' digest. No tensor is read."""
    with opened(path) as file:
        return hashlib.sha256((file.metadata() or {}).get("recvae", "").encode()).hexdigest()


def write_state(folder: Path, state: TrainState, facts: Facts) -> None:
    """Write the resumable state and metrics.jsonl; an epoch counts as done once its state is there."""
    with seals.sealed_files(folder, STATE, METRICS, beside=files_of(folder)) as (of_state, of_rows):
        fill_tensors(of_state, folder / STATE, state.tensors, {"values": state.values, **facts})
        _fill_metrics(of_rows, facts["rows"])


def read_state(folder: Path) -> tuple[TrainState, Facts] | None:
    """Return the resumable state and its facts, or None where there is none."""
    seals.check(folder, STATE)
    path = folder / STATE
    if not path.is_file():
        return None
    tensors, facts = read_tensors(folder, STATE, StateFacts)
    _numbered(facts["rows"], path)
    if len(facts["rows"]) != facts["values"]["done"]:
        raise FormatError(f"{path} was altered: it has not a row for each epoch. Train again.")
    return TrainState(tensors, facts.pop("values"), str(path)), facts


def write_held(folder: Path, facts: Document) -> None:
    """Write held.json, the facts of a state of several processes, and metrics.jsonl."""
    with seals.sealed_files(folder, HELD, METRICS, beside=files_of(folder)) as (of_state, of_rows):
        fill_json(of_state, facts, HELD)
        _fill_metrics(of_rows, facts["rows"])


def read_held(folder: Path) -> Facts | None:
    """Return the facts of a state of several processes, or None where there is none."""
    seals.check(folder, HELD)
    path = folder / HELD
    if not path.is_file():
        return None
    facts = read_json(path)
    checked(HeldFacts, facts, path)
    _numbered(facts["rows"], path)
    if len(facts["rows"]) != facts["values"]["done"]:
        raise FormatError(f"{path} was altered: it has not a row for each epoch. Train again.")
    return dict(facts)


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
    """Read and check all files of a run folder but the model; return whether the folder has a seal."""
    read_metrics(folder)
    read_state(folder)
    if (folder / BEST).is_file():
        read_weights(folder, file=BEST)
    return seals.verify(folder)


def seal(folder: Path, *more: str) -> None:
    """Seal a run folder that was just made; ``more`` names files beside the usual ones."""
    seals.seal(folder, (*files_of(folder), *more))


def remove_run(folder: Path) -> None:
    """Delete the files of a run that has no weights, and then the folder if it is empty; ignore failures.

    run.json is deleted last, after the seal: if the process is killed meanwhile, the folder is still known as a run.
    """
    for name in reversed(files_of(folder)[1:]):
        with suppress(OSError, RecvaeError):  # the file is deleted also where no new seal can be written
            seals.remove(folder, name, beside=files_of(folder))
        remove(folder / name)
    for name in (seals.SEAL, RUN):
        remove(folder / name)
    for home in (folder, (folder / STATE).parent):
        clear_inside(home)  # unfinished files of a run that was interrupted
    remove_empty([folder, (folder / STATE).parent])


def _numbered(rows: Sequence[Document], path: Path) -> None:
    """Raise :class:`FormatError` unless the rows are of epochs 1, 2 and so on."""
    if [row["epoch"] for row in rows] != list(range(1, len(rows) + 1)):
        raise FormatError(f"{path} was altered: its rows are not of epochs 1, 2 and so on. Train again.")
