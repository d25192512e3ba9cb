"""The files of a dataset folder, by name, and the manifest, which is written with a seal and checked when it is read.

The seal, the manifest's last entry, is the SHA-256 of the file's own bytes with 64 zeros in the seal's place. Manifests
of version 1 may have none, and then end with the list of files.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path

from recvae.arguments import shown
from recvae.errors import FormatError, InputError
from recvae.files import Document, JsonObject, write_text

KIND = "recvae-dataset"
FORMAT_VERSION = 2
READ_VERSIONS = (1, 2)
MATRICES = ("train", "validation_in", "validation_out", "test_in", "test_out")
RATINGS = tuple(f"{name}_ratings" for name in MATRICES)
SPLITS = ("train", "validation", "test")
ARRIVALS = "arrivals.csv"
ARRIVED = ("new_users", "clicks_of_new_users", "clicks_of_known_users", "clicks_on_new_items")
"""The counts, in the manifest of a time split, of a part's new users and of its held-out clicks."""
AGAIN = "Prepare the dataset again."

_NO_SEAL = "0" * 64
_MOST_BYTES = 1 << 24  # a manifest has a few thousand bytes


def matrix_files(matrix: str, version: int = FORMAT_VERSION) -> tuple[str, ...]:
    """Return the names of the files that hold one of ``MATRICES`` or ``RATINGS`` in a folder of this version."""
    if version == 1:
        return (f"{matrix}.npz",)
    parts = ("indptr", "indices", "data") if matrix in RATINGS else ("indptr", "indices")
    return tuple(f"{matrix}.{part}.npy" for part in parts)


def required(version: int = FORMAT_VERSION) -> tuple[str, ...]:
    """Return the names of the files that every dataset folder of this version has."""
    return ("items.csv", "users.csv", *(file for name in MATRICES for file in matrix_files(name, version)))


def optional(version: int = FORMAT_VERSION) -> tuple[str, ...]:
    """Return the names of the files that a dataset folder of this version may have beside the required ones."""
    more = () if version == 1 else (ARRIVALS,)
    return ("item_tags.csv", "user_tags.csv", *more, *_of_ratings(version))


def _of_ratings(version: int) -> tuple[str, ...]:
    return tuple(file for name in RATINGS for file in matrix_files(name, version))


def write_manifest(file: Path, manifest: Document) -> None:
    """Write a manifest and its seal, whole or not at all."""
    value = {**{key: entry for key, entry in manifest.items() if key not in ("files", "seal")}}
    value |= {"files": manifest["files"], "seal": _NO_SEAL}  # last, in this order
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    before, _, after = text.rpartition(_NO_SEAL)
    write_text(file, before + hashlib.sha256(text.encode()).hexdigest() + after)


def read_manifest(file: Path) -> JsonObject:
    """Return a manifest without its seal; raise :class:`FormatError` where it is damaged, altered or no manifest."""
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise FormatError(f"{file} is not a dataset's manifest: it is too large. {AGAIN}")
        text = file.read_bytes().decode()
        manifest = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except FileNotFoundError as error:
        raise FormatError(f"{file} is missing. {AGAIN}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f"{file} is damaged or not JSON ({str(error)[:100]}). {AGAIN}") from error
    _check(file, manifest)
    seal = manifest.pop("seal", None)
    if seal is None:
        sealed = manifest["format_version"] == 1 and next(reversed(manifest)) == "files"  # as the first ones were
    else:
        before, _, after = text.rpartition(str(seal))
        sealed = hashlib.sha256((before + _NO_SEAL + after).encode()).hexdigest() == seal
    if not sealed:
        raise FormatError(f"{file} was altered: it is not as it was written. {AGAIN}")
    return dict(manifest)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


def check_about(manifest: Document) -> None:
    """Raise :class:`InputError` where a dataset's description could not be read from its manifest again."""
    if not _about_fits(manifest):
        raise InputError(
            "A dataset's name must be text and its source, filters and protocol dicts; dropped and before_split are"
            " dicts of counts."
        )


def _check(file: Path, manifest: object) -> None:
    """Raise :class:`FormatError` unless a manifest is of this kind and version and has the entries that are read."""
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
        raise FormatError(f"{file} is not a dataset's manifest. Give the folder that recvae prepare wrote.")
    version = manifest.get("format_version")
    if isinstance(version, bool) or version not in READ_VERSIONS:
        raise FormatError(
            f"{file} has format version {shown(version)}, and this recvae reads versions 1 and 2."
            " Prepare the dataset again, or install the recvae that wrote it."
        )
    counts, files = manifest.get("counts"), manifest.get("files")
    fits = (
        isinstance(counts, dict)
        and _is_count(counts.get("items"))
        and _are_counts(counts.get("users"), SPLITS)
        and _are_counts(counts.get("clicks"), MATRICES)
        and isinstance(files, dict)
        and set(required(version)) <= set(files) <= {*required(version), *optional(version)}
        and all(isinstance(digest, str) for digest in files.values())
        and isinstance(manifest.get("vocabulary_hash"), str)
        and _about_fits(manifest)
        and ("ratings" not in manifest or _are_counts(manifest["ratings"], MATRICES))
        and ("ratings" not in manifest or set(_of_ratings(version)) <= set(files))
        and ("arrivals" in manifest) == (ARRIVALS in files)
    )
    if not fits:
        raise FormatError(f"{file} is incomplete or altered. {AGAIN}")


def _about_fits(manifest: Document) -> bool:
    """Return whether the entries that describe a dataset have the types that their readers expect."""
    parts = [manifest.get(key, {}) for key in ("source", "filters", "protocol", "dropped", "before_split")]
    if not all(isinstance(part, dict) for part in parts) or not isinstance(manifest.get("name"), str):
        return False
    source, filters, protocol, dropped, before = parts
    arrivals = manifest.get("arrivals")
    try:
        json.dumps(manifest, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # a lone surrogate, which cannot be written to any file
        return False
    return (
        all(source.get(key) is None or isinstance(source[key], str) for key in ("file", "licence", "citation"))
        and (filters.get("min_rating") is None or isinstance(filters["min_rating"], int | float))
        and (protocol.get("split") is None or isinstance(protocol["split"], str))
        and all(map(_is_count, dropped.values()))
        and (not before or _are_counts(before, ("users", "items", "clicks")))
        and (
            arrivals is None
            or (isinstance(arrivals, dict) and all(_are_counts(arrivals.get(part), ARRIVED) for part in SPLITS[1:]))
        )
    )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _are_counts(values: object, names: Sequence[str]) -> bool:
    return isinstance(values, dict) and set(names) <= set(values) and all(map(_is_count, values.values()))
