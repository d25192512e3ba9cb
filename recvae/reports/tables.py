"""Results as tables, in Markdown and for the terminal. The shape of results.json:

    {"models": {NAME: {"metrics": {"ndcg@100": {"mean", "se", "users"}}, "left_out", "train_seconds", "rank_seconds",
                       "peak_memory_mb", "config", "versus_best": {"metric", "difference", "low", "high", "p", ...}}},
     "dataset": {...}, "environment": {...}}

A field that was not measured is absent, an undefined number is null. ``versus_best`` is the paired difference from the
best model in the main metric, on the same users, with its 95 % bootstrap interval
(:func:`eval.significance.compare`); the best model has none. Nothing here prints or imports torch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eval import LIST_SET
from recvae.files import Document

if TYPE_CHECKING:
    from rich.table import Table
from recvae.reports.results import _mean, main_metric, ranked_models


@dataclass(frozen=True)
class _Column:
    """A column of a table: a heading and, for each model, up to two lines; ``best`` marks cells to be shown bold."""

    heading: tuple[str, str]
    cells: list[tuple[str, str]]
    best: list[bool]

    def name(self) -> str:
        """Return the heading in one line."""
        return " ".join(self.heading).replace(" @", "@").strip()

    def headings(self) -> list[str]:
        """Return the heading in short lines."""
        first, second = self.heading
        return [*first.replace(" less", "\nless").split("\n"), second]


def _columns(results: Document) -> list[_Column]:
    """Return the columns in which some model has a value; the column of names is not among them."""
    names = ranked_models(results)
    models = [results["models"][name] for name in names]
    metrics = list(dict.fromkeys(metric for model in models for metric in model["metrics"]))
    main = main_metric(results)
    columns = [_metric_column(metric, models) for metric in sorted(metrics, key=lambda metric: metric != main)]
    if any(model.get("versus_best") for model in models):
        cells = [_difference(model.get("versus_best")) for model in models]
        columns.append(_Column((f"{main} less the best", "[95 %]"), cells, [False] * len(models)))
    for key, heading in (
        ("train_seconds", ("train", "s")),
        ("rank_seconds", ("rank", "s")),
        ("peak_memory_mb", ("peak", "MB")),
    ):
        if any(model.get(key) is not None for model in models):
            columns.append(_Column(heading, [(_amount(model.get(key)), "") for model in models], [False] * len(models)))
    return columns


def _metric_column(metric: str, models: Sequence[Document]) -> _Column:
    """Return the column of mean and standard error; the highest mean is best, but for coverage, novelty and errors."""
    means = [_mean(model, metric) for model in models]
    name, _, k = metric.partition("@")
    top = max(means) if k and name not in LIST_SET else math.nan
    cells = []
    for model in models:
        parts = model["metrics"].get(metric, {})
        se = parts.get("se")
        cells.append((_share(parts.get("mean")), "" if se is None else f"±{_share(se)}"))
    return _Column((name, f"@{k}" if k else ""), cells, [mean == top and math.isfinite(mean) for mean in means])


def _difference(versus: Document | None) -> tuple[str, str]:
    """Return the paired difference from the best model, and its interval."""
    if versus is None:
        return "best", ""
    if versus.get("low") is None or versus.get("high") is None:
        return _share(versus.get("difference")), ""
    return _share(versus.get("difference")), f"[{_share(versus['low'])}, {_share(versus['high'])}]"


def _share(value: float | None) -> str:
    """Return a metric as the papers print it: four decimals, no zero before the point."""
    if value is None:
        return ""
    text = f"{round(value, 4) + 0.0:.4f}"  # + 0.0 turns -0.0 into 0.0
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def _amount(value: float | None) -> str:
    """Return seconds or megabytes with about three digits."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def caption(results: Document) -> str:
    """Return a line that explains the numbers of the tables."""
    users = {
        parts.get("users")
        for model in results["models"].values()
        for metric, parts in model["metrics"].items()
        if metric.partition("@")[0] not in LIST_SET
    }
    counted = results.get("counted", "users")
    count = f" over {users.pop():,} {counted}" if len(users) == 1 and None not in users else ""
    dataset = results["dataset"].get("name")
    parts = [f"{dataset}." if dataset else "", f"± is the standard error{count}."]
    if any(model.get("versus_best") for model in results["models"].values()):
        parts.append("Differences are paired, user by user; in brackets the 95 % bootstrap interval.")
    return " ".join(part for part in parts if part)


def markdown_table(results: Document) -> str:
    """Return the results as a Markdown table with a caption, models by the main metric, the best values bold.

    Columns that no model has a value for are left out; a cell without a value is empty.
    """
    columns = _columns(results)
    heads = ["model", *(column.name() for column in columns)]
    lines = [" | ".join(heads), " | ".join([":---", *["---:"] * len(columns)])]
    for row, name in enumerate(ranked_models(results)):
        cells = [name.replace("|", "\\|")]
        for column in columns:
            first, second = column.cells[row]
            first = f"**{first}**" if column.best[row] else first
            cells.append(f"{first} {second}".strip())
        lines.append(" | ".join(cells))
    table = "\n".join(f"| {line} |" for line in lines)
    return f"{table}\n\n{caption(results)}\n"


def rich_table(results: Document, *, width: int | None = None) -> "Table":
    """Return the results as a :class:`rich.table.Table`: as :func:`markdown_table`, with errors on a second line.

    Six models with three metrics and all costs take 77 characters. Columns that do not fit the console's ``width``
    are left out from the right and named in the caption; the main metric always stays.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    names = ranked_models(results)
    columns = _columns(results)
    fitting = _fitting(columns, max(map(len, ["model", *names])), width)
    left_out = ", ".join(column.name() for column in columns[fitting:])
    table = Table(
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        caption=Text(caption(results) + (f" No room for: {left_out}." if left_out else "")),
        caption_justify="left",
    )
    table.add_column("model", overflow="fold")
    for column in columns[:fitting]:
        table.add_column("\n".join(column.headings()), justify="right", no_wrap=True)
    for row, name in enumerate(names):
        cells = [Text(name)]
        for column in columns[:fitting]:
            first, second = column.cells[row]
            cell = Text(first, style="bold" if column.best[row] else "")
            cells.append(cell.append(f"\n{second}", style="not bold dim") if second else cell)
        table.add_row(*cells)
    return table


def _fitting(columns: Sequence[_Column], names: int, width: int | None) -> int:
    """Return the number of columns that fit beside names of this length."""
    taken = names + 3
    for place, column in enumerate(columns):
        taken += 2 + max(len(line) for lines in (column.headings(), *column.cells) for line in lines)
        if width is not None and taken > width:
            return max(1, place)
    return len(columns)
