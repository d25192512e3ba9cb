"""The seal of a folder: seal.json, which lists the SHA-256 of its files, and ends with that of the list.

A file that is read is compared with the seal first, so that a change of any bit is refused. Files change one at a time,
and a process may be killed between any two: so the seal is written before the files, and allows both their old form
and their new one. The next writing, or :func:`narrow` at the end, narrows the seal to the files that are there.

    {"kind": "recvae-seal", "format": 1, "files": {"run.json": ["5f2c..."], "metrics.jsonl": ["08ab...", "c1d9..."]},
     "seal": "77e0..."}

Null in a file's list means that the file may be missing. For a safetensors file the SHA-256 is that of the header,
which holds a digest of the tensors, and its length: so the tensors are read once, not twice. A folder without a seal,
written by an older version, is read without this check.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from recvae.errors import FormatError
from recvae.files import file_hash, from_json, whole_file, write_text

SEAL = "seal.json"
_KIND, _FORMAT = "recvae-seal", 1
_LARGEST_HEADER = 100_000_000  # bytes, as the safetensors library has it
REMEDY = "Copy the folder again from where it is whole, or make it anew."

Forms = dict[str, list[str | None]]  # by name: the digests a file may have, None where it may be missing


def check(folder: Path, *names: str) -> None:
    """Raise :class:`FormatError` unless each named file is as the folder's seal has it; without a seal, do nothing.

    A file that a run under way replaces meanwhile is checked again.
    """
    for name in names:
        forms = read_seal(folder)
        while forms is not None and (digest := _digest(folder, name)) not in _allowed(forms, name):
            before, forms = forms, read_seal(folder)
            if forms == before:
                raise FormatError(f"{folder / name} {_reason(forms, name, digest)} {REMEDY}")


def verify(folder: Path) -> bool:
    """Raise :class:`FormatError` unless every file is as the seal has it; return False where there is no seal.

    Where the seal lists other seals, as a blend's does, their folders are checked too.
    """
    forms = read_seal(folder)
    if forms is None:
        return False
    check(folder, *forms)
    return all(verify((folder / name).parent) for name in forms if Path(name).name == SEAL)


def read_seal(folder: Path) -> Forms | None:
    """Return the forms in a folder's seal, None where it has none; raise :class:`FormatError` if it was altered."""
    path = folder / SEAL
    try:
        text = path.read_bytes().decode()
        record = from_json(text)
        forms: Forms = record["files"]
        whole = text == _text(forms)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FormatError(f"{path} cannot be read ({error.strerror}). {REMEDY}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise FormatError(f"{path} was altered: it does not match its own digest. {REMEDY}")
    return forms


@contextmanager
def sealed_files(folder: Path, *names: str, beside: Sequence[str]) -> Iterator[tuple[Path, ...]]:
    """Yield a temporary path for each name; when the body succeeds, seal the files and rename them in this order.

    ``beside`` names the files that a seal covers. The first files of a folder are written without a seal; :func:`seal`,
    or the next writing, makes it.
    """
    with ExitStack() as stack:
        temporaries = [stack.enter_context(whole_file(folder / name)) for name in reversed(names)]
        yield tuple(reversed(temporaries))
        forms = _forms(folder, beside)
        if forms:
            for name, temporary in zip(names, reversed(temporaries), strict=True):
                digest = _digest_of(temporary, name)
                forms[name] = [form for form in forms.get(name, [None]) if form != digest] + [digest]
            _write(folder, forms)


def seal(folder: Path, names: Sequence[str]) -> None:
    """Seal a folder that was just made: the present form of each named file that exists."""
    _write(folder, found(folder, names))


def narrow(folder: Path) -> None:
    """Allow only the present form of a folder's files; a file that was altered stays refused."""
    _write(folder, _forms(folder, ()))


def remove(folder: Path, name: str, *, beside: Sequence[str]) -> None:
    """Delete a file that a seal covers, where there is one."""
    if (folder / name).is_file():
        forms = _forms(folder, beside)
        if name in forms:
            _write(folder, {**forms, name: [*forms[name], None]})
        (folder / name).unlink()
        narrow(folder)


def _forms(folder: Path, beside: Sequence[str]) -> Forms:
    """Return the present forms of a folder's files; for a file that was altered, the forms that it should have."""
    forms = read_seal(folder)
    if forms is None:
        return found(folder, beside)
    for name, allowed in forms.items():
        if len(allowed) > 1 and (digest := _digest(folder, name)) in allowed:
            forms[name] = [digest]
    return {name: allowed for name, allowed in forms.items() if allowed != [None]}


def found(folder: Path, names: Sequence[str]) -> Forms:
    """Return the present form of each named file that exists."""
    digests = {name: _digest(folder, name) for name in names}
    return {name: [digest] for name, digest in digests.items() if digest is not None}


def _write(folder: Path, forms: Mapping[str, list[str | None]]) -> None:
    text, path = _text(forms), folder / SEAL
    if not path.is_file() or path.read_bytes() != text.encode():
        write_text(path, text)


def _text(forms: Mapping[str, list[str | None]]) -> str:
    """Return the content of a seal: the same forms make the same bytes."""
    if not all(isinstance(name, str) and isinstance(allowed, list) for name, allowed in forms.items()):
        raise TypeError("a seal lists forms by name")
    listed = json.dumps(forms, sort_keys=True)
    digest = hashlib.sha256(f"{_KIND} {_FORMAT} {listed}".encode()).hexdigest()
    record = {"kind": _KIND, "format": _FORMAT, "files": dict(sorted(forms.items())), "seal": digest}
    return json.dumps(record, indent=2) + "\n"


def _allowed(forms: Forms, name: str) -> list[str | None]:
    return forms.get(name, [None])


def _reason(forms: Forms, name: str, digest: str | None) -> str:
    """Return the fault of a file, to follow its name."""
    if digest is None:
        return f"is missing, and {SEAL} lists it."
    if name not in forms:
        return f"was added: {SEAL} does not list it."
    return f"was altered: its contents do not match the digest in {SEAL}."


def _digest(folder: Path, name: str) -> str | None:
    """Return the digest of a file, None where it is missing."""
    path = folder / name
    try:
        return _digest_of(path, name) if path.is_file() else None
    except FileNotFoundError:  # replaced in this moment
        return None
    except OSError as error:
        raise FormatError(f"{folder / name} cannot be read ({error.strerror}). {REMEDY}") from error


def _digest_of(path: Path, name: str) -> str:
    if not name.endswith(".safetensors"):
        return file_hash(path)
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        return hashlib.sha256(start + file.read(min(length, _LARGEST_HEADER))).hexdigest()
