"""The column of an item from a user's text: an id, a title or a part of a title."""

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from recvae.cli.wording import ordinal
from recvae.errors import InputError, did_you_mean, nearest
from recvae.files import Document, JsonObject
from recvae.serving.search import plain_title

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.table import Table

    from recvae.queries import Reasons
    from recvae.serving.model import Model

_LEADING = re.compile(r"^(the|a|an|les?|la|das|der|die|el|il)\s+")
_NAMED = 4  # candidates or unknown items named in a sentence


def _bare(title: str) -> str:
    """Return a title without its article: ``Matrix, The (1999)`` becomes ``matrix``."""
    return _LEADING.sub("", plain_title(title))


def find_item(model: "Model", asked: str) -> int | None:
    """Return the column of an id or title, or None where there is none.

    Compared in turn until something matches: the id; the title; the title in any case; without its year; its beginning;
    a part of it (the last two not for a number, which is an unknown id). Raises :class:`InputError` where several items
    match.
    """
    if asked in model.items.columns:
        return model.items.columns[asked]
    titles = model.items.titles
    wanted, plain = asked.casefold().strip(), plain_title(asked)
    ways: Sequence[Callable[[str], bool]] = (
        lambda title: title == asked,
        lambda title: title.casefold() == wanted,
        lambda title: plain_title(title) == plain,
        lambda title: title.casefold().startswith(wanted) or plain_title(title).startswith(plain),
        lambda title: wanted in title.casefold() or plain in plain_title(title),
    )
    if not plain:
        return None
    for fits in ways[:3] if asked.isdigit() else ways:
        found = [column for column, title in enumerate(titles) if title and fits(title)]
        if len(found) == 1:
            return found[0]
        if found:
            names = [f"'{titles[column]}' (id {model.items.ids[column]})" for column in found]
            raise InputError(f"'{asked}' could be {listed(names)}. Give the id, or more of the title.")
    return None


def find_items(model: "Model", asked: Sequence[str]) -> tuple[list[int], list[str]]:
    """Return the columns of ids or titles, each once, and the unknown ones."""
    columns: dict[int, None] = {}
    unknown = []
    for text in asked:
        column = find_item(model, text)
        if column is None:
            unknown.append(text)
        else:
            columns[column] = None
    return list(columns), unknown


def unknown_items(model: "Model", unknown: Sequence[str]) -> str:
    """Return the sentence about items that the model does not know."""
    names = listed([f"'{name}'" for name in unknown])
    what = "This item is" if len(unknown) == 1 else f"These {len(unknown):,} items are"
    return f"{what} not in the model's catalogue: {names}.{suggestion(model, unknown[0])}"


def suggestion(model: "Model", asked: str) -> str:
    """Return a question with the nearest title, whatever its case, year and article, else with the nearest id."""
    titles = {_bare(title): title for title in reversed(model.items.titles) if title}  # the first of equal ones is kept
    return nearest(_bare(asked), titles) or did_you_mean(asked, model.items.ids)


def nearest_id(model: "Model", asked: str) -> str:
    """Return a question with the id of the nearest title, else with the nearest id."""
    pairs = zip(model.items.titles, model.items.ids, strict=True)
    titles = {_bare(title): item for title, item in reversed([*pairs]) if title}  # of equals the first
    return nearest(_bare(asked), titles) or did_you_mean(asked, model.items.ids)


def listed(names: Sequence[str]) -> str:
    """Return names for a sentence, cut where there are many."""
    if len(names) <= _NAMED:
        return ", ".join(names)
    return f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED:,} more"


def item_rows(
    model: "Model",
    ids: "NDArray[np.int32]",
    scores: "NDArray[np.float32]",
    reasons: "Reasons | None" = None,
    user: int = 0,
) -> list[JsonObject]:
    """Return one ranked list, padding left out, as plain values: rank, item_id, title, score.

    With ``reasons`` of several lists, of which this one is that of row ``user``, rank_by_score and reasons too.
    """
    rows: list[JsonObject] = [
        {"rank": rank, **_named(model, i), "score": round(float(score), 6)}
        for rank, (i, score) in enumerate(zip(ids, scores, strict=True), start=1)
        if i >= 0
    ]
    if reasons is not None:
        for place, row in enumerate(rows):
            row["rank_by_score"] = int(reasons.ranks[user, place])
            of_item = (part[user, place] for part in (reasons.items, reasons.scores, reasons.ranks_without))
            row["reasons"] = [
                {**_named(model, i), "score": round(float(score), 6), "rank": int(rank)}
                for i, score, rank in zip(*of_item, strict=True)
                if i >= 0
            ]
    return rows


def _named(model: "Model", column: int) -> JsonObject:
    return {"item_id": model.items.ids[column], "title": model.items.titles[column]}


def items_table(rows: Sequence[Document], score: str = "score") -> "Table":
    """Return a ranked list for the terminal, reasons below their item; without titles the column is left out."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    titled = any(row["title"] for row in rows)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name, justify in (("", "right"), ("title", "left"), ("id", "left"), (score, "right")):
        if name != "title" or titled:
            table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]  # rich has a type for the three words
    under = 1 if titled else 2  # the cell under which the reasons stand
    for row in rows:
        cells = [str(row["rank"]), row["title"], row["item_id"], f"{row['score']:.3f}"]
        texts = [Text(cell) for cell in cells]
        for reason in row.get("reasons", ()):
            places = f"{ordinal(row['rank_by_score'])} with it, {ordinal(reason['rank'])} without"
            texts[under].append(f"\nbecause of {reason['title'] or reason['item_id']}: {places}", style="dim")
        table.add_row(*(text for place, text in enumerate(texts) if place != 1 or titled))
    return table
