"""A diagnosis as one HTML page that loads nothing else: tables, charts, and the numbers as JSON.

The page has no script, is read in light and in dark, on paper and by keyboard (tables fold with ``<details>``), and
every title in it is escaped. The numbers are those of :mod:`recvae.experiments.diagnose`.
"""

from collections.abc import Sequence

from recvae.files import Document
from recvae.registry import entry
from recvae.reports import item_map
from recvae.reports.collapse import thresholds
from recvae.reports.html_parts import charts_of, document, folded, table_of
from recvae.reports.svg import Bar, Line, bar_chart, line_chart, scatter
from recvae.reports.text import in_html as escape

_SMALL = 0.02  # nats: the least height of an axis, so that the bars of a collapsed code look small
_STYLES = ("c0", "c2", "c3", "c1")
_INTERVAL = 1.959964  # standard errors to either side of a 95 % interval


def page(diagnosis: Document) -> str:
    """Return the page of a diagnosis that also has the entries run, dataset and environment."""
    name = f"{entry(diagnosis['model']).title} on {diagnosis['dataset']['name']}"
    sections = [
        ("training", "Training", _training(diagnosis["training"], diagnosis["validation_metric"])),
        ("code", "The code", _latent(diagnosis["latent"])),
        ("likelihood", "How likely the clicks are", _likelihood(diagnosis["likelihood"])),
        ("recall", "Who is ranked for well, and which items are found", _recall(diagnosis["recall"])),
        ("map", "A map of the items", _map(diagnosis["items"])),
        ("numbers", "Settings and numbers", _numbers(diagnosis)),
    ]
    there = [(key, title, body) for key, title, body in sections if body]
    links = "".join(f'<a href="#{key}">{escape(title)}</a>' for key, title, _ in there)
    bodies = "".join(f'<section id="{key}"><h2>{escape(title)}</h2>{body}</section>' for key, title, body in there)
    notes = "".join(f'<p class="quiet">{escape(note)}</p>' for note in diagnosis["notes"])
    return document(name, f"{_verdict(diagnosis['latent'])}{notes}<nav>{links}</nav>{bodies}", "diagnosis", diagnosis)


def reliability(likelihood: Document) -> str:
    """Return a sentence on the reliability of the estimate of log p(x)."""
    median, samples = likelihood["effective_samples"]["median"], likelihood["samples"]
    said = f"Half of the users have fewer than {median:,.1f} effective samples of {samples:,}"
    if median < 10:
        return (
            f"{said}: a few samples decide, so log p(x) is likely higher than the estimate, and its Monte Carlo error "
            "is understated. Take it for a lower bound."
        )
    return f"{said}."


# --- sections --------------------------------------------------------------------------------------------------------


def _verdict(latent: Document | None) -> str:
    if latent is None:
        return ""
    verdict = latent["verdict"]
    kind = verdict["state"].split()[0]
    return (
        f'<div class="verdict {kind}"><p><strong>{escape(verdict["sentence"])}</strong></p>'
        f'<p class="quiet">{escape(thresholds(verdict))}</p></div>'
    )


def _training(rows: Sequence[Document], metric: str | None) -> str:
    if not rows:
        return ""
    best = next((row["epoch"] for row in rows if row["best"]), None)
    charts = []
    for key, title, from_zero in (
        ("nll", "reconstruction (nll), nats per user", False),
        ("kl", "KL, nats per user", True),
        ("weighted_kl", "weighted KL, nats per user", True),
        ("beta", "weight of the KL, β", True),
    ):
        lines = _curves(rows, key)
        if lines:
            charts.append(line_chart(title, lines, x_label="epoch", from_zero=from_zero, mark=best))
    scores = {row["epoch"]: row["score"] for row in rows if row["score"] is not None}
    if scores:
        line = Line("", list(scores), list(scores.values()))
        charts.append(line_chart(f"validation {metric or 'metric'}", [line], x_label="epoch", mark=best))
    table = table_of(
        "Means per user. β is the recorded weight, or the effective one, weighted KL / KL, where it differs by user.",
        ("epoch", "phase", "reconstruction", "KL", "weighted KL", "β"),
        [
            (
                f"{row['epoch']}{' (best)' if row['best'] else ''}",
                row["phase"],
                *(_number(row[key]) for key in ("nll", "kl", "weighted_kl")),
                _number(row["beta"], "{:.3g}"),
            )
            for row in rows
        ],
    )
    about = "<p>What the loss was made of, epoch by epoch; the dashed line is the epoch that was kept.</p>"
    return about + charts_of(charts) + folded("Every epoch", table)


def _curves(rows: Sequence[Document], key: str) -> list[Line]:
    lines = []
    names = dict.fromkeys(row["phase"] for row in rows if row[key] is not None)
    for style, name in zip(_STYLES * len(names), names, strict=False):
        there = [row for row in rows if row["phase"] == name and row[key] is not None]
        label = name if len(names) > 1 else ""
        lines.append(Line(label, [row["epoch"] for row in there], [row[key] for row in there], style=style))
    return lines


def _latent(latent: Document | None) -> str:
    if latent is None:
        return ""
    dimensions = latent["dimensions"]
    active_above = latent["verdict"]["thresholds"]["active_above_variance"]
    charts = []
    for key, title, level, log in (
        ("kl", "KL of each dimension, nats", None, False),
        ("information", "information of each dimension, nats", None, False),
        ("activity", "activity of each; active above the dashed line", active_above, True),
    ):
        there = sorted((d for d in dimensions if d[key] is not None), key=lambda d: -d[key])
        if there:
            bars = [
                Bar(str(d["dimension"]), d[key], about=_about(d), style="c0" if d["active"] else "off") for d in there
            ]
            charts.append(bar_chart(title, bars, x_label="dimensions, sorted", level=level, least=_SMALL, log_y=log))
    table = table_of(
        "Largest KL first.",
        ("dimension", "KL", "information", "activity", "active"),
        [
            (
                str(d["dimension"]),
                _number(d["kl"], "{:.4f}"),
                f"{d['information']:.4f}",
                f"{d['activity']:.4g}",
                "yes" if d["active"] else "no",
            )
            for d in sorted(dimensions, key=lambda d: -(d["kl"] or 0.0))
        ],
    )
    kl = latent["kl"]
    about = (
        f"<p>{latent['active']} of {len(dimensions)} dimensions are active; the KL is {_mean(kl)} nats per user "
        f"({escape(latent['kl_is'])}, {kl['users']:,} users), and the code tells at most {latent['information']:.2f} "
        'nats of the user.</p><p class="quiet">Information is ½ log s² less the mean of ½ log σ², s² the variance of z '
        "over all users together: an upper bound on the mutual information of the user and the dimension, whatever "
        "the prior. Activity is the variance of the posterior mean over users. Grey bars are not active.</p>"
    )
    return about + charts_of(charts) + folded("Every dimension", table)


def _about(d: Document) -> str:
    kl = "" if d["kl"] is None else f"KL {d['kl']:.4f}, "
    return f"dimension {d['dimension']}: {kl}information {d['information']:.4f}, activity {d['activity']:.4g}"


def _likelihood(likelihood: Document | None) -> str:
    if likelihood is None:
        return ""
    bounds = likelihood["bounds"]
    which = {bounds[0]["samples"]: " (the ELBO)", bounds[-1]["samples"]: " (the estimate)"}
    errors = [b["monte_carlo_se"] and _INTERVAL * b["monte_carlo_se"] for b in bounds]
    line = Line("", [b["samples"] for b in bounds], [b["mean"] for b in bounds], errors)
    chart = line_chart("bounds on log p(x), nats per user", [line], x_label="samples in the bound", log_x=True)
    table = table_of(
        f"Means over {likelihood['users']:,} users, in nats. The first standard error is over users, the second that "
        "of the draws alone.",
        ("samples", "bound on log p(x)", "± users", "± draws"),
        [
            (
                f"{b['samples']:,}{which.get(b['samples'], '')}",
                _number(b["mean"]),
                _number(b["se"]),
                _number(b["monte_carlo_se"], "{:.3f}"),
            )
            for b in bounds
        ],
    )
    parts = likelihood["reconstruction"], likelihood["kl"], likelihood["elbo"]
    about = (
        f"<p>The ELBO is {_mean(parts[0])} (reconstruction) less {_mean(parts[1])} (KL), which is {_mean(parts[2])} "
        f"nats per user. The importance-weighted estimate of log p(x) is {_mean(likelihood['log_p'])}, "
        f"{_mean(likelihood['gap'])} above it: as far as the samples show, that is KL(q(z | x) ‖ p(z | x)), how "
        f"far the encoder's posterior is from the true one.</p><p>{escape(reliability(likelihood))}</p>"
        f'<p class="quiet">{escape(likelihood["prior"])} Constants of the likelihood, such as the multinomial '
        "coefficient, are left out. Error bars are 95% intervals from the draws alone.</p>"
    )
    return about + charts_of([chart]) + table


def _recall(recall: Document | None) -> str:
    if recall is None:
        return ""
    metric, users, items = recall["metric"], recall["by_activity"], recall["by_popularity"]
    of_users = [
        Bar(_range(group["clicks"]), group["mean"], _INTERVAL * (group["se"] or 0.0), style="c0") for group in users
    ]
    of_items = [Bar(str(n), group["found"] or 0.0) for n, group in enumerate(items, start=1)]
    charts = [
        bar_chart(f"{metric} by clicks shown to the model", of_users, x_label="clicks shown, quarters of the users"),
        bar_chart(
            "share of held-out clicks found, by popularity",
            of_items,
            x_label="tenths of the items, most popular first",
        ),
    ]
    people = table_of(
        f"{metric} by how many clicks the model is shown: {_share(recall['overall'])} over all "
        f"{recall['overall']['users']:,} users. ± is one standard error; error bars are 95% intervals.",
        ("clicks shown", "users", metric, "±"),
        [(_range(g["clicks"]), f"{g['users']:,}", f"{g['mean']:.4f}", _number(g["se"], "{:.4f}")) for g in users],
    )
    things = table_of(
        f"The items in tenths, the most popular first, and how many of their held-out clicks are in the first "
        f"{metric[7:]} places. The last column adds up to {metric}.",
        (
            "tenth",
            "items",
            "training clicks",
            "share of all",
            "held out",
            "found",
            "share found",
            f"part of {metric}",
        ),
        [
            (
                str(n),
                f"{g['items']:,}",
                _range(g["training_clicks"]),
                f"{g['share_of_training_clicks']:.1%}",
                f"{g['held_out']:,}",
                f"{g['hits']:,}",
                "" if g["found"] is None else f"{g['found']:.1%}",
                f"{g['contribution']:.4f}",
            )
            for n, g in enumerate(items, start=1)
        ],
    )
    return charts_of(charts) + people + things


def _map(items: Document | None) -> str:
    if items is None or not items["points"]:
        return ""
    table = table_of(
        "",
        ("item", "clicks", "x", "y"),
        [
            (p["title"] or p["item_id"], f"{p['clicks']:,}", f"{p['x']:.3f}", f"{p['y']:.3f}")
            for p in items["points"][: items["labelled"]]
        ],
    )
    return (
        item_map.about(items)
        + item_map.key(items)
        + f'<div class="scroll map">{scatter("map of the items", item_map.points(items))}</div>'
        + folded("The most clicked items", table)
    )


def _numbers(diagnosis: Document) -> str:
    settings, machine = diagnosis["settings"], diagnosis["environment"]
    date = machine["date"].replace("T", " ")
    versions = ", ".join(f"{package} {version}" for package, version in machine.get("versions", {}).items())
    return (
        f"<p>Run {escape(str(diagnosis['run']))}, split {escape(diagnosis['split'])}; at most "
        f"{settings['users']:,} users, {settings['samples']:,} samples, seed {settings['seed']}. "
        f"{escape(date)}; Python {escape(machine['python'])}, {escape(versions)}.</p>"
        "<p>All numbers are in this file as JSON, in the script element with the id “diagnosis”; its shape is "
        "that of recvae diagnose --json.</p>"
    )


# --- parts -----------------------------------------------------------------------------------------------------------


def _number(value: float | None, form: str = "{:,.2f}") -> str:
    return "" if value is None else form.format(value)


def _mean(metric: Document) -> str:
    return f"{metric['mean']:,.2f} ± {_number(metric['se'])}"


def _share(metric: Document) -> str:
    return f"{metric['mean']:.4f} ± {_number(metric['se'], '{:.4f}')}"


def _range(ends: Sequence[int]) -> str:
    return f"{ends[0]:,}" if ends[0] == ends[1] else f"{ends[0]:,} to {ends[1]:,}"
