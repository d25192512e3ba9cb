"""A backtest as one HTML page that loads nothing else: curves over time and over clicks seen, tables, the numbers.

The page is of the same make as that of ``recvae diagnose`` (:mod:`recvae.reports.html_parts`); the numbers are those of
:mod:`recvae.experiments.backtest_results`.
"""

from collections.abc import Sequence

from recvae.files import Document
from recvae.reports.html_parts import charts_of, document, folded, table_of
from recvae.reports.results import main_metric, ranked_models
from recvae.reports.svg import Line, line_chart
from recvae.reports.text import in_html as escape

_STYLES = ("c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7")
_MORE = """
:root { --c5: #5a4fcf; --c6: #b3261e; --c7: #4a6572; }
@media (prefers-color-scheme: dark) { :root { --c5: #a79cff; --c6: #ff8a80; --c7: #9db4c0; } }
.c5 { fill: var(--c5); } .c6 { fill: var(--c6); } .c7 { fill: var(--c7); }
.line.c4 { stroke: var(--c4); } .line.c5 { stroke: var(--c5); } .line.c6 { stroke: var(--c6); }
.line.c7 { stroke: var(--c7); } .line { fill: none; }
.charts { grid-template-columns: 1fr; }
"""
_SIZE = (760, 300)


def page(found: Document) -> str:
    """Return the page of a backtest's outcome."""
    metric = main_metric(found)
    names = ranked_models(found)
    sections = [
        ("models", "The models", _models(found, names)),
        ("time", "Over time", _over_time(found, names, metric)),
        ("seen", "By clicks seen", _by_clicks(found, names, metric)),
        ("fits", "Fits", _fits(found, names)),
        ("settings", "Settings", _settings(found)),
    ]
    links = "".join(f'<a href="#{key}">{escape(title)}</a>' for key, title, _ in sections)
    bodies = "".join(f'<section id="{key}"><h2>{escape(title)}</h2>{body}</section>' for key, title, body in sections)
    name = f"Backtest of {len(names)} models on {found['dataset']['name']}"
    return document(name, f"{_summary(found)}<nav>{links}</nav>{bodies}", "backtest", found, style=_MORE)


def _summary(found: Document) -> str:
    windows = found["windows"]
    asked = sum(window["questions"] for window in windows)
    clicks = sum(window["clicks"] for window in windows)
    unknown = sum(window["clicks_on_unknown_items"] for window in windows)
    return (
        f"<p>{asked:,} questions in {len(windows):,} windows from {escape(windows[0]['from'])} on: before a user's "
        "clicks at one time, each model ranks from the user's earlier clicks, and those clicks are to be found. Of the "
        f"{clicks:,} clicks, {unknown:,} ({unknown / max(1, clicks):.1%}) are on items that the models had not learned "
        "yet; they count as not found.</p>"
    )


def _models(found: Document, names: Sequence[str]) -> str:
    metrics = list(found["models"][names[0]]["metrics"])
    rows = []
    for name in names:
        model = found["models"][name]
        versus = model.get("versus_best")
        told = "best" if versus is None else _difference(versus)
        rows.append((name, *(_share(model["metrics"][key]) for key in metrics), told, f"{model['train_seconds']:,.1f}"))
    return table_of(
        "Means over the questions. ± is one standard error, by user. The difference from the best model is paired, and "
        "its 95 % interval is a bootstrap of the users.",
        ("model", *metrics, f"{main_metric(found)} less the best", "training, s"),
        rows,
    )


def _over_time(found: Document, names: Sequence[str], metric: str) -> str:
    windows = found["windows"]
    there = [place for place, window in enumerate(windows) if window["questions"]]
    lines = [
        Line(
            name,
            [place + 1 for place in there],
            [_of(found, name, "windows", place, metric) for place in there],
            (),
            style,
        )
        for style, name in _styled(names)
    ]
    chart = line_chart(f"{metric} in each window", lines, x_label="window", from_zero=True, size=_SIZE)
    rows = [
        (
            str(place + 1),
            windows[place]["from"],
            f"{windows[place]['questions']:,}",
            f"{windows[place]['users']:,}",
            f"{windows[place]['first_questions']:,}",
            f"{windows[place]['clicks_on_unknown_items'] / max(1, windows[place]['clicks']):.1%}",
            *(f"{_of(found, name, 'windows', place, metric):.4f}" for name in names),
        )
        for place in there
    ]
    heads = ("window", "from", "questions", "users", "without a history", "clicks on new items", *names)
    return charts_of([chart]) + folded("Every window", table_of(f"{metric} of each model.", heads, rows))


def _by_clicks(found: Document, names: Sequence[str], metric: str) -> str:
    groups = found["clicks_seen"]
    there = [place for place, group in enumerate(groups) if group["questions"]]
    lines = [
        Line(
            name,
            [groups[place]["least"] + 1 for place in there],
            [_of(found, name, "by_clicks_seen", place, metric) for place in there],
            (),
            style,
        )
        for style, name in _styled(names)
    ]
    label = "the user's click that is asked for, from this one on"
    chart = line_chart(f"{metric} by clicks seen", lines, x_label=label, log_x=True, from_zero=True, size=_SIZE)
    rows = [
        (
            _seen(groups[place]),
            f"{groups[place]['questions']:,}",
            *(f"{_of(found, name, 'by_clicks_seen', place, metric):.4f}" for name in names),
        )
        for place in there
    ]
    return charts_of([chart]) + table_of(f"{metric} of each model.", ("clicks seen", "questions", *names), rows)


def _fits(found: Document, names: Sequence[str]) -> str:
    windows = found["windows"]
    begins = {window["fit"]: window["from"] for window in reversed(windows)}
    rows = [
        (
            name,
            begins[fit["fit"]],
            "previous fit" if fit["warm"] else "nothing",
            f"{fit['users']:,}",
            f"{fit['items']:,}",
            f"{fit['clicks']:,}",
            "" if fit["best_epoch"] is None else str(fit["best_epoch"]),
            f"{fit['seconds']:,.1f}",
        )
        for name in names
        for fit in found["models"][name]["fits"]
    ]
    heads = ("model", "at", "starts from", "users", "items", "clicks", "best epoch", "seconds")
    return folded("Every fit", table_of("Each model was trained on the clicks before its fit.", heads, rows))


def _settings(found: Document) -> str:
    machine = found["environment"]
    sources = "; ".join(f"{name}: {model['config_from']}" for name, model in found["models"].items())
    return (
        f"<p>{escape(sources)}. {escape(machine['date'].replace('T', ' '))}; Python {escape(machine['python'])}.</p>"
        "<p>All numbers are in this file as JSON, in the script element with the id “backtest”.</p>"
    )


def _styled(names: Sequence[str]) -> list[tuple[str, str]]:
    return [(_STYLES[place % len(_STYLES)], name) for place, name in enumerate(names)]


def _of(found: Document, name: str, part: str, place: int, metric: str) -> float:
    value = found["models"][name][part][place][metric]["mean"]
    return 0.0 if value is None else float(value)


def _seen(group: Document) -> str:
    least, most = group["least"], group["most"]
    return f"{least} or more" if most is None else str(least) if least == most else f"{least} to {most}"


def _share(metric: Document) -> str:
    return f"{metric['mean']:.4f}" + ("" if metric["se"] is None else f" ± {metric['se']:.4f}")


def _difference(versus: Document) -> str:
    if versus["low"] is None:
        return f"{versus['difference']:.4f}"
    return f"{versus['difference']:.4f} [{versus['low']:.4f}, {versus['high']:.4f}]"
