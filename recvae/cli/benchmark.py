"""``recvae benchmark``: several models on one dataset, measured alike, in one table."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recvae.cli.options import (
    METRIC,
    METRICS,
    DatasetFolder,
    Debug,
    Device,
    Json,
    Metric,
    Metrics,
    Overwrite,
    Quiet,
    Seed,
)
from recvae.cli.output import check_folder
from recvae.cli.terminal import Follower, Terminal, share

if TYPE_CHECKING:
    from recvae.bench import Contestant, Outcome
    from recvae.report import ModelResult

# All but vamp-vae, which takes hours where the others take minutes, vaeac, whose business is ratings, and
# conditional-vae, which needs to be told more than clicks.
MODELS = "recvae,recvae-edlae,mult-vae,mult-dae,ease,edlae,implicit-als,item-knn,popularity"


def benchmark(
    folder: DatasetFolder,
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", help="The folder for the table, the figure and results.json.", show_default=False),
    ],
    models: Annotated[str, typer.Option(metavar="A,B,C", help="The models to compare.")] = MODELS,
    config: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Settings for the model they are for, instead of those shipped for this dataset or the defaults; "
            "may be repeated.",
        ),
    ] = None,
    metrics: Metrics = METRICS,
    metric: Metric = METRIC,
    seed: Seed = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train and evaluate several models, each in a process of its own, and compare them on the same users.

    [dim]recvae benchmark ml-1m --models recvae,ease,popularity --out benchmarks/ml-1m[/]
    """
    import sys

    from data_prep.dataset import Dataset
    from recvae import bench
    from recvae.errors import WorkError
    from recvae.files import whole_folder
    from recvae.report import rich_table

    terminal = Terminal(json=json, quiet=quiet)
    check_folder(out, marker=bench.RESULTS, overwrite=overwrite)
    names = [name.strip() for name in models.split(",") if name.strip()]
    chosen = bench.contestants(Dataset.load(folder).manifest, names, config or [], seed)
    show = _Show(terminal, metric, {c.config.name: c for c in chosen})
    try:
        outcome = bench.benchmark(
            folder,
            chosen,
            metrics=metrics,
            metric=metric,
            device=device,
            events=bench.Events(show.model, show.step, show.epoch, show.done),
        )
    finally:
        show.close()
    if debug:
        for text in outcome.tracebacks.values():
            sys.stderr.write(text)
    if outcome.results:
        with whole_folder(out, marker=bench.RESULTS, overwrite=overwrite) as temporary:
            written = bench.write_report(temporary, outcome)
        terminal.result(rich_table(outcome.results, width=terminal.out.width))
        terminal.note(_sources(chosen, outcome), f"Written to {out}: {', '.join(written)}.")
        if bench.FIGURE not in written:
            terminal.note("No figure: install Matplotlib with pip install 'recvae[plot]'.")
        terminal.document({**outcome.results, **({"failures": outcome.failures} if outcome.failures else {})})
    if outcome.failures:
        raise WorkError("; ".join(f"{name} failed: {sentence}" for name, sentence in outcome.failures.items()))


def _sources(chosen: "list[Contestant]", outcome: "Outcome") -> str:
    """Return a sentence that says which settings each model ran with."""
    by_source: dict[str, list[str]] = {}
    for contestant in chosen:
        if contestant.config.name in outcome.results["models"]:
            by_source.setdefault(contestant.source, []).append(contestant.config.name)
    return "Settings: " + "; ".join(f"{source} ({', '.join(names)})" for source, names in by_source.items()) + "."


class _Show(Follower):
    """Shows the benchmark as it goes: one display per model, and a line when it is done."""

    def __init__(self, terminal: Terminal, metric: str, chosen: "dict[str, Contestant]") -> None:
        self.terminal, self.metric, self.chosen = terminal, metric, chosen
        super().__init__()

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
        first, value = next(iter(result.evaluation.metrics.items()))
        seconds = result.train_seconds or 0.0
        self.terminal.say(f"{name}: test {first} {share(value.mean)}, trained in {seconds:.1f} s")
