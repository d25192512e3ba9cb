"""Figures: models compared, a training run's curves, and a search. PNG, SVG or PDF, by the file's suffix.

Matplotlib is an extra and is imported when a figure is drawn. Figures are made without pyplot, so no window system,
global state or backend is touched. Colours are Okabe & Ito's, which survive colour blindness.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval import LIST_SET
from recvae.errors import InputError
from recvae.files import Document, whole_file
from recvae.reports.results import main_metric, ranked_models
from recvae.reports.text import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_BLUE, _ORANGE, _GREEN, _PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
_GREY, _LIGHT = "#555555", "#DDDDDD"
_INTERVAL = 1.959964  # standard errors to either side of a 95 % interval
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.edgecolor": _GREY,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _GREY,
    "ytick.color": _GREY,
    "xtick.labelcolor": "black",
    "ytick.labelcolor": "black",
    "text.parse_math": False,  # a name with two dollar signs is a name
    "svg.hashsalt": "recvae",  # the same figure gives the same SVG
}


def comparison(results: Document, path: Path) -> None:
    """Draw each metric's mean with its 95 % interval for all models, one panel per metric, and write it to ``path``.

    ``results``: the shape of :mod:`recvae.reports.results`. Models are sorted by the main metric, the best on top;
    each panel has its own axis, which need not start at zero (position is read, not length), and its best model is
    coloured. A single model far below the others, which would hide their differences, is a triangle at the edge. Every
    value is printed.

    Raises :class:`~recvae.errors.InputError` where there is nothing to draw, for another suffix, or without Matplotlib.
    """
    names = ranked_models(results)
    models = [results["models"][name] for name in names]
    main = main_metric(results)
    metrics = [
        metric
        for metric in dict.fromkeys(metric for model in models for metric in model["metrics"])
        if any(_value(model, metric) is not None for model in models)
    ]
    metrics.sort(key=lambda metric: metric != main)
    if not metrics:
        raise InputError("There is nothing to draw: no model has a metric.")
    with _figure(path) as figure:
        across = min(3, len(metrics))
        down = math.ceil(len(metrics) / across)
        figure.set_size_inches(1.2 + 2.6 * across, 0.9 + down * (0.75 + 0.27 * len(names)))
        panels = figure.subplots(down, across, squeeze=False, sharey=True).ravel()
        outside = [_dots(panel, metric, models) for panel, metric in zip(panels, metrics, strict=False)]
        for panel in panels[len(metrics) :]:
            panel.set_visible(False)
        panels[0].set_yticks(range(len(names)), names)
        panels[0].set_ylim(len(names) - 0.5, -0.5)
        figure.suptitle(visible(_comparison_title(results)), x=0.01, ha="left", fontsize=11)
        note = "mean over users, with its 95 % interval (1.96 standard errors)"
        if any(outside):
            note += "; a triangle stands for a value below the axis"
        figure.supxlabel(note, fontsize=8, color=_GREY)


def training_curves(rows: Sequence[Document], path: Path, *, metric: str = "validation", title: str = "") -> None:
    """Draw a run's loss, KL divergence, KL weight and validation metric over epochs, and write it to ``path``.

    ``rows``: the objects of metrics.jsonl (:class:`recvae.training.loop.EpochReport`); curves without a value are left
    out. ``metric``: the name of the validation metric, for the axis. The best epoch is marked in every panel.

    Raises :class:`~recvae.errors.InputError` where there is nothing to draw, for another suffix, or without Matplotlib.
    """
    scores = _score_curve(rows)
    best = next((row["best_epoch"] for row in reversed(rows) if row.get("best_epoch")), None) if scores else None
    panels = [
        (label, curves)
        for label, curves in (
            ("loss (nats per user)", _phase_curves(rows, "loss")),
            ("KL divergence (nats per user)", _phase_curves(rows, "kl")),
            ("weight of the KL, β", _phase_curves(rows, "beta")),
            (metric, scores),
        )
        if curves
    ]
    if not panels:
        raise InputError("There is nothing to draw: no epoch was recorded.")
    with _figure(path) as figure:
        across = 2 if len(panels) == 4 else len(panels)
        down = math.ceil(len(panels) / across)
        figure.set_size_inches(0.6 + 3.4 * across, 0.5 + 2.2 * down)
        axes = figure.subplots(down, across, squeeze=False, sharex=True).ravel()
        for panel, (label, curves) in zip(axes, panels, strict=False):
            _lines(panel, label, curves, best)
        for panel in axes[len(panels) :]:
            panel.set_visible(False)
        for place in range(max(0, len(panels) - across), len(panels)):
            axes[place].set_xlabel("epoch")
            axes[place].tick_params(labelbottom=True)
        if best is not None:
            _mark_best(axes[len(panels) - 1], scores[0], best)
        if title:
            figure.suptitle(visible(title), x=0.01, ha="left", fontsize=11)


def search(
    trials: Sequence[Document],
    spaces: Mapping[str, Document],
    path: Path,
    *,
    metric: str = "validation",
    title: str = "",
) -> None:
    """Draw a search's trials in order with the best so far, and against each searched option, and write it to ``path``.

    ``trials``: the objects of trials.json (:class:`recvae.experiments.study.Trial`); pruned ones are pale, at the best
    score they had. ``spaces``: the searched options as in study.json. The axis of scores shows the upper half of the
    complete trials, and a triangle at its foot stands for a lower trial.

    Raises :class:`~recvae.errors.InputError` where there is nothing to draw, for another suffix, or without Matplotlib.
    """
    points = [(trial, score) for trial in trials if (score := _trial_score(trial)) is not None]
    values = sorted(trial["value"] for trial in trials if trial["value"] is not None)
    if not values:
        raise InputError("There is nothing to draw: no trial is complete.")
    best = next(trial["number"] for trial, score in points if trial["value"] == values[-1])
    middle = values[(len(values) - 1) // 2]
    reach = 1.5 * (values[-1] - middle) or 0.05 * values[-1] or 1.0
    floor = max(middle - reach, min(score for _, score in points) - 0.1 * reach)
    with _figure(path) as figure:
        across = min(3, 1 + len(spaces))
        down = math.ceil((1 + len(spaces)) / across)
        figure.set_size_inches(0.9 + 3.0 * across, 0.6 + 2.2 * down)
        first, *panels = figure.subplots(down, across, squeeze=False, sharey=True).ravel()
        first.set_ylim(floor, values[-1] + 0.08 * (values[-1] - floor))
        _points(first, [(trial["number"], trial, score) for trial, score in points], floor, best)
        _best_so_far(first, trials)
        for panel, (key, space) in zip(panels, spaces.items(), strict=False):
            places = [(_place(space, trial["settings"][key]), trial, score) for trial, score in points]
            _points(panel, [point for point in places if point[0] is not None], floor, best)
            _option_axis(panel, key, space)
        for panel in panels[len(spaces) :]:
            panel.set_visible(False)
        for row in range(down):
            figure.axes[row * across].set_ylabel(metric)
        if title:
            figure.suptitle(visible(title), x=0.01, ha="left", fontsize=11)


@contextmanager
def _figure(path: Path) -> Iterator["Figure"]:
    """Yield an empty figure; write it to ``path``, whole or not at all, when the body is done."""
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg", "pdf"):
        raise InputError(f"A figure is written as .png, .svg or .pdf, and {path} is none of these.")
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("Figures need Matplotlib. Install it with: pip install 'recvae[plot]'") from error
    with rc_context(_STYLE):
        figure = Figure(layout="constrained", facecolor="white")
        yield figure
        undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
        with whole_file(path) as temporary:
            figure.savefig(temporary, format=kind, dpi=200, metadata=undated)


# Models compared.


def _comparison_title(results: Document) -> str:
    """Return the title: dataset and number of users."""
    users = {parts.get("users") for model in results["models"].values() for parts in model["metrics"].values()}
    users.discard(None)
    counted = f"{min(users):,} users" if len(users) == 1 else ""
    return ", ".join(part for part in (str(results["dataset"].get("name") or ""), counted) if part)


def _value(model: Document, metric: str) -> float | None:
    """Return the mean of a metric, None where the model has none."""
    value = model["metrics"].get(metric, {}).get("mean")
    return None if value is None else float(value)


def _straggler(means: Sequence[float]) -> float | None:
    """Return the lowest mean if it alone would take most of the axis, else None."""
    low, *others = sorted(means)
    if len(others) < 3 or others[-1] - low < 3 * (others[-1] - others[0]):
        return None
    return low


def _dots(panel: "Axes", metric: str, models: Sequence[Document]) -> bool:
    """Draw a dot per model with error bar and value, from top to bottom; return whether one is off the axis."""
    means = [_value(model, metric) for model in models]
    present = [mean for mean in means if mean is not None]
    top, straggler = max(present), _straggler(present)
    rated = metric.partition("@")[0] not in LIST_SET  # more coverage or novelty is not better
    for row, (model, mean) in enumerate(zip(models, means, strict=True)):
        panel.axhline(row, color=_LIGHT, linewidth=0.6, zorder=0)
        if mean is None:
            continue
        best = rated and mean == top
        color = _ORANGE if best else _BLUE
        se = model["metrics"][metric].get("se")
        if mean == straggler:
            panel.plot(0.012, row, "<", color=color, markersize=5, transform=panel.get_yaxis_transform(), clip_on=False)
        else:
            reach = _INTERVAL * (se or 0.0)
            panel.plot([mean - reach, mean + reach], [row, row], color=color, linewidth=1.6, solid_capstyle="butt")
            panel.plot(mean, row, "o", color=color, markersize=4.5)
        panel.text(
            *(1.02, row),
            f"{mean:.4f}".replace("0.", ".", 1) if mean < 1 else f"{mean:.3f}",
            transform=panel.get_yaxis_transform(),
            va="center",
            fontsize=8,
            color=color if best else "black",
            fontweight="bold" if best else "normal",
        )
    panel.set_title(metric, loc="left")
    panel.spines["left"].set_visible(False)
    panel.tick_params(axis="y", length=0)
    panel.locator_params(axis="x", nbins=5)
    panel.margins(x=0.06)
    return straggler is not None


# Training curves.


def _phase_curves(rows: Sequence[Document], key: str) -> list[tuple[str, list[int], list[float]]]:
    """Return a curve (label, epochs, values) for each training phase that records ``key``."""
    names = dict.fromkeys(name for row in rows for name in row.get("phases", {}))
    curves = []
    for name in names:
        points = [
            (row["epoch"], row["phases"][name][key]) for row in rows if key in row.get("phases", {}).get(name, {})
        ]
        if points:
            curves.append((name, [epoch for epoch, _ in points], [float(value) for _, value in points]))
    return curves


def _score_curve(rows: Sequence[Document]) -> list[tuple[str, list[int], list[float]]]:
    """Return the curve of the validation metric."""
    points = [(row["epoch"], float(row["score"])) for row in rows if row.get("score") is not None]
    return [("", [epoch for epoch, _ in points], [score for _, score in points])] if points else []


def _lines(panel: "Axes", label: str, curves: Sequence[tuple[str, list[int], list[float]]], best: int | None) -> None:
    """Draw curves, named where there is more than one, and the best epoch as a thin line."""
    if best is not None:
        panel.axvline(best, color=_ORANGE, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    for color, (name, epochs, values) in zip((_BLUE, _GREEN, _PURPLE) * len(curves), curves, strict=False):
        panel.plot(
            *(epochs, values),
            color=color,
            linewidth=1.4,
            label=name,
            marker="o" if len(epochs) < 3 else None,  # a line through one point is invisible
            markersize=3,
        )
    if len(curves) > 1:
        panel.legend(frameon=False, fontsize=8)
    panel.set_title(label, loc="left")
    panel.locator_params(axis="x", integer=True)
    panel.grid(axis="y", color=_LIGHT, linewidth=0.5)
    panel.set_axisbelow(True)


def _mark_best(panel: "Axes", curve: tuple[str, list[int], list[float]], best: int) -> None:
    """Name the best epoch and its value in the panel of the validation metric."""
    _, epochs, values = curve
    if best not in epochs:
        return
    value = values[epochs.index(best)]
    panel.plot(best, value, "o", color=_ORANGE, markersize=5)
    panel.set_title(f"best: {value:.4f}, epoch {best}", loc="right", fontsize=8, color=_ORANGE)


# Searches.


def _trial_score(trial: Document) -> float | None:
    """Return a complete trial's value, else the trial's best score, or None."""
    if trial["value"] is not None:
        return float(trial["value"])
    return max((float(score) for _, score in trial["scores"]), default=None)


def _points(panel: "Axes", points: Sequence[tuple[Any, Document, float]], floor: float, best: int) -> None:
    """Draw a mark per trial: pale if not complete, a triangle if below the axis, coloured if best."""
    for place, trial, score in points:
        complete = trial["value"] is not None
        below = score < floor
        panel.plot(
            *(place, floor if below else score),
            marker="v" if below else "o",
            color=_ORANGE if trial["number"] == best else _BLUE,
            alpha=1.0 if complete else 0.3,
            markersize=5 if trial["number"] == best else 4,
            markeredgewidth=0,
            linestyle="none",
            clip_on=not below,
            zorder=3 if trial["number"] == best else 2,
        )
    panel.grid(axis="y", color=_LIGHT, linewidth=0.5)
    panel.set_axisbelow(True)


def _best_so_far(panel: "Axes", trials: Sequence[Document]) -> None:
    """Draw the best value after each trial as a line."""
    numbers, line = [], []  # type: tuple[list[int], list[float]]
    for trial in trials:
        if trial["value"] is not None:
            numbers.append(trial["number"])
            line.append(max([trial["value"], *line[-1:]]))
    if numbers:
        panel.plot(
            *([*numbers, trials[-1]["number"]], [*line, line[-1]]),
            color=_ORANGE,
            linewidth=1.2,
            drawstyle="steps-post",
            zorder=1,
        )
        panel.set_title(f"best: {line[-1]:.4f}", loc="right", fontsize=8, color=_ORANGE)
    panel.set_title("trial", loc="left")
    panel.locator_params(axis="x", integer=True)


def _place(space: Document, value: Any) -> float | None:
    """Return the place of a setting on its axis, None for a setting that the axis cannot show."""
    if "values" in space:
        return space["values"].index(value) if value in space["values"] else None
    return None if value is None or (space["log"] and value <= 0) else float(value)


def _option_axis(panel: "Axes", key: str, space: Document) -> None:
    """Set the axis of one searched option."""
    panel.set_title(key, loc="left")
    if "values" in space:
        panel.set_xticks(range(len(space["values"])), [str(value) for value in space["values"]])
        panel.set_xlim(-0.5, len(space["values"]) - 0.5)
    elif space["log"]:
        from matplotlib.ticker import LogLocator, NullFormatter

        wide = space["high"] > 50 * space["low"]
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter(NullFormatter())
