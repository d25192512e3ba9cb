"""The tables and the manifest of a dataset folder, as they are written."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from data_prep.interactions import Ids
from data_prep.manifest import FORMAT_VERSION, KIND, check_about, write_manifest
from recvae.files import Document, JsonObject, file_hash, vocabulary_hash, write_table

ITEMS = ("index", "item_id", "title")
USERS = ("split", "row", "user_id")
ITEM_TAGS = ("item_id", "tag")
USER_TAGS = ("user_id", "name", "value")

Tags = Mapping[str, Sequence[str]]
UserTags = Mapping[str, Mapping[str, str]]


def new_manifest(
    name: str,
    about: Document,
    *,
    items: Sequence[str] | Ids,
    users: Mapping[str, int],
    clicks: Mapping[str, int],
    dropped: Mapping[str, int],
    ratings: Mapping[str, int],
) -> JsonObject:
    """Return a dataset's manifest without the files; raise :class:`InputError` where it could not be read again."""
    manifest: JsonObject = {"kind": KIND, "format_version": FORMAT_VERSION, "name": name, **about}
    manifest["counts"] = {"items": len(items), "users": dict(users), "clicks": dict(clicks)}
    manifest["dropped"] = {**manifest.get("dropped", {}), **dropped}
    if ratings:  # not among the counts: a run's dataset is the same split with and without ratings
        manifest["ratings"] = dict(ratings)
    manifest["vocabulary_hash"] = vocabulary_hash(items)
    check_about(manifest)
    return manifest


def write_items(folder: Path, ids: Sequence[str] | Ids, titles: Sequence[str] | Ids, tags: Tags) -> None:
    """Write items.csv, and item_tags.csv where there are tags."""
    write_table(folder / "items.csv", ITEMS, zip(range(len(ids)), ids, titles, strict=True))
    if tags:
        write_table(folder / "item_tags.csv", ITEM_TAGS, ((i, tag) for i, of_item in tags.items() for tag in of_item))


def write_users(folder: Path, users: Iterable[tuple[str, Iterable[str]]]) -> None:
    """Write users.csv, of the ids of each split in order."""
    rows = ((split, row, user) for split, ids in users for row, user in enumerate(ids))
    write_table(folder / "users.csv", USERS, rows)


def write_user_tags(folder: Path, tags: UserTags) -> None:
    """Write user_tags.csv where there are any."""
    if tags:
        rows = ((user, name, value) for user, of_user in tags.items() for name, value in of_user.items())
        write_table(folder / "user_tags.csv", USER_TAGS, rows)


def seal_folder(folder: Path, manifest: Document) -> None:
    """Write the manifest of a folder whose other files are all there."""
    files = {file.name: file_hash(file) for file in sorted(folder.iterdir())}
    write_manifest(folder / "manifest.json", {**manifest, "format_version": FORMAT_VERSION, "files": files})
