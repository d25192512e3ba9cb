"""``recvae promote``: a new run in the place of the run in service, unless held-out users speak against it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recvae.cli.options import METRIC, DatasetFolder, Debug, Device, Json, Quiet, Threads
from recvae.cli.output import hold
from recvae.cli.terminal import Terminal, amount, share
from recvae.cli.threads import use_threads

if TYPE_CHECKING:
    from data_prep.dataset import Dataset
    from recvae.experiments.promote import Measured, Weighing
    from recvae.files import JsonObject

REFUSED = 3
"""The exit status where the new run is refused."""


def promote(
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The new run, which stays as it is.", show_default=False)],
    live: Annotated[
        Path,
        typer.Argument(metavar="LIVE", help="The run in service, or the place for the first one.", show_default=False),
    ],
    folder: DatasetFolder,
    metric: Annotated[str, typer.Option(metavar="NAME@K", help="The metric that the runs are compared by.")] = METRIC,
    margin: Annotated[
        float, typer.Option(metavar="X", help="The loss put up with: refused where all of the interval is below -X.")
    ] = 0.0,
    keep_previous: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Keep a copy of the replaced run there, in place of the one before it."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Compare, and change nothing.")] = False,
    other_data: Annotated[
        bool, typer.Option("--other-data", help="Take a NEW that was trained on other data than DIR.")
    ] = False,
    device: Device = "auto",
    threads: Threads = "auto",
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Put a new run in the place of the run in service, unless the same test users show that it is worse.

    NEW is refused, with exit status 3, where the whole 95 % interval of the paired difference lies below -margin. A
    service that watches LIVE takes the new model.

    [dim]recvae promote runs/tonight runs/live data --metric ndcg@100 --margin 0.002[/]
    """
    use_threads(threads)  # before torch is loaded
    from data_prep.dataset import Dataset
    from recvae.experiments.promote import check_rule, doubt_about_live, in_service, put_copy, same_run, weigh
    from recvae.training.run_folder import read_run

    terminal = Terminal(json=json, quiet=quiet)
    check_rule(metric, margin)
    outputs = [live] if keep_previous is None else [live, keep_previous]
    _keep_apart(outputs, (new, folder))
    for out in outputs:
        in_service(out)  # before anything is written: is it a run, or free?
        if not dry_run:
            hold(out)
    there = in_service(live)
    data = Dataset.load(folder)
    read_run(new)
    if there and same_run(new, live):
        terminal.lines(f"Nothing to do: {live} holds the files of {new} already.")
        terminal.document(_document(None, metric, margin, data, None, dry_run=dry_run))
        return
    with terminal.amounts() as progress:
        weighing = weigh(
            new,
            live if there else None,
            data,
            metric=metric,
            margin=margin,
            other_data=other_data,
            device=device,
            progress=lambda run, done, total: progress(f"rank users by {run}", done, total),
        )
    previous = None
    if weighing.passes and not dry_run:
        if keep_previous is not None and weighing.live is not None:
            put_copy(live, keep_previous, weighing.live.forms)
            previous = keep_previous
        put_copy(new, live, weighing.new.forms)
    if doubt := doubt_about_live(weighing, data):
        terminal.warn(doubt)
    terminal.lines(*_figures(weighing, metric, data), _decision(weighing, live, previous, dry_run=dry_run))
    terminal.document(_document(weighing, metric, margin, data, previous, dry_run=dry_run))
    if not weighing.passes:
        raise typer.Exit(REFUSED)


def _keep_apart(outputs: list[Path], inputs: tuple[Path, ...]) -> None:
    """Raise :class:`InputError` where two of the command's folders are one, or one lies in the other."""
    from recvae.errors import InputError

    for number, out in enumerate(outputs):
        for other in (*inputs, *outputs[:number]):
            one, two = out.resolve(), other.resolve()
            same = out.exists() and other.exists() and out.samefile(other)
            if same or one == two or one in two.parents or two in one.parents:
                raise InputError(
                    f"{other} and {out} are one folder, or one of them is in the other. Name folders that lie apart."
                )


def _figures(weighing: "Weighing", metric: str, data: "Dataset") -> list[str]:
    """Return lines with both runs' figures, their difference, and the number of items that one does not know."""
    users = weighing.new.evaluation.metrics[metric].users
    lines = [f"{metric} of {amount(users, 'test user')} of {data.name}"]
    runs = {"new": weighing.new, **({} if weighing.live is None else {"live": weighing.live})}
    for label, run in runs.items():
        figure = run.evaluation.metrics[metric]
        lines.append(
            _line(label, f"{share(figure.mean)} ±{share(figure.se)}  {run.folder} ({run.model} {run.version})")
        )
    if (found := weighing.difference) is not None:
        interval = f"[{_signed(found.low)}, {_signed(found.high)}]"
        lines.append(
            _line("new - live", f"{_signed(found.difference)} {interval}, {100 * found.level:.0f} % interval, paired")
        )
    for run in runs.values():
        lines += _unknown(run)
    left_out = weighing.new.evaluation.left_out
    return [*lines, *([_line("left out", f"{amount(left_out, 'user')} without held-out clicks")] if left_out else [])]


def _unknown(run: "Measured") -> list[str]:
    """Return lines about the items that the dataset or the model has and the other has not."""
    lines = []
    if run.unknown["items"]:
        missed = f"{amount(run.unknown['held_out_clicks'], 'held-out click')} on them missed"
        left = f"{amount(run.unknown['history_clicks'], 'click')} of histories left out"
        lines.append(_line("unknown", f"{amount(run.unknown['items'], 'item')} to {run.folder}: {missed}, {left}"))
    if run.left_out_items:
        lines.append(_line("not listed", f"{amount(run.left_out_items, 'item')} of {run.folder} not in the dataset"))
    return lines


def _decision(weighing: "Weighing", live: Path, previous: Path | None, *, dry_run: bool) -> str:
    """Return the decision and its reason as a sentence."""
    found, bound = weighing.difference, f"{-weighing.margin:g}" if weighing.margin else "0"
    if not weighing.passes:
        stays = f"{live} stays as it is." if not dry_run else ""
        return f"Refused: the whole interval lies below {bound}. {stays}".rstrip()
    if found is None:
        why = f"there was no run in {live}"
    elif found.low >= -weighing.margin:
        why = f"the whole interval is at or above {bound}"
    else:
        why = f"the interval reaches {bound} or above (a loss of up to {share(-found.low)} is not ruled out)"
    if dry_run:
        return f"To be promoted: {why}. Nothing was changed."
    kept = "" if previous is None else f" The earlier run is in {previous}."
    return f"Promoted: {why}. {live} is now version {weighing.new.version}.{kept}"


def _document(
    weighing: "Weighing | None", metric: str, margin: float, data: "Dataset", previous: Path | None, *, dry_run: bool
) -> "JsonObject":
    """Return the JSON document; without a weighing, of a new run that is in its place already."""
    from recvae.experiments.facts import facts

    decision = "unchanged" if weighing is None else "promoted" if weighing.passes else "refused"
    new, live, difference = (
        (None, None, None) if weighing is None else (weighing.new, weighing.live, weighing.difference)
    )
    return {
        "decision": decision,
        "dry_run": dry_run,
        "metric": metric,
        "margin": margin,
        "new": None if new is None else new.to_dict(),
        "live": None if live is None else live.to_dict(),
        "difference": None if difference is None else difference.to_dict(),
        "previous": None if previous is None else str(previous),
        "left_out": None if new is None else new.evaluation.left_out,
        "dataset": facts(data),
    }


def _line(label: str, text: str) -> str:
    return f"  {label:<11} {text}"


def _signed(value: float) -> str:
    """Return a difference with its sign, as ``+.0123``."""
    return f"{value:+.4f}".replace("0.", ".", 1)
