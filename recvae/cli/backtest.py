"""``recvae backtest``: a log of clicks replayed in order, with models refitted on a schedule."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recvae.cli.options import METRIC, METRICS, Debug, Device, Json, Metric, Metrics, Overwrite, Quiet, Seed, Threads
from recvae.cli.output import check_folder, hold
from recvae.cli.terminal import Follower, Interrupted, Terminal, share
from recvae.cli.threads import use_threads

if TYPE_CHECKING:
    from recvae.experiments.backtest import Backtest, Entrant
    from recvae.files import Document, JsonObject

_FILE, _TRAINING = "A file's form", "Training at each refit"


def backtest(
    source_name: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FILE",
            help="A known dataset, or a file, folder or quoted pattern of files with a column of times.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="The folder for results.json, the page and the parts done.", show_default=False
        ),
    ],
    begin: Annotated[
        str,
        typer.Option(
            "--from", metavar="DATE|SHARE", help="Where the replay begins: a date, or the share of the clicks before."
        ),
    ] = "0.8",
    every: Annotated[str, typer.Option(metavar="SPAN", help="The length of a window: 7d, 12h, 2w.")] = "7d",
    refit_every: Annotated[str, typer.Option(metavar="SPAN", help="The time between refits: whole windows.")] = "28d",
    models: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C",
            help="Models with their defaults.",
            show_default="popularity,ease,recvae where no --config is given",
        ),
    ] = None,
    config: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME|FILE", help="A model with these settings, called as its file is; may be repeated."),
    ] = None,
    warm_start: Annotated[
        bool,
        typer.Option(
            "--warm-start",
            help="Start each fit from the model's previous one, where the model has a warm start.",
            rich_help_panel=_TRAINING,
        ),
    ] = False,
    validation_share: Annotated[
        float,
        typer.Option(
            metavar="X",
            help="Share of the clicks before a refit, the latest, that choose the epoch.",
            rich_help_panel=_TRAINING,
        ),
    ] = 0.1,
    min_items_per_user: Annotated[
        int, typer.Option(metavar="N", help="Train on users with at least N items.", rich_help_panel=_TRAINING)
    ] = 5,
    min_users_per_item: Annotated[
        int, typer.Option(metavar="N", help="Train on items with at least N users.", rich_help_panel=_TRAINING)
    ] = 0,
    questions: Annotated[
        int | None,
        typer.Option(metavar="N", help="Ask at most N questions of a window, drawn at random.", show_default="all"),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="A known dataset's archive, or the folder it unpacks to: no download."),
    ] = None,
    user_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="The column of users.", rich_help_panel=_FILE)
    ] = None,
    item_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="The column of items.", rich_help_panel=_FILE)
    ] = None,
    rating_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="The column of ratings.", rich_help_panel=_FILE)
    ] = None,
    time_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="The column of times.", rich_help_panel=_FILE)
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C", help="The names of all columns, for a file without a header.", rich_help_panel=_FILE
        ),
    ] = None,
    separator: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Such as ',' or '::'; guessed if not given.", rich_help_panel=_FILE),
    ] = None,
    min_rating: Annotated[
        float | None,
        typer.Option(metavar="X", help="Keep ratings from X on; known datasets: 4.", rich_help_panel=_FILE),
    ] = None,
    metrics: Metrics = METRICS,
    metric: Metric = METRIC,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the backtest in DIR: repeat its command with this option.")
    ] = False,
    seed: Seed = None,
    device: Device = "auto",
    threads: Threads = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Replay a log in the order of time: refit models on a schedule, and rank before every click from earlier clicks.

    [dim]recvae backtest ml-100k --from 1998-02-01 --every 7d --refit-every 28d --models ease,recvae --out backtest[/]
    """
    use_threads(threads)  # before torch is loaded
    from data_prep import TimeRules, read_log
    from data_prep.moments import duration, moment
    from eval import parse_metrics
    from recvae.experiments import backtest as replay
    from recvae.experiments.backtest_results import outcome
    from recvae.experiments.benchmark import sorting_metric
    from recvae.files import write_json, write_text
    from recvae.reports.backtest_page import page
    from recvae.reports.tables import rich_table

    terminal = Terminal(json=json, quiet=quiet)
    named = models if models is not None or config else "popularity,ease,recvae"
    chosen = replay.entrants([name.strip() for name in (named or "").split(",") if name.strip()], config or [], seed)
    hold(out, source_name, source, *(config or []), marker=replay.PLAN)
    if not (resume and (out / replay.PLAN).is_file()):
        check_folder(out, marker=replay.PLAN, overwrite=overwrite)
    start = moment(begin, "--from")
    with terminal.amounts(bytes=True) as progress:
        log = read_log(
            source_name,
            source=source,
            user_column=user_column,
            item_column=item_column,
            rating_column=rating_column,
            time_column=time_column,
            columns=None if columns is None else [name.strip() for name in columns.split(",")],
            separator=None if separator is None else separator.replace("\\t", "\t"),
            min_rating=min_rating,
            progress=progress,
        )
    latest = float(log.times[-1])
    plan = replay.Plan(
        begin=start.among(len(log.data), lambda place: float(log.times[place]), log.data.label),
        every=duration(every, latest, log.data.label, "--every"),
        refit_every=duration(refit_every, latest, log.data.label, "--refit-every"),
        rules=TimeRules(
            start,
            validation_share=validation_share,
            min_items_per_user=min_items_per_user,
            min_users_per_item=min_users_per_item,
        ),
        metrics=tuple(map(str, parse_metrics(metrics))),
        metric=metric,
        questions=questions,
        seed=98765 if seed is None else seed,
        warm=warm_start,
    )
    work = replay.Backtest(log, chosen, plan, out, device)
    work.prepare_folder(resume=resume)
    show = _Show(terminal, metric, work)
    try:
        work.run(replay.Events(show.fit, show.step, show.epoch, show.asked, show.done))
    except KeyboardInterrupt:
        show.close()
        raise Interrupted(
            f"Stopped. {shlex.quote(str(out))} holds the parts that are done; repeat the command with --resume."
        ) from None
    finally:
        show.close()
    value = outcome(work, sorting_metric(metric, plan.metrics))
    write_json(out / replay.RESULTS, value)
    write_text(out / replay.PAGE, page(value))
    terminal.result(rich_table(value, width=terminal.out.width))
    terminal.lines(*_lines(value))
    terminal.note(f"Written to {out}: {replay.RESULTS}, {replay.PAGE}.")
    terminal.document(value)


def _lines(value: "Document") -> list[str]:
    """Return sentences on the questions and the items that no model had learned yet."""
    windows = value["windows"]
    total = {key: sum(window[key] for window in windows) for key in ("questions", "clicks", "clicks_on_unknown_items")}
    return [
        f"{total['questions']:,} questions in {len(windows):,} windows from {windows[0]['from']} on; errors and "
        "intervals are by user.",
        f"{100 * total['clicks_on_unknown_items'] / max(1, total['clicks']):.3g} % of the {total['clicks']:,} clicks "
        "are on items that the models had not learned yet: these count as not found.",
    ]


class _Show(Follower):
    """Shows a backtest as it goes: one display for each fit, and a line when its questions are answered."""

    def __init__(self, terminal: Terminal, metric: str, work: "Backtest") -> None:
        super().__init__(terminal)
        self.metric, self.work = metric, work
        self.label = ""

    def fit(self, entrant: "Entrant", place: int, total: int) -> None:
        """Show that a fit begins."""
        self.close()
        self.label = f"{entrant.label} (fit {place} of {total})"
        train = entrant.config.train
        self.display = self.terminal.epochs(
            self.metric, epochs=None if train is None else train.epochs, label=self.label
        )
        self.display.__enter__()

    def asked(self, done: int, total: int) -> None:
        """Questions are answered faster than a line is read."""

    def done(self, entrant: "Entrant", part: "JsonObject") -> None:
        """Show that the questions of a fit are answered."""
        del entrant
        self.close()
        values = next(iter(part["values"].items()))
        mean = sum(values[1]) / max(1, len(values[1]))
        told = f"{len(values[1]):,} questions, {values[0]} {share(mean)}"
        self.terminal.say(f"{self.label}: trained in {part['seconds']:.1f} s; {told}")
