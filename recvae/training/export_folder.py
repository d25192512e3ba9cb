"""The export folder: a model as an ONNX graph, its items and a manifest, for a runtime without torch.

    export.json      the manifest: facts about the model, and the size and SHA-256 of each other file; written last
    model.onnx       the graph from histories and rules to lists and scores
    model.bin        the graph's weights, beside it so that a runtime can map the file into memory
    similar.onnx     the graph from items to their similarities, where there are any; its weights may be in model.bin
    items.csv        index,item_id,title
    item_tags.csv    item_id,tag, where the items have tags
    encoder.onnx, item_vectors.npy, item_vectors.parquet    where vectors were asked for: the graph from histories to
                     users' vectors, and the items' vectors

The manifest ends with a digest of itself, and that digest is the version of the export: no byte of the folder changes
without a notice. A folder is written beside its place and renamed, so that it appears whole or not at all.

This module needs neither torch nor scipy nor pandas: the runtime reads exports through it.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from recvae.arguments import shown
from recvae.errors import FormatError, InputError
from recvae.files import JsonObject, file_hash, from_json, recover, write_text
from recvae.training.records import Count, Record, checked

FORMAT, VERSION = "recvae-export", 1
MANIFEST, GRAPH, WEIGHTS, SIMILAR, ITEMS, TAGS = (
    "export.json",
    "model.onnx",
    "model.bin",
    "similar.onnx",
    "items.csv",
    "item_tags.csv",
)
ENCODER, ITEM_VECTORS = "encoder.onnx", ("item_vectors.npy", "item_vectors.parquet")
Precision = Literal["float32", "int8", "bf16"]
"""The number format in which the item tables of a graph are stored."""

REMEDY = "Copy the folder again from where it is whole, or export the run again."
_Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class FileFacts(Record):
    """The size and the SHA-256 of a file."""

    bytes: Count
    sha256: _Digest


class Similarity(Record):
    """The file of the graph that computes similarities of items."""

    file: str


class VectorFacts(Record):
    """The graph that makes users' vectors, the files of the items' vectors, and their number of dimensions."""

    encoder: str
    items: list[str]
    dimensions: Count


class Manifest(Record):
    """The facts of an export, without its format and its digest."""

    recvae: str  # version of the program that wrote it
    model: str  # registered name
    title: str  # the model's name for people
    run: Annotated[str, Field(pattern="^[0-9a-f]{12,64}$")]  # version of the run folder, as a service says it
    weights: Precision
    n_items: Count
    named_value: float
    of_ratings: bool
    conditions: list[str]
    attributes: list[str]
    dataset: JsonObject
    metrics: dict[str, float]
    similarity: Similarity | None
    no_similarity: str = ""  # the sentence of a model that has no similarities
    vectors: VectorFacts | None = None
    files: dict[str, FileFacts]


def is_export(folder: Path) -> bool:
    """Return whether a folder holds an export's manifest, whole or damaged."""
    return (folder / MANIFEST).is_file()


def file_facts(path: Path) -> FileFacts:
    """Return the size and digest of a file."""
    return FileFacts(bytes=path.stat().st_size, sha256=file_hash(path))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write export.json; the files that it lists are there already."""
    write_text(folder / MANIFEST, _text(manifest.model_dump()))


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of an export; its files are compared with it by :func:`check`.

    Raises :class:`InputError` where there is no such folder, and :class:`FormatError` where the folder is no export or
    its manifest was altered.
    """
    return _read(folder)[0]


def version_of(folder: Path) -> str:
    """Return the version of an export, the digest of its manifest; errors as for :func:`read_manifest`."""
    return _read(folder)[1]


def check(folder: Path, *names: str) -> None:
    """Raise :class:`FormatError` unless each named file, by default each of the manifest, is as the manifest has it.

    By default every other file of the folder is refused too, since no manifest speaks for it.
    """
    files = read_manifest(folder).files
    for name in names or (*files, *sorted(_others(folder, files))):
        path = folder / name
        if name not in files:
            raise FormatError(f"{path} was added: {MANIFEST} does not list it. {REMEDY}")
        try:
            found = file_facts(path)
        except FileNotFoundError as error:
            raise FormatError(f"{path} is missing, and {MANIFEST} lists it. {REMEDY}") from error
        except OSError as error:
            raise FormatError(f"{path} cannot be read ({error.strerror}). {REMEDY}") from error
        if found != files[name]:
            raise FormatError(
                f"{path} was altered: its contents do not match the size and digest in {MANIFEST}. {REMEDY}"
            )


def _others(folder: Path, files: dict[str, FileFacts]) -> set[str]:
    """Return the files of a folder that its manifest does not list; hidden files are not ours."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {name for name in found - files.keys() - {MANIFEST} if not name.startswith(".")}


def _read(folder: Path) -> tuple[Manifest, str]:
    """Return the manifest of an export and its digest."""
    recover(folder)
    if not folder.exists():
        raise InputError(f"{folder} does not exist.")
    path = folder / MANIFEST
    if not path.is_file():
        raise FormatError(f"{folder} is not an export: it has no {MANIFEST}. Name a folder that 'recvae export' wrote.")
    try:
        text = path.read_bytes().decode()
        record = from_json(text)
        digest = record.pop("digest", None)
        form, version = record.pop("format", None), record.pop("format_version", None)
    except OSError as error:
        raise FormatError(f"{path} cannot be read ({error.strerror}). {REMEDY}") from error
    except (ValueError, AttributeError, TypeError) as error:
        raise FormatError(f"{path} is damaged or not JSON. {REMEDY}") from error
    if form != FORMAT:
        raise FormatError(f"{path} does not describe a recvae export.")
    if version != VERSION:
        raise FormatError(
            f"{path} has format version {shown(version)}; this recvae reads {VERSION}. Export the run again."
        )
    if text != _text(record):
        raise FormatError(f"{path} was altered: it does not match its own digest. {REMEDY}")
    return checked(Manifest, record, path, "Export the run again."), digest


def _text(facts: JsonObject) -> str:
    """Return the content of export.json: the same facts make the same bytes."""
    record = {"format": FORMAT, "format_version": VERSION, **facts}
    try:
        listed = json.dumps(record, sort_keys=True, ensure_ascii=False)
        digest = hashlib.sha256(listed.encode()).hexdigest()
    except UnicodeEncodeError:
        digest = ""  # such a text is no text of ours, and write_text refuses it
    return json.dumps({**record, "digest": digest}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
