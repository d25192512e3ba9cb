"""Ranked lists as CSV or JSON lines without Arrow, with the columns of :mod:`recvae.cli.output`."""

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from recvae.arguments import need_packages
from recvae.files import JsonObject, whole_file

if TYPE_CHECKING:
    from recvae.cli.blocks import Block
    from recvae.training.vocabulary import Vocabulary

_PARTS = ("item_id", "title", "score", "rank")  # of a reason


def write_plain(path: Path, items: "Vocabulary", blocks: "Iterable[Block]", reasons: int) -> int:
    """Write ranked lists, whole or not at all, and return the number of rows; raise InputError for Parquet."""
    if path.suffix == ".parquet":
        need_packages(f"Writing {path}", "pyarrow", install="pyarrow. Or name a .csv or .jsonl file.")
    count = 0
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            for row in _rows(blocks, items):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                count += 1
            return count
        columns = ["user", "rank", "item_id", "title", "score"]
        if reasons:
            columns += ["rank_by_score", *(f"reason_{n}_{part}" for n in range(1, reasons + 1) for part in _PARTS)]
        table = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
        table.writerow(columns)
        for row in _rows(blocks, items):
            because = [value for reason in row.pop("reasons", []) for value in reason.values()]
            values = [*row.values(), *because]
            table.writerow([*values, *[None] * (len(columns) - len(values))])
            count += 1
    return count


def _rows(blocks: "Iterable[Block]", items: "Vocabulary") -> Iterator[JsonObject]:
    """Yield a row for each listed item."""
    for block in blocks:
        found = block.reasons
        for at, user in enumerate(block.users):
            for place, (item, score) in enumerate(zip(block.ids[at].tolist(), block.scores[at].tolist(), strict=True)):
                if item < 0:
                    break
                row = {"user": user, "rank": place + 1, **_named(items, item, score)}
                if found is not None:
                    parts = (found.items[at, place], found.scores[at, place], found.ranks_without[at, place])
                    row["rank_by_score"] = int(found.ranks[at, place])
                    row["reasons"] = [
                        {**_named(items, reason, value), "rank": rank}
                        for reason, value, rank in zip(*(part.tolist() for part in parts), strict=True)
                        if reason >= 0
                    ]
                yield row


def _named(items: "Vocabulary", column: int, score: float) -> JsonObject:
    return {"item_id": items.ids[column], "title": items.titles[column], "score": score}
