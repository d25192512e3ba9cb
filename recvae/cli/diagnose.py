"""``recvae diagnose``: an analysis of a trained model, in tables and as a page."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recvae.cli.catalogues import refuse_other_data
from recvae.cli.options import DatasetFolder, Debug, Device, Json, Overwrite, Quiet, RunFolder, Seed, Threads
from recvae.cli.output import check_output, hold
from recvae.cli.terminal import Terminal, share
from recvae.cli.threads import use_threads
from recvae.files import Document

if TYPE_CHECKING:
    from rich.table import Table

_EPOCHS = 8  # rows of the table of epochs
_DIMENSIONS = 8  # rows of the table of latent dimensions


def diagnose(
    run: RunFolder,
    folder: DatasetFolder,
    split: Annotated[str, typer.Option(metavar="SPLIT", help="test, validation or train.")] = "test",
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Write a page with charts and a map of the items.", show_default=False),
    ] = None,
    samples: Annotated[int, typer.Option(metavar="S", help="Draws of the code per user, for log p(x).")] = 1000,
    users: Annotated[int, typer.Option(metavar="N", help="At most so many users, for the code and log p(x).")] = 500,
    seed: Seed = None,
    device: Device = "auto",
    threads: Threads = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Look into a trained model: its loss by parts, its code, log p(x), recall by groups, a map of its items.

    [dim]recvae diagnose runs/ml-1m-mult-vae ml-1m --out mult-vae.html[/]
    """
    use_threads(threads)  # before torch is loaded
    from data_prep.dataset import Dataset
    from recvae.errors import InputError
    from recvae.experiments import diagnose as diagnostics
    from recvae.experiments.facts import facts
    from recvae.files import write_text
    from recvae.recommender import load
    from recvae.reports.diagnosis_page import page
    from recvae.reports.machine import environment
    from recvae.training.run_folder import read_metrics

    terminal = Terminal(json=json, quiet=quiet)
    if out is not None:
        hold(out, run, folder)
        check_output(out, overwrite=overwrite, suffixes=(".html", ".htm"))
    data = Dataset.load(folder)
    model = load(run, device)
    refuse_other_data(model, run, data, folder)
    if split == "validation" and "refit" in model.dataset:
        raise InputError(f"{run} was refitted on the validation clicks too; use --split test, or train.")
    with terminal.amounts() as progress:
        found = diagnostics.diagnose(
            model,
            data,
            read_metrics(run),
            split=split,
            samples=samples,
            users=users,
            seed=model.config.seed if seed is None else seed,
            progress=progress,
        )
    value = {**found, "run": str(run), "dataset": facts(data), "environment": environment()}
    if out is not None:
        write_text(out, page(value))
    terminal.result(*_tables(value))
    terminal.note(*value["notes"])
    if out is None:
        terminal.note("With --out FILE.html the same comes as a page, with charts and a map of the items.")
    else:
        terminal.note(f"Written to {out}.")
    terminal.document(value)


def _tables(value: Document) -> "list[Table | str]":
    """Return the diagnosis as sentences and tables."""
    from recvae.reports.collapse import thresholds
    from recvae.reports.diagnosis_page import reliability

    parts: list[Table | str] = []
    if value["training"]:
        parts += [_training(value["training"]), "* the epoch that was kept. Reconstruction is -log p(x | z).", ""]
    latent, likelihood, recall = value["latent"], value["likelihood"], value["recall"]
    if latent is not None:
        parts += [
            _latent(latent),
            f"Of all together: KL {_mean(latent['kl'])} nats per user ({latent['kl_is']}), information at most "
            f"{latent['information']:.2f}; {latent['users']:,} users.",
            latent["verdict"]["sentence"],
            thresholds(latent["verdict"]),
            "",
        ]
    if likelihood is not None:
        reconstruction, kl = likelihood["reconstruction"], likelihood["kl"]
        parts += [
            _likelihood(likelihood),
            f"ELBO = {_mean(reconstruction)} (reconstruction) - {_mean(kl)} (KL). The last bound is "
            f"{_mean(likelihood['gap'])} above it; {likelihood['users']:,} users.",
            reliability(likelihood),
            likelihood["prior"],
            "",
        ]
    if recall is not None:
        overall = recall["overall"]
        parts += [
            _by_activity(recall),
            f"Over all {overall['users']:,} users: {share(overall['mean'])} ± {_share(overall['se'])}.",
            "",
            _by_popularity(recall),
            f"The most popular first. The last column adds up to {recall['metric']}.",
        ]
    return parts


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        title=title,
        title_justify="left",
        title_style="bold",
    )
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _training(rows: Sequence[Document]) -> "Table":
    """Return a table of some epochs, evenly spread, with the first, the best and the last."""
    epochs = list(dict.fromkeys(row["epoch"] for row in rows))
    step = -(-len(epochs) // _EPOCHS)
    shown = {*epochs[::step], epochs[-1], *(row["epoch"] for row in rows if row["best"])}
    return _table(
        "Training (nats per user)",
        ("epoch", "phase", "reconstruction", "KL", "weighted KL", "β"),
        [
            (
                f"{row['epoch']}{' *' if row['best'] else ''}",
                row["phase"],
                *(_number(row[key]) for key in ("nll", "kl", "weighted_kl")),
                _number(row["beta"], "{:.3g}"),
            )
            for row in rows
            if row["epoch"] in shown
        ],
    )


def _latent(latent: Document) -> "Table":
    dimensions = sorted(latent["dimensions"], key=lambda d: -d["information"])
    step = max(1, (len(dimensions) - 1) // (_DIMENSIONS - 1))
    places = sorted({*range(0, len(dimensions), step), len(dimensions) - 1})
    return _table(
        "The code: dimensions by what they tell of the user",
        ("place", "dimension", "KL", "information", "activity", "active"),
        [
            (
                str(place + 1),
                str(d["dimension"]),
                _number(d["kl"], "{:.3f}"),
                f"{d['information']:.3f}",
                f"{d['activity']:.3g}",
                "yes" if d["active"] else "no",
            )
            for place, d in ((place, dimensions[place]) for place in places)
        ],
    )


def _likelihood(likelihood: Document) -> "Table":
    return _table(
        "log p(x), nats per user",
        ("samples", "bound", "± users", "± draws"),
        [
            (
                f"{b['samples']:,}{' (ELBO)' if b['samples'] == 1 else ''}",
                _number(b["mean"]),
                _number(b["se"]),
                _number(b["monte_carlo_se"], "{:.3f}"),
            )
            for b in likelihood["bounds"]
        ],
    )


def _by_activity(recall: Document) -> "Table":
    return _table(
        f"{recall['metric']} by users' activity",
        ("clicks shown", "users", recall["metric"], "±"),
        [
            (_range(group["clicks"]), f"{group['users']:,}", share(group["mean"]), _share(group["se"]))
            for group in recall["by_activity"]
        ],
    )


def _by_popularity(recall: Document) -> "Table":
    return _table(
        f"{recall['metric']} by items' popularity",
        ("tenth", "items", "training clicks", "held out", "found", "share", "part of recall"),
        [
            (
                str(n),
                f"{group['items']:,}",
                _range(group["training_clicks"]),
                f"{group['held_out']:,}",
                f"{group['hits']:,}",
                "" if group["found"] is None else f"{group['found']:.1%}",
                share(group["contribution"]),
            )
            for n, group in enumerate(recall["by_popularity"], start=1)
        ],
    )


def _number(value: float | None, form: str = "{:,.2f}") -> str:
    return "" if value is None else form.format(value)


def _share(value: float | None) -> str:
    return "" if value is None else share(value)


def _mean(metric: Document) -> str:
    return f"{metric['mean']:,.2f} ± {_number(metric['se'])}"


def _range(ends: Sequence[int]) -> str:
    return f"{ends[0]:,}" if ends[0] == ends[1] else f"{ends[0]:,}-{ends[1]:,}"
