"""Text lines of ``user item item ...``: how LightGCN's Gowalla, Yelp2018 and Amazon-Book files hold clicks.

Each line has a user and then the user's items, separated by blanks. A user may have no items, or several lines. Ids are
kept as written. Messages number lines from 1.
"""

from pathlib import Path

import numpy as np

from data_prep.columns import from_table
from data_prep.interactions import Interactions
from data_prep.readers import checked_head
from data_prep.spool import rereadable
from data_prep.streams import ByteSource, Progress
from recvae.errors import DataError
from recvae.frames.ids import Columns, not_utf8

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_OF_TABLES = (b",", b"\t", b";", b"|", b"::")  # separators of tables, of which these lines have none


def looks_like_lines(source: str | Path | ByteSource) -> bool:
    """Return whether a file holds lines of ``user item item ...``.

    It does where its first line holds none of the separators of tables (comma, tab, semicolon, bar, ``::``) and some
    line among the first holds a user and an item. Raises :class:`InputError` for a missing file and
    :class:`DataError` for one that is empty, an archive or UTF-16.
    """
    with rereadable(source) as file:
        lines = checked_head(file).removeprefix(_BYTE_ORDER_MARK).splitlines()
    first = next((line for line in lines if line.strip()), b"")
    if first.startswith(b"PAR1") or any(separator in first for separator in _OF_TABLES):
        return False
    return any(len(line.split(None, 2)) > 1 for line in lines)


def read_lines(source: str | Path | ByteSource, *, progress: Progress | None = None) -> Interactions:
    """Read clicks from lines of ``user item item ...``, UTF-8 and gzip too, in file order.

    Raises :class:`InputError` for a missing file and :class:`DataError`, naming the file and the line, for text that is
    not UTF-8, or a file without a click.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    with rereadable(source, progress) as file:
        checked_head(file)
        with file.open(progress) as stream:
            lines = stream.read().removeprefix(_BYTE_ORDER_MARK).splitlines()
    try:
        texts = pa.array(lines, type=pa.large_binary()).cast(pa.large_string())
    except pa.ArrowInvalid as error:
        raise not_utf8(file, f"line {_first_not_utf8(lines)}") from error
    words = pc.ascii_split_whitespace(pc.ascii_trim_whitespace(texts))  # one list a line; of a blank line, [""]
    words = words.filter(pc.not_equal(pc.ascii_trim_whitespace(texts), ""))
    items_of = pc.list_value_length(words).to_numpy().astype(np.int64) - 1
    if not items_of.sum():
        raise DataError(f"{file} has no clicks: no line holds a user and an item.")
    starts = np.cumsum(items_of + 1) - items_of - 1  # the place of each line's first word among all words
    all_words = pc.list_flatten(words)
    is_item = np.ones(len(all_words), dtype=bool)
    is_item[starts] = False
    users = all_words.take(pa.array(np.repeat(starts, items_of)))
    table = pa.table({"user": users, "item": all_words.filter(pa.array(is_item))})
    return from_table(table, Columns("user", "item"), str(file))


def _first_not_utf8(lines: list[bytes]) -> int:
    """Return the number, from 1, of the first line that is not UTF-8."""
    for number, line in enumerate(lines, start=1):
        try:
            line.decode()
        except UnicodeDecodeError:
            return number
    return 0
