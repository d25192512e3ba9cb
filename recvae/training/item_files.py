"""The files that name a model's items, in run folders and exports: items.csv, and item_tags.csv where items have tags.

items.csv        index,item_id,title
item_tags.csv    item_id,tag
"""

from collections.abc import Callable
from pathlib import Path

from recvae.files import fill_table, read_table
from recvae.training.vocabulary import Vocabulary

ITEMS, TAGS = "items.csv", "item_tags.csv"
_ITEM_COLUMNS = ("index", "item_id", "title")
_TAG_COLUMNS = ("item_id", "tag")


def fill_items(path: Path, items: Vocabulary) -> None:
    """Write items.csv to a temporary file."""
    rows = ((i, *item) for i, item in enumerate(zip(items.ids, items.titles, strict=True)))
    fill_table(path, _ITEM_COLUMNS, rows, ITEMS)


def fill_tags(path: Path, items: Vocabulary) -> None:
    """Write item_tags.csv to a temporary file."""
    fill_table(path, _TAG_COLUMNS, items.tag_pairs(), TAGS)


def read_items(folder: Path, check: Callable[[Path, str], None], remedy: str) -> Vocabulary:
    """Return the items of items.csv, without tags.

    ``check`` takes the folder and a file's name, and raises an error where the file was altered. Raises
    :class:`FormatError`, ending in ``remedy``, where it is missing or no such table.
    """
    rows = read_table(folder / ITEMS, _ITEM_COLUMNS, remedy)
    check(folder, ITEMS)
    return Vocabulary([row[1] for row in rows], [row[2] for row in rows])


def read_tags(folder: Path, items: Vocabulary, check: Callable[[Path, str], None], remedy: str) -> Vocabulary:
    """Return the items with the tags of item_tags.csv; arguments and errors as for :func:`read_items`."""
    rows = read_table(folder / TAGS, _TAG_COLUMNS, remedy)
    check(folder, TAGS)
    tags: dict[str, list[str]] = {}
    for item, tag in rows:
        tags.setdefault(item, []).append(tag)
    return items.tagged(tags)
