"""Warnings about data that can be used, and are probably not used as the user meant."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from data_prep.interactions import Codes, Ids, Interactions
from data_prep.readers import column_names
from data_prep.streams import ByteSource
from data_prep.titles import Titles
from recvae.frames.ids import CANONICAL_INTEGER
from recvae.frames.tables import Table

Warn = Callable[[str], None]
"""Called with one sentence."""

_OF_RATINGS = ("rating", "ratings", "stars", "score", "scores", "overall", "grade")


def doubts_about(
    source: ByteSource | Table,
    data: Interactions,
    columns: Sequence[str] | None,
    separator: str | None,
    rating_column: str | None,
    *,
    unused_ratings: bool,
) -> Iterator[str]:
    """Yield sentences about a table and the clicks that were read from it; arguments as of ``read_interactions``.

    ``unused_ratings``: no use is made of ratings, neither to choose clicks nor to keep them.
    """
    if columns is not None and _begins_with_header(data, columns):
        first = f"{data.user_ids[data.user[0]]!r}, {data.item_ids[data.item[0]]!r}"
        yield (
            f"The first row of {data.label} ({first}) looks like a header, and counts as a click because the columns"
            " are named: leave --columns out."
        )
    if not unused_ratings:
        return
    advice = "To keep the clicks of those who liked the item, add"
    if rating_column is not None:
        yield (
            f"The ratings in column '{rating_column}' are not used: every row is a click. {advice} --min-rating, such"
            " as 4."
        )
        return
    names = column_names(source, columns=columns, separator=separator)
    rated = next((name for name in names if name.strip().lower() in _OF_RATINGS), None)
    if rated is not None:
        yield (
            f"{data.label} has a column '{rated}', which is not used: every row is a click. {advice}"
            f" --rating-column {rated} --min-rating, such as 4."
        )


def doubts_about_titles(file: object, texts: Titles, item_ids: Ids | Sequence[str]) -> Iterator[str]:
    """Yield a sentence where a file of titles has none for the items that the filters and the split have left."""
    if not any(texts.titles.get(item) for item in item_ids):
        yield f"{file} has no title for any of the {len(item_ids):,} items of the catalogue."


def _begins_with_header(data: Interactions, columns: Sequence[str]) -> bool:
    """Return whether the first row has a column's name, or words where all other rows have numbers."""
    names = {name.strip().lower() for name in columns}
    first = data.user_ids[data.user[0]], data.item_ids[data.item[0]]
    if any(text.strip().lower() in names for text in first):
        return True
    return _first_alone_is_no_number(data.user, data.user_ids) and _first_alone_is_no_number(data.item, data.item_ids)


def _first_alone_is_no_number(codes: Codes, ids: Ids) -> bool:
    number = CANONICAL_INTEGER.fullmatch
    if number(ids[codes[0]]):
        return False
    rest = ids[np.bincount(codes[1:], minlength=len(ids)) > 0]
    return bool(rest.size) and all(map(number, rest))
