"""Titles, tags and user attributes: the small text files that stand beside the ratings."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from data_prep.kinds import check_kind
from data_prep.spool import rereadable
from data_prep.streams import ByteSource
from recvae.errors import DataError
from recvae.frames.ids import not_utf8, whole_ids

_TITLE_NAMES = ("title", "name", "item_title", "movie_title")
_TAG_NAMES = ("genres", "genre", "tags", "tag", "categories")
_NO_TAGS = "(no genres listed)"


@dataclass(frozen=True)
class Titles:
    """Titles by item id, and tags (genres and the like) by item id for the items that have some."""

    titles: dict[str, str] = field(default_factory=dict)
    tags: dict[str, tuple[str, ...]] = field(default_factory=dict)


def read_titles(source: str | Path | ByteSource, separator: str | None = None) -> Titles:
    """Read item ids, titles and, in a third column, tags separated by a bar; UTF-8, packed or a pipe too.

    A first row with a column named ``title`` or ``name`` is a header: the titles are in that column, the tags in one
    named ``genres`` or ``tags``, the ids in the first. Without a header the columns are id, title, tags. The separator
    is guessed where None. Raises :class:`InputError` for a missing file and :class:`DataError` naming the file, and the
    row or line, where it is empty, not UTF-8 or has another form.
    """
    with rereadable(source) as file:
        rows = read_rows(file, separator)
        first = next(rows)
        names = [cell.strip().lower() for cell in first]
        if not any(name in names for name in _TITLE_NAMES):
            return titles_from_rows(file, chain([first], rows), title=1, tags=2)
        title = next(names.index(name) for name in _TITLE_NAMES if name in names)
        tags = next((names.index(name) for name in _TAG_NAMES if name in names), -1)
        if title == 0:
            raise DataError(f"{file} begins with the title; its first column must be the item id.")
        return titles_from_rows(file, rows, title, tags)


def read_user_tags(source: str | Path | ByteSource) -> dict[str, dict[str, str]]:
    """Read user attributes by user id: a header of names, then a row per user, its id first; UTF-8, packed or a pipe.

    An empty cell is an unknown attribute. Raises :class:`InputError` for a missing file and
    :class:`DataError` naming the file, and the row, where it is empty, not UTF-8 or has another form.
    """
    with rereadable(source) as file:
        rows = read_rows(file)
        names = [name.strip() for name in next(rows)[1:]]
        if not names or not all(names) or len(set(names)) < len(names):
            raise DataError(
                f"{file} must begin with a header: a name for the user's column, then one for each attribute."
            )
        found: dict[str, dict[str, str]] = {}
        for number, (user, *values) in enumerate(rows, start=1):
            if len(values) != len(names):
                problem = f"row {number:,} (header not counted) has {len(values) + 1} fields"
                raise DataError(
                    f"{file}: {problem}, and the header has {len(names) + 1}. Is a comma missing or too many?"
                )
            if user in found:
                raise DataError(
                    f"{file}: row {number:,} (header not counted) is a second row of user {user!r}. Remove one."
                )
            found[user] = {name: value.strip() for name, value in zip(names, values, strict=True) if value.strip()}
        return dict(zip(whole_ids(found), found.values(), strict=True))


def titles_from_rows(file: ByteSource, rows: Iterable[Sequence[str]], title: int, tags: int) -> Titles:
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
    new_ids = dict(zip(found.titles, whole_ids(found.titles), strict=True))
    return Titles(
        {new_ids[item]: text for item, text in found.titles.items()},
        {new_ids[item]: names for item, names in found.tags.items()},
    )


def read_rows(file: ByteSource, separator: str | None = None, encoding: str = "utf-8") -> Iterator[list[str]]:
    """Yield a text file's rows of fields, one after the other as they are read; blank lines are skipped.

    Fields separated by a comma, a tab or a semicolon may be quoted; with ``::`` or a bar there is no quoting.
    """
    head = file.head()
    if encoding == "utf-8":
        check_kind(file, head)
        if head.startswith(b"PAR1"):
            raise DataError(f"{file} is a Parquet file. Titles and attributes are read from text: save it as CSV.")
        encoding = "utf-8-sig"
    if separator is None:
        separator = _guess(head.decode(encoding, errors="replace"), file.name)
    quoted = separator in {",", "\t", ";"}
    rows = 0
    try:
        with file.open() as stream:
            # Line ends are kept: those within quotes belong to the title.
            text = io.TextIOWrapper(stream, encoding, newline="" if quoted else "\n")  # type: ignore[type-var]  # it has the methods that are called
            for row in csv.reader(text, delimiter=separator) if quoted else _split_lines(text, separator):
                if row:
                    rows += 1
                    yield row
    except UnicodeDecodeError as error:
        raise not_utf8(file, f"line {_first_bad_line(file, encoding)}") from error
    except csv.Error as error:
        raise DataError(f"{file} cannot be read as separated text ({error}).") from error
    if not rows:
        raise DataError(f"{file} is empty.")


def _split_lines(lines: Iterable[str], separator: str) -> Iterator[list[str]]:
    """Yield each line's fields, none for a blank line."""
    for line in lines:
        yield line.removesuffix("\n").removesuffix("\r").split(separator) if line.strip() else []


def _first_bad_line(file: ByteSource, encoding: str) -> str:
    """Return the number, from 1, of the first line that is not in this encoding."""
    with file.open() as stream:
        number, rest = 0, b""
        for piece in iter(lambda: stream.read(1 << 20), b""):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                number += 1
                try:
                    line.decode(encoding)
                except UnicodeDecodeError:
                    return f"{number:,}"
    return f"{number + 1:,}"


def _guess(text: str, name: str) -> str:
    """Guess the separator of a titles file, where commas are as likely to be part of a title."""
    line = text.lstrip().split("\n", 1)[0]
    if name.endswith((".tsv", ".tab")):
        return "\t"
    return next((mark for mark in ("::", "\t", ",", ";", "|") if mark in line), ",")
