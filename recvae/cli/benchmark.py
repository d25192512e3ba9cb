"""``recvae benchmark``: several models on one dataset, measured alike, in one table."""

import shlex
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recvae.cli.options import METRIC, METRICS, DatasetFolder, Debug, Device, Json, Overwrite, Quiet, Seed, Threads
from recvae.cli.output import check_folder, hold
from recvae.cli.terminal import Follower, Interrupted, Terminal, print_traceback, share
from recvae.cli.threads import use_threads

if TYPE_CHECKING:
    from recvae.experiments.benchmark import Contestant, Outcome
    from recvae.experiments.benchmark_folder import Kept
    from recvae.reports.results import ModelResult


def benchmark(
    folder: DatasetFolder,
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="The folder for the table, the figure, results.json and the trained runs.",
            show_default=False,
        ),
    ],
    models: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C",
            help="The models to compare.",
            show_default="all that learn from clicks alone, in minutes",  # contenders(); their classes need torch
        ),
    ] = None,
    config: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Settings for the model they are for, instead of those shipped for this dataset or the defaults; "
            "may be repeated.",
        ),
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(metavar="A,B,C", help="As for 'recvae evaluate'.", show_default=METRICS)
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(metavar="NAME@K", help="The validation metric that picks the epoch to keep.", show_default=METRIC),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with the benchmark in DIR; models that are finished are not trained again."
        ),
    ] = False,
    seed: Seed = None,
    device: Device = "auto",
    threads: Threads = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train and evaluate several models, each in a process of its own, and compare them on the same users.

    [dim]recvae benchmark ml-1m --models recvae,ease,popularity --out benchmarks/ml-1m[/]
    """
    used = use_threads(threads)  # before torch is loaded
    from data_prep.dataset import Dataset
    from eval import parse_metrics
    from recvae.errors import WorkError
    from recvae.experiments import benchmark as bench
    from recvae.experiments import benchmark_folder
    from recvae.experiments.facts import facts
    from recvae.reports.tables import rich_table

    terminal = Terminal(json=json, quiet=quiet)
    hold(out, folder, *(config or []))
    continued = resume and (out / benchmark_folder.PLAN).is_file()
    if not continued:
        check_folder(out, marker=benchmark_folder.marker(out), overwrite=overwrite)
    data = Dataset.load(folder)
    about = facts(data)
    with ExitStack() as stack:
        if continued:
            _refuse_with_resume(
                {"--models": models, "--config": config, "--metrics": metrics, "--metric": metric, "--seed": seed}
            )
            plan = benchmark_folder.read_plan(out)
            kept = benchmark_folder.go_on(out, plan, about)
        else:
            asked = bench.contenders() if models is None else models.split(",")
            names = [name.strip() for name in asked if name.strip()]
            found = bench.contestants(data.manifest, names, config or [], seed)
            settings = tuple((contestant.config, contestant.source) for contestant in found)
            plan = benchmark_folder.Plan(settings, metrics or METRICS, metric or METRIC, about)
            kept = stack.enter_context(benchmark_folder.begin(out, plan, overwrite=overwrite))
        chosen = [bench.Contestant(*settings) for settings in plan.models]
        main = bench.sorting_metric(plan.metric, parse_metrics(plan.metrics))
        show = _Show(terminal, plan.metric, main, {c.config.name: c for c in chosen})
        try:
            outcome = bench.benchmark(
                folder,
                chosen,
                metrics=plan.metrics,
                metric=plan.metric,
                device=device,
                threads=used,
                kept=kept,
                events=bench.Events(show.model, show.step, show.epoch, show.done, show.slow),
            )
        except KeyboardInterrupt:
            show.close()
            raise _stopped(folder, out, device, kept) from None
        finally:
            show.close()
    if debug:
        for text in outcome.tracebacks.values():
            print_traceback(text)
    if outcome.results:
        written = bench.write_report(out, outcome)
        terminal.result(rich_table(outcome.results, width=terminal.out.width))
        terminal.note(_sources(chosen, outcome), f"Written to {out}: {', '.join([*written, benchmark_folder.RUNS])}.")
        if bench.FIGURE not in written:
            terminal.note("No figure: install Matplotlib with pip install 'recvae[plot]'.")
        terminal.document({**outcome.results, **({"failures": outcome.failures} if outcome.failures else {})})
    if outcome.failures:
        raise WorkError("; ".join(f"{name} failed: {sentence}" for name, sentence in outcome.failures.items()))


def _refuse_with_resume(options: Mapping[str, object]) -> None:
    """Raise :class:`InputError` for options that a benchmark to be resumed has already."""
    from recvae.errors import InputError

    given = [name for name, value in options.items() if value not in (None, [])]
    if given:
        raise InputError(f"--resume goes on with what the benchmark was begun with: leave out {', '.join(given)}.")


def _stopped(folder: Path, out: Path, device: str, kept: "Kept") -> Interrupted:
    """Return where things stand after Ctrl-C."""
    finished = [config.name for config, _ in kept.plan.models if kept.is_finished(config.name)]
    if not finished:
        return Interrupted("Stopped before the first model was finished; nothing is kept.")
    again = f"recvae benchmark {shlex.quote(str(folder))} --out {shlex.quote(str(out))} --resume"
    again += "" if device == "auto" else f" --device {device}"
    return Interrupted(f"Stopped. {out} holds {', '.join(finished)}. Continue with: {again}")


def _sources(chosen: "list[Contestant]", outcome: "Outcome") -> str:
    """Return a sentence that says which settings each model ran with."""
    by_source: dict[str, list[str]] = {}
    for contestant in chosen:
        if contestant.config.name in outcome.results["models"]:
            by_source.setdefault(contestant.source, []).append(contestant.config.name)
    return "Settings: " + "; ".join(f"{source} ({', '.join(names)})" for source, names in by_source.items()) + "."


class _Show(Follower):
    """Shows the benchmark as it goes: one display per model, and a line when it is done."""

    def __init__(self, terminal: Terminal, metric: str, main: str, chosen: "dict[str, Contestant]") -> None:
        super().__init__(terminal)
        self.metric, self.chosen = metric, chosen
        self.main = main  # the table is sorted by it

    def model(self, name: str, place: int, total: int) -> None:
        train = self.chosen[name].config.train
        epochs = None if train is None else train.epochs
        self.display = self.terminal.epochs(self.metric, epochs=epochs, label=f"{name} ({place} of {total})")
        self.display.__enter__()

    def done(self, name: str, result: "ModelResult | None") -> None:
        self.close()
        if result is None:
            self.terminal.warn(f"{name} failed; the others go on.")
            return
        value = result.evaluation.metrics[self.main].mean
        seconds = result.train_seconds or 0.0
        self.terminal.say(f"{name}: test {self.main} {share(value)}, trained in {seconds:.1f} s")
