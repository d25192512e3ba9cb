"""A safetensors file of a run folder: tensors, and a header with a digest of them and with facts in JSON.

A file of weights may name a second file, of the tensors that no epoch changes; both are then read as one. Each file is
compared with the folder's seal, its digest and the tensors that are expected before anybody uses it.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from recvae.errors import DataError, FormatError, WorkError
from recvae.files import JsonObject, from_json
from recvae.files.swap import need_utf8
from recvae.training import seals
from recvae.training.records import FixedFacts, Record, checked
from recvae.training.tensors import Expected, Shape, wrong_form, wrong_values

FIXED = "fixed"  # the entry of a weights file's facts that names the digest of the tensors which no epoch changes
FIXED_FILES = "fixed-*.safetensors"
_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}

ROWS_AT_ONCE = 1 << 22  # values that are read at once where a file is not read whole

Facts = JsonObject
Forms = Mapping[str, Expected]
Opened = Any  # the safetensors library declares no type for an open file


def fixed_file(digest: str) -> str:
    """Return the name of the file of fixed tensors that have this digest."""
    return FIXED_FILES.replace("*", digest[:16])


def fill_tensors(path: Path, named: Path, tensors: Mapping[str, Tensor], facts: Facts) -> None:
    """Write tensors, their digest and ``facts`` to ``path``, the temporary form of the file ``named``."""
    kept = on_cpu(tensors)
    save_tensors(path, named, kept, digest_of(kept), facts)


def on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors on the CPU, contiguous."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def save_tensors(path: Path, named: Path, kept: dict[str, Tensor], digest: str, facts: Facts) -> None:
    """Write tensors whose ``digest`` is known, as :func:`fill_tensors` does.

    Raises :class:`DataError` for facts that are not JSON, and :class:`WorkError` where the file cannot be written.
    """
    text = _entry(named, facts, digest)
    try:
        save_file(kept, path, metadata={"recvae": text})
    except SafetensorError as error:  # it wraps the operating system's error
        raise WorkError(f"Cannot write {named}: {error}. Free some space, or write elsewhere.") from error


def _entry(named: Path, facts: Facts, digest: str) -> str:
    """Return the text in a file's header; raise :class:`DataError` for facts that are not JSON."""
    # One entry: safetensors writes several in a random order, and the same run would not make the same file.
    text = json.dumps({"facts": facts, "digest": digest})
    try:
        from_json(text)
    except ValueError as error:
        raise DataError(f"{named} cannot hold what it is to say of itself: {error}.") from error
    return text


Blocks = Callable[[str], Iterator[Tensor]]  # the rows of a named tensor in order, some at a time


def stream_tensors(path: Path, named: Path, forms: Mapping[str, Expected], blocks: Blocks, facts: Facts) -> None:
    """Write the file that :func:`fill_tensors` writes of tensors that no memory holds whole: the same bytes.

    ``blocks`` is called for the tensors in the order of their names. Errors as for :func:`save_tensors`.
    """
    digest, ends = hashlib.sha256(), 0
    header: dict[str, object] = {"__metadata__": {"recvae": _entry(named, facts, digest.hexdigest())}}
    widest = sorted(forms, key=lambda name: (-forms[name].dtype.itemsize, name))  # the order of the library
    for name in widest:
        size = forms[name].dtype.itemsize * math.prod(map(int, forms[name].shape))
        shape = list(forms[name].shape)
        header[name] = {"dtype": _NAMES[forms[name].dtype], "shape": shape, "data_offsets": [ends, ends + size]}
        ends += size
    start = len(_header(header))
    try:
        with path.open("wb") as file:
            for name in sorted(forms):
                form = forms[name]
                digest.update(_named(name, form.dtype, form.shape))
                file.seek(start + header[name]["data_offsets"][0])  # type: ignore[index]  # a header of JSON
                for block in blocks(name):
                    data = _bytes(block.detach().cpu().contiguous())
                    digest.update(data)
                    file.write(data)
            header["__metadata__"] = {"recvae": _entry(named, facts, digest.hexdigest())}
            file.seek(0)
            file.write(_header(header))
    except OSError as error:
        raise WorkError(f"Cannot write {named}: {error.strerror}. Free some space, or write elsewhere.") from error


def _header(header: Mapping[str, object]) -> bytes:
    """Return the beginning of a safetensors file: the length of a JSON text, and the text, filled up to 8 bytes."""
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read_tensors(
    folder: Path, name: str, kind: type[Record], expected: Callable[[Facts], Forms] | None = None
) -> tuple[dict[str, Tensor], Facts]:
    """Return the tensors of a file and of the fixed file that its facts name, and its facts.

    ``expected`` returns from the facts the tensors that there must be; it is called before any tensor is read. Raises
    :class:`FormatError` where a file is damaged, altered or holds other tensors.
    """
    path = folder / name
    with ExitStack() as stack:
        parts = [_checked_part(stack, folder, name, kind)]
        facts = parts[0].facts
        if facts.get(FIXED) is not None:
            parts.append(_checked_part(stack, folder, fixed_file(facts[FIXED]), FixedFacts))
            if parts[1].digest != facts[FIXED] or parts[0].forms.keys() & parts[1].forms.keys():
                raise FormatError(f"{path} and {parts[1].path.name} do not belong together. Train again.")
        both = " with ".join([str(path), *(part.path.name for part in parts[1:])])
        wanted = None if expected is None else expected(facts)
        forms = {name: form for part in parts for name, form in part.forms.items()}
        if wanted is not None and (wrong := wrong_form(wanted, forms)):
            raise FormatError(f"{both} is not of the model that run.json names: it {wrong}. Train again.")
        tensors: dict[str, Tensor] = {}
        for part in parts:
            found = {name: part.file.get_tensor(name) for name in part.forms}
            if part.digest != digest_of(found):
                raise FormatError(f"{part.path} was altered: its contents do not match its digest. Train again.")
            tensors |= found
    if wanted is not None and (wrong := wrong_values(wanted, tensors)):
        raise FormatError(f"{both} cannot be used: it {wrong}. Train again.")
    return tensors, facts


def read_rows(
    folder: Path,
    name: str,
    kind: type[Record],
    expected: Callable[[Facts], Forms],
    take: Callable[[str, Tensor, int], None],
) -> Facts:
    """Pass the rows of a file's tensors to ``take(name, rows, number of the first)``, some at a time; return the facts.

    The digest is known at the end: errors, as for :func:`read_tensors`, come after rows were passed on.
    """
    path = folder / name
    with ExitStack() as stack:
        part = _checked_part(stack, folder, name, kind)
        if wrong := wrong_form(expected(part.facts), part.forms):
            raise FormatError(f"{path} is not of the model that run.json names: it {wrong}. Train again.")
        digest = hashlib.sha256()
        for each in sorted(part.forms):
            shape, dtype = part.forms[each]
            digest.update(_named(each, dtype, shape))
            rows = part.file.get_slice(each)
            at_once = max(1, ROWS_AT_ONCE // max(1, math.prod(shape[1:])))
            for start in range(0, shape[0], at_once) if shape else ():
                block = rows[start : start + at_once]
                digest.update(_bytes(block.contiguous()))
                if not block.isfinite().all():
                    raise FormatError(f"{path} cannot be used: it has values in '{each}' that are not finite numbers.")
                take(each, block, start)
        if digest.hexdigest() != part.digest:
            raise FormatError(f"{path} was altered: its contents do not match its digest. Train again.")
        return part.facts


@dataclass(frozen=True)
class _Part:
    """An open safetensors file, and the facts, the digest and the tensors' forms from its header."""

    path: Path
    file: Opened
    facts: Facts
    digest: str
    forms: dict[str, tuple[Shape, torch.dtype]]


def _checked_part(stack: ExitStack, folder: Path, name: str, kind: type[Record]) -> _Part:
    """Compare a file with the folder's seal, and open it until ``stack`` is closed."""
    path = folder / name
    with opened(path):  # a truncated file is reported as truncated, not as altered
        seals.check(folder, name)
    file = stack.enter_context(opened(path))  # opened once: a run under way may replace the file
    return _Part(path, file, *read_header(file, path, kind))


@contextmanager
def opened(path: Path) -> Iterator[Opened]:
    """Yield an open safetensors file; raise :class:`FormatError` where the file is missing or of another kind."""
    need_utf8(path)
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise _unreadable(path) from error


def read_header(
    file: Opened, path: Path, kind: type[Record]
) -> tuple[Facts, str, dict[str, tuple[Shape, torch.dtype]]]:
    """Return from the header of an open file the facts, the tensors' digest, and the tensors' shapes and types."""
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


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the tensors' names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(_named(name, tensor.dtype, tensor.shape))
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _named(name: str, dtype: torch.dtype, shape: Sequence[int | str]) -> bytes:
    """Return the bytes with which a tensor begins in a digest."""
    return f"{name} {dtype} {tuple(shape)}\n".encode()


def _bytes(tensor: Tensor) -> memoryview:
    """Return the bytes of a contiguous tensor on the CPU."""
    data: memoryview = tensor.reshape(-1).view(torch.uint8).numpy().data
    return data
