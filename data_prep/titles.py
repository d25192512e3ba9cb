"""Titles, tags and user attributes: the small text files that stand beside the ratings."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.columns import not_utf8
from data_prep.streams import ByteSource
from recvae.errors import DataError

_TITLE_NAMES = ("title", "name", "item_title", "movie_title")
_TAG_NAMES = ("genres", "genre", "tags", "tag", "categories")
_NO_TAGS = "(no genres listed)"


@dataclass(frozen=True)
class Titles:
    """Titles by item id, and tags (genres and the like) by item id for the items that have some."""

    titles: dict[str, str] = field(default_factory=dict)
    tags: dict[str, tuple[str, ...]] = field(default_factory=dict)


def read_titles(source: str | Path | ByteSource, separator: str | None = None) -> Titles:
    """Read item ids, titles and, in a third column, tags separated by a bar; UTF-8, gzip too.

    A first row with a column named ``title`` or ``name`` is a header: the titles are in that column, the tags in one
    named ``genres`` or ``tags``, the ids in the first. Without a header the columns are id, title, tags. The separator
    is guessed where None. Raises :class:`InputError` for a missing file and :class:`DataError` naming the file, and the
    row or line, where it is empty, not UTF-8 or not such a table.
    """
    file = source if isinstance(source, ByteSource) else ByteSource(Path(source))
    rows = read_rows(file, separator)
    first = [cell.strip().lower() for cell in rows[0]]
    title, tags, start = 1, 2, 0
    if any(name in first for name in _TITLE_NAMES):
        title = next(first.index(name) for name in _TITLE_NAMES if name in first)
        tags = next((first.index(name) for name in _TAG_NAMES if name in first), -1)
        start = 1
        if title == 0:
            raise DataError(f"{file} begins with the title; its first column must be the item id.")
    return titles_from_rows(file, rows[start:], title, tags)


def read_user_tags(source: str | Path) -> dict[str, dict[str, str]]:
    """Read user attributes by user id: a header of names, then a row per user, its id first; UTF-8, gzip too.

    An empty cell is an attribute that is not known. Raises :class:`InputError` for a missing file and
    :class:`DataError` naming the file, and the row, where it is empty, not UTF-8 or not such a table.
    """
    file = ByteSource(Path(source))
    (_, *names), *rows = read_rows(file)
    names = [name.strip() for name in names]
    if not names or not all(names) or len(set(names)) < len(names):
        raise DataError(f"{file} must begin with a header: a name for the user's column, then one for each attribute.")
    found: dict[str, dict[str, str]] = {}
    for number, (user, *values) in enumerate(rows, start=1):
        if len(values) != len(names):
            problem = f"row {number:,} (header not counted) has {len(values) + 1} fields"
            raise DataError(f"{file}: {problem}, and the header has {len(names) + 1}. Is a comma missing or too many?")
        if user in found:
            raise DataError(
                f"{file}: row {number:,} (header not counted) is a second row of user {user!r}. Remove one."
            )
        found[user] = {name: value.strip() for name, value in zip(names, values, strict=True) if value.strip()}
    return found


def titles_from_rows(file: ByteSource, rows: Sequence[Sequence[str]], title: int, tags: int) -> Titles:
    """Collect titles from column ``title`` and bar-separated tags from column ``tags`` (-1: none)."""
    found = Titles()
    for number, row in enumerate(rows, start=1):
        if len(row) <= title:
            problem = f"row {number:,} (header not counted) has {len(row)} fields"
            raise DataError(f"{file}: {problem}; an item id and a title are needed. Is the separator right?")
        found.titles[row[0]] = row[title].strip()
        if 0 <= tags < len(row) and row[tags] != _NO_TAGS:
            names = tuple(name.strip() for name in row[tags].split("|") if name.strip())
            if names:
                found.tags[row[0]] = names
    return found


def read_rows(file: ByteSource, separator: str | None = None, encoding: str = "utf-8") -> list[list[str]]:
    """Read a small text file's rows of fields; blank lines are skipped.

    Fields separated by a comma, a tab or a semicolon may be quoted, others (``::``, a bar) are taken as they are.
    """
    data = file.read()
    try:
        text = data.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        raise not_utf8(file, f"line {data.count(10, 0, error.start) + 1:,}") from error
    if separator is None:
        separator = _guess(text, file.name)
    if separator in {",", "\t", ";"}:
        try:
            rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if row]
        except csv.Error as error:
            raise DataError(f"{file} cannot be read as separated text ({error}).") from error
    else:
        rows = [line.removesuffix("\r").split(separator) for line in text.split("\n") if line.strip()]
    if not rows:
        raise DataError(f"{file} is empty.")
    return rows


def _guess(text: str, name: str) -> str:
    """Guess the separator of a titles file, where commas are as likely to be part of a title."""
    line = text.lstrip().split("\n", 1)[0]
    if name.endswith((".tsv", ".tab")):
        return "\t"
    return next((mark for mark in ("::", "\t", ",", ";", "|") if mark in line), ",")
