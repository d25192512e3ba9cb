"""The export: a model as an ONNX graph, with the facts and files that a service needs, and nothing of torch.

    model.onnx       the graph from histories to lists
    model.bin        its weights
    similar.onnx     the graph from items to similarities, of a model that knows them
    items.csv        index,item_id,title
    item_tags.csv    item_id,tag, where the items have tags
    manifest.json    the facts, the size and SHA-256 of every other file, and a digest of all this; written last

The graphs' inputs and outputs are declared in :mod:`recvae.serving.onnx_runtime`. A file that is missing, truncated or
altered raises a FormatError that names it.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from recvae.arguments import shown
from recvae.errors import FormatError, InputError
from recvae.files import JsonObject, file_hash, read_json, recover, write_text
from recvae.training import item_files
from recvae.training.item_files import ITEMS, TAGS
from recvae.training.records import Count, Record, checked
from recvae.training.vocabulary import Vocabulary

MANIFEST, MODEL, SIMILAR = "manifest.json", "model.onnx", "similar.onnx"
KIND, FORMAT = "recvae-export", 1
REMEDY = "Copy the folder again from where it is whole, or export the run again."

_Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]  # in the folder itself


class FileFacts(Record):
    """The size and digest of a file."""

    bytes: Count
    sha256: _Sha256


class Graph(Record):
    """A graph beside the model's."""

    file: _FileName


class Manifest(Record):
    """The facts of an export, in manifest.json.

    ``run``: the version of the run folder that was exported. ``attributes``: attributes of users of which each has one
    value among ``conditions``. ``no_similarity``: a sentence where there is no graph of similarities. ``dataset`` and
    ``metrics`` as in run.json.
    """

    recvae: str
    model: str
    title: str
    run: str
    weights: Literal["float32", "int8", "bf16"]
    n_items: Annotated[Count, Field(ge=1)]
    named_value: Annotated[float, Field(gt=0)]
    of_ratings: bool
    conditions: list[str]
    attributes: list[str] = []
    dataset: JsonObject
    metrics: dict[str, float]
    similarity: Graph | None
    no_similarity: str = ""
    files: dict[_FileName, FileFacts]

    @property
    def digest(self) -> str:
        """The SHA-256 of the facts, those of the files among them."""
        listed = json.dumps(self.model_dump(), sort_keys=True)
        return hashlib.sha256(f"{KIND} {FORMAT} {listed}".encode()).hexdigest()

    @property
    def version(self) -> str:
        """12 hexadecimal digits of the digest: exports that differ in a byte of a file have other versions."""
        return self.digest[:12]


def is_export(folder: Path) -> bool:
    """Return whether a folder says of itself that it is an export; nothing is checked.

    A manifest that cannot be read counts as an export's where the folder holds a graph.
    """
    try:
        with (folder / MANIFEST).open("rb") as file:
            return f'"{KIND}"'.encode() in file.read(4096) or (folder / MODEL).is_file()
    except OSError:
        return (folder / MODEL).is_file()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json, after all other files."""
    write_text(folder / MANIFEST, _text(manifest))


def _text(manifest: Manifest) -> str:
    """Return the content of manifest.json: the same facts make the same bytes."""
    record = {"format": KIND, "format_version": FORMAT, **manifest.model_dump(), "manifest": manifest.digest}
    return json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def file_facts(path: Path) -> FileFacts:
    """Return the size and digest of a file."""
    return FileFacts(bytes=path.stat().st_size, sha256=file_hash(path))


def read_manifest(folder: Path) -> Manifest:
    """Return the facts of an export, which match their digest; no other file is looked at.

    Raises :class:`InputError` where there is no such folder, and :class:`FormatError` where it is no export, of another
    format version, or its manifest was altered.
    """
    recover(folder)
    path = folder / MANIFEST
    if not folder.exists():
        raise InputError(f"{folder} does not exist.")
    if not folder.is_dir():
        raise FormatError(f"{folder} is a file and not an export. Name a folder that 'recvae export' wrote.")
    if not path.is_file():
        raise FormatError(f"{folder} is not an export: it has no {MANIFEST}. Name a folder that 'recvae export' wrote.")
    record = read_json(path)
    if not isinstance(record, dict) or record.pop("format", None) != KIND:
        raise FormatError(f"{path} does not describe an export. Name a folder that 'recvae export' wrote.")
    version = record.pop("format_version", None)
    if version != FORMAT:
        raise FormatError(
            f"{path} has format version {shown(version)}; this recvae reads {FORMAT}. Export the run again."
        )
    record.pop("manifest", None)
    manifest = checked(Manifest, record, path, REMEDY)
    if path.read_bytes() != _text(manifest).encode():
        raise FormatError(f"{path} was altered: it does not match its own digest. {REMEDY}")
    for name in (MODEL, ITEMS, *([] if manifest.similarity is None else [manifest.similarity.file])):
        if name not in manifest.files:
            raise FormatError(f"{path} does not list {name}, which an export has. {REMEDY}")
    return manifest


def verify(folder: Path, manifest: Manifest) -> None:
    """Read every file of an export; raise :class:`FormatError` where one is not as the manifest has it."""
    for name, facts in manifest.files.items():
        path = folder / name
        try:
            found = path.stat().st_size
            problem = "" if found == facts.bytes else f"it has {found:,} bytes in place of {facts.bytes:,}"
            if not problem and file_hash(path) != facts.sha256:
                problem = f"its contents do not match the digest in {MANIFEST}"
        except FileNotFoundError:
            raise FormatError(f"{path} is missing, and {MANIFEST} lists it. {REMEDY}") from None
        except OSError as error:
            raise FormatError(f"{path} cannot be read ({error.strerror}). {REMEDY}") from error
        if problem:
            raise FormatError(f"{path} was altered: {problem}. {REMEDY}")


def read_catalogue(folder: Path, manifest: Manifest) -> Vocabulary:
    """Return the items and tags of an export whose files are verified; raise :class:`FormatError` where they differ."""

    def verified(folder: Path, name: str) -> None:
        """Every file was compared with its digest already."""

    items = item_files.read_items(folder, verified, REMEDY)
    if len(items) != manifest.n_items:
        raise FormatError(f"{folder / ITEMS} has {len(items):,} items, and the model {manifest.n_items:,}. {REMEDY}")
    return item_files.read_tags(folder, items, verified, REMEDY) if TAGS in manifest.files else items
