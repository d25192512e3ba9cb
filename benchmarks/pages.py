"""Fill the tables of docs/ from the records in benchmarks/results: python -m benchmarks.pages

A page holds its prose, and each table between two comments, ``<!-- table: NAME -->`` and ``<!-- end -->``, each on a
line of its own; the lines between are made here and nowhere else. A test checks that the committed pages are as made.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.accuracy import backtest_tables
from benchmarks.accuracy import tables as accuracy
from benchmarks.harness import DOCS, RESULTS
from benchmarks.speed import tables as speed
from recvae.errors import InputError
from recvae.files import read_json, write_text

MARKED = re.compile(r"(?<=<!-- table: )(.+?)( -->\n).*?(?=^<!-- end -->$)", re.DOTALL | re.MULTILINE)
Lines = list[str]
TABLES: dict[str, tuple[str, Callable[..., Lines]]] = {  # by a name's first word: the record, and the lines of the rest
    "speed": ("{0}", speed.section),
    "load": ("{0}", speed.load),
    "exported": ("{0}", speed.exported),
    "soak": ("{0}", speed.soak),
    "machine": ("{0}", speed.usual_machine),
    "study": ("study-{0}", accuracy.study),
    "family": ("family-{0}", accuracy.family),
    "conditional": ("conditional", accuracy.conditional),
    "defaults": ("defaults", accuracy.defaults),
    "rules": ("rules", accuracy.rules),
    "exports": ("exports", accuracy.exports),
    "imputation": ("imputation", accuracy.imputation),
    "warm-start": ("warm-start", accuracy.warm_start),
    "backtest": ("backtest", backtest_tables.backtest),
}


def filled(text: str, results: Path = RESULTS) -> str:
    """Return a page with every table made again; raise :class:`InputError` for a name that stands for none."""

    def made(match: re.Match[str]) -> str:
        kind, *words = match[1].split()
        if kind not in TABLES:
            raise InputError(f"There is no table '{match[1]}'; the first word is one of {', '.join(TABLES)}.")
        record, lines = TABLES[kind]
        file = results / f"{record.format(*words)}.json"
        rows = lines(read_json(file), *words) if file.is_file() else ["No run is recorded yet."]
        return match[1] + match[2] + "".join(f"{row}\n" for row in ("", *rows, ""))

    return MARKED.sub(made, text)


def pages(docs: Path = DOCS) -> list[Path]:
    """Return the pages that have tables."""
    return [page for page in sorted(docs.rglob("*.md")) if MARKED.search(page.read_text(encoding="utf-8"))]


def fill_pages(docs: Path = DOCS, results: Path = RESULTS) -> list[str]:
    """Write the pages that change, and then the pictures on them; return their names."""
    changed = []
    for page in pages(docs):
        before = page.read_text(encoding="utf-8")
        after = filled(before, results)
        if after != before:
            write_text(page, after)
            changed.append(page.name)
            for name in dict.fromkeys(re.findall(r"\(results/(study-.+?)\.png\)", after)):
                told: Any = read_json(results / f"{name}.json")
                accuracy.forest(told, page.parent / "results" / f"{name}.png")
    return changed


if __name__ == "__main__":
    print(f"pages that changed: {', '.join(fill_pages()) or 'none'}")
