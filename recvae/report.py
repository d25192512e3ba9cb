"""Results as data and as tables: the one shape of results.json, written, read, and shown.

    {"models": {NAME: {"metrics": {"ndcg@100": {"mean", "se", "users"}}, "left_out", "train_seconds", "rank_seconds",
                       "peak_memory_mb", "config", "versus_best": {"metric", "difference", "low", "high", "p", ...}}},
     "dataset": {...}, "environment": {...}}

A field that was not measured is absent, a number that is not defined is null. ``versus_best`` is the paired difference
to the model that is best in the main metric, on the same users, with its 95 % bootstrap interval
(:func:`eval.significance.compare`); the best model has none. Nothing here prints or imports torch.
"""

import math
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval import LIST_SET, Evaluation, compare
from recvae.errors import FormatError, InputError
from recvae.files import read_json, write_json

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "ModelResult",
    "caption",
    "environment",
    "main_metric",
    "markdown_table",
    "ranked_models",
    "read_results",
    "results",
    "rich_table",
    "write_results",
]

MAIN_METRIC = "ndcg@100"  # the papers select and compare models by it

_PACKAGES = ("recvae", "torch", "numpy", "scipy", "pandas", "pyarrow", "implicit", "threadpoolctl")


@dataclass(frozen=True)
class ModelResult:
    """What one model gave: its evaluation, and what it cost.

    ``train_seconds``: wall time of fitting; ``peak_memory_mb``: peak resident memory of the process, in 10^6 bytes;
    ``rank_seconds``: where absent, the evaluation's; ``config``: JSON values. None means not measured.
    """

    evaluation: Evaluation
    train_seconds: float | None = None
    rank_seconds: float | None = None
    peak_memory_mb: float | None = None
    config: Mapping[str, Any] = field(default_factory=dict)


def results(
    models: Mapping[str, ModelResult],
    dataset: Mapping[str, Any],
    environment: Mapping[str, Any],
    *,
    metric: str = MAIN_METRIC,
) -> dict[str, Any]:
    """Return the results shape for ``models`` by name, in the order given.

    ``metric`` is the main metric, by which the best model is found and ``versus_best`` is measured; where no model has
    it, the first metric with a value per user. Raises :class:`~recvae.errors.InputError` where there is no model, or
    where two models were evaluated on different users.
    """
    if not models:
        raise InputError("There are no results: name at least one model.")
    shapes = {name: _model_shape(model) for name, model in models.items()}
    arrays = {name: model.evaluation.per_user for name, model in models.items()}
    if not any(metric in values for values in arrays.values()):
        metric = next((other for values in arrays.values() for other in values), metric)
    means = {name: _mean(shapes[name], metric) for name in shapes}
    best = max(shapes, key=lambda name: means[name])
    for name in shapes:
        if name != best and math.isfinite(means[name]):
            versus = compare(arrays[name][metric], arrays[best][metric])
            shapes[name]["versus_best"] = {"metric": metric, **versus.to_dict()}
    return {"models": shapes, "dataset": dict(dataset), "environment": dict(environment)}


def _model_shape(model: ModelResult) -> dict[str, Any]:
    """One model's part of the results shape, without the comparison."""
    evaluation = model.evaluation.to_dict()
    fields = {
        "metrics": evaluation["metrics"],
        "left_out": evaluation["left_out"],
        "train_seconds": model.train_seconds,
        "rank_seconds": evaluation["rank_seconds"] if model.rank_seconds is None else model.rank_seconds,
        "peak_memory_mb": model.peak_memory_mb,
        "config": dict(model.config),
    }
    return {key: value for key, value in fields.items() if value is not None}


def write_results(path: Path, value: Mapping[str, Any]) -> None:
    """Write results.json, whole or not at all."""
    write_json(path, value)


def read_results(path: Path) -> dict[str, Any]:
    """Read results.json; raise :class:`~recvae.errors.FormatError` where it is missing or has another shape."""
    value = read_json(path)
    wrong = _shape_mistake(value)
    if wrong:
        raise FormatError(f"{path} is not a results file: {wrong}. Make it with 'recvae benchmark' or 'evaluate'.")
    checked: dict[str, Any] = value
    return checked


def _shape_mistake(value: Any) -> str:
    """Say what is wrong with the results shape; empty where nothing is."""
    if not isinstance(value, dict):
        return "it holds no JSON object"
    for key in ("models", "dataset", "environment"):
        if not isinstance(value.get(key), dict):
            return f"'{key}' is missing or no object"
    if not value["models"]:
        return "it has no models"
    for name, model in value["models"].items():
        metrics = model.get("metrics") if isinstance(model, dict) else None
        if not isinstance(metrics, dict):
            return f"model '{name}' has no metrics"
        for metric, parts in metrics.items():
            if not isinstance(parts, dict) or not all(_number_or_none(parts.get(key)) for key in ("mean", "se")):
                return f"metric '{metric}' of model '{name}' has no mean and se"
        versus = model.get("versus_best")
        if versus is not None and (
            not isinstance(versus, dict)
            or not isinstance(versus.get("metric"), str)
            or not all(_number_or_none(versus.get(key)) for key in ("difference", "low", "high", "p"))
        ):
            return f"'versus_best' of model '{name}' is not a comparison"
        for key in ("train_seconds", "rank_seconds", "peak_memory_mb"):
            if not _number_or_none(model.get(key)):
                return f"'{key}' of model '{name}' is not a number"
    return ""


def _number_or_none(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value))


def main_metric(results: Mapping[str, Any]) -> str:
    """Return the metric that models are sorted by: the one compared in, else ndcg@100, else the first there is."""
    models = results["models"].values()
    compared = [model["versus_best"]["metric"] for model in models if model.get("versus_best")]
    names = [name for model in models for name in model["metrics"]]
    return str(next(iter(compared), MAIN_METRIC if MAIN_METRIC in names or not names else names[0]))


def ranked_models(results: Mapping[str, Any]) -> list[str]:
    """Return the models' names, the best in the main metric first, those without it last."""
    metric = main_metric(results)
    return sorted(results["models"], key=lambda name: -_mean(results["models"][name], metric))


def _mean(model: Mapping[str, Any], metric: str) -> float:
    """The mean of a metric, -inf where the model has none."""
    mean = model["metrics"].get(metric, {}).get("mean")
    return -math.inf if mean is None else float(mean)


# Tables.


@dataclass(frozen=True)
class _Column:
    """A column of a table: a heading and, for each model, up to two lines; ``best`` marks cells to be shown bold."""

    heading: tuple[str, str]
    cells: list[tuple[str, str]]
    best: list[bool]

    def name(self) -> str:
        """The heading in one line."""
        return " ".join(self.heading).replace(" @", "@").strip()

    def headings(self) -> list[str]:
        """The heading in short lines."""
        first, second = self.heading
        return [*first.replace(" less", "\nless").split("\n"), second]


def _columns(results: Mapping[str, Any]) -> list[_Column]:
    """The columns for which any model has a value, after the one with the names."""
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


def _metric_column(metric: str, models: Sequence[Mapping[str, Any]]) -> _Column:
    """Mean and standard error; the highest mean is the best, except where more is not better (coverage, rmse)."""
    means = [_mean(model, metric) for model in models]
    name, _, k = metric.partition("@")
    top = max(means) if k and name not in LIST_SET else math.nan
    cells = []
    for model in models:
        parts = model["metrics"].get(metric, {})
        se = parts.get("se")
        cells.append((_share(parts.get("mean")), "" if se is None else f"±{_share(se)}"))
    return _Column((name, f"@{k}" if k else ""), cells, [mean == top and math.isfinite(mean) for mean in means])


def _difference(versus: Mapping[str, Any] | None) -> tuple[str, str]:
    """The paired difference to the best and its interval."""
    if versus is None:
        return "best", ""
    if versus.get("low") is None or versus.get("high") is None:
        return _share(versus.get("difference")), ""
    return _share(versus.get("difference")), f"[{_share(versus['low'])}, {_share(versus['high'])}]"


def _share(value: float | None) -> str:
    """A metric as the papers print it: four decimals, no zero before the point."""
    if value is None:
        return ""
    text = f"{round(value, 4) + 0.0:.4f}"  # + 0.0 turns -0.0 into 0.0
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def _amount(value: float | None) -> str:
    """Seconds or megabytes, three digits or more."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def caption(results: Mapping[str, Any]) -> str:
    """Return a line that says what the numbers of the tables are."""
    users = {
        parts.get("users")
        for model in results["models"].values()
        for metric, parts in model["metrics"].items()
        if metric.partition("@")[0] not in LIST_SET
    }
    count = f" over {users.pop():,} users" if len(users) == 1 and None not in users else ""
    dataset = results["dataset"].get("name")
    parts = [f"{dataset}." if dataset else "", f"± is the standard error{count}."]
    if any(model.get("versus_best") for model in results["models"].values()):
        parts.append("Differences are paired, user by user; in brackets the 95 % bootstrap interval.")
    return " ".join(part for part in parts if part)


def markdown_table(results: Mapping[str, Any]) -> str:
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


def rich_table(results: Mapping[str, Any], *, width: int | None = None) -> "Table":
    """Return the results as a :class:`rich.table.Table`: as :func:`markdown_table`, with errors on a second line.

    Six models with three metrics and all costs take 77 characters. Where ``width``, the console's, is given and too
    small, columns are left out from the right, which the caption then says; the main metric always stays.
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
    """How many columns fit beside names of that length: three spaces, and two a column."""
    taken = names + 3
    for place, column in enumerate(columns):
        taken += 2 + max(len(line) for lines in (column.headings(), *column.cells) for line in lines)
        if width is not None and taken > width:
            return max(1, place)
    return len(columns)


# The machine.


def environment() -> dict[str, Any]:
    """Return what a timing depends on: date, Python, platform, CPU, cores, memory, versions of packages.

    ``date`` is UTC, ISO 8601; ``cores`` those this process may use; ``threads`` torch's number, where
    it is loaded; ``memory_gb`` in 10^9 bytes, None where the system does not say. Nothing is imported to learn its
    version; a package that is not installed is left out.
    """
    torch = sys.modules.get("torch")
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": _cores(),
        "memory_gb": _memory_gb(),
        **({} if torch is None else {"threads": torch.get_num_threads()}),
        "versions": versions,
    }


def _cpu_name() -> str:
    """The CPU's name for people: Linux keeps it in a file, elsewhere Python knows it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _cores() -> int:
    """Cores this process may use, where the system says so, else all."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_gb() -> float | None:
    """Physical memory in 10^9 bytes."""
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return None
    return round(size / 1e9, 1)
