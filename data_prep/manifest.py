"""What a dataset folder holds, by name, and the check of its manifest."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recvae.errors import FormatError

KIND = "recvae-dataset"
FORMAT_VERSION = 1
MATRICES = ("train", "validation_in", "validation_out", "test_in", "test_out")
RATINGS = tuple(f"{name}_ratings" for name in MATRICES)
SPLITS = ("train", "validation", "test")
REQUIRED = ("items.csv", "users.csv", *(f"{name}.npz" for name in MATRICES))
OPTIONAL = ("item_tags.csv", "user_tags.csv", *(f"{name}.npz" for name in RATINGS))
AGAIN = "Prepare the dataset again."


def check_manifest(file: Path, manifest: Any) -> None:
    """Raise :class:`FormatError` unless a manifest is of our kind and version and has what is read from it."""
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
        raise FormatError(f"{file} is not a dataset's manifest. Give the folder that recvae prepare wrote.")
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        raise FormatError(
            f"{file} has format version {version}, and this recvae reads version {FORMAT_VERSION}."
            " Prepare the dataset again, or install the recvae that wrote it."
        )
    counts, files = manifest.get("counts"), manifest.get("files")
    fits = (
        isinstance(counts, dict)
        and _is_count(counts.get("items"))
        and _are_counts(counts.get("users"), SPLITS)
        and _are_counts(counts.get("clicks"), MATRICES)
        and isinstance(files, dict)
        and set(REQUIRED) <= set(files)
        and all(isinstance(manifest.get(key), str) for key in ("name", "vocabulary_hash"))
        and all(isinstance(manifest.get(key, {}), dict) for key in ("protocol", "filters", "source", "dropped"))
        and ("ratings" not in manifest or _are_counts(manifest["ratings"], MATRICES))
        and ("ratings" not in manifest or {f"{name}.npz" for name in RATINGS} <= set(files))
    )
    if not fits:
        raise FormatError(f"{file} is incomplete or altered. {AGAIN}")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_counts(values: object, names: Sequence[str]) -> bool:
    return isinstance(values, dict) and all(_is_count(values.get(name)) for name in names)
