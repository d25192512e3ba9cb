"""``recvae train``: from a dataset folder to a run folder."""

import shlex
import time
from importlib.util import find_spec
from json import dumps  # its text, numbers, booleans and lists are TOML too
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recvae.cli.across import join
from recvae.cli.options import METRIC, DatasetFolder, Debug, Device, Json, ModelName, Overwrite, Quiet, Seed, Threads
from recvae.cli.output import hold
from recvae.cli.terminal import Interrupted, Terminal, amount, share
from recvae.cli.threads import use_threads
from recvae.files import Document
from recvae.options import TrainOptions
from recvae.registry import entry

if TYPE_CHECKING:
    from data_prep.dataset import Dataset
    from recvae.config import RunConfig
    from recvae.experiments.measure import Fit
    from recvae.experiments.refit import Refit
    from recvae.recommender import Recommender
    from recvae.training.records import Started


def train(
    folder: DatasetFolder,
    out: Annotated[Path, typer.Option(metavar="RUN", help="The run folder to write.", show_default=False)],
    model: ModelName = None,
    config: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="A shipped configuration's name, or a TOML file.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One option, such as train.epochs=50; may be repeated."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in RUN, bit for bit.")] = False,
    refit: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Train as the finished RUN was, to its best epoch, on the validation clicks too.",
            show_default=False,
        ),
    ] = None,
    warm_start: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Begin with the weights of RUN, the same model on other clicks or items, and with its settings.",
            show_default=False,
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help=f"What chooses the epoch, on the validation users: {METRIC}, of ratings r2, or the resumed run's."
        ),
    ] = None,
    seed: Seed = None,
    device: Device = "auto",
    threads: Threads = "auto",
    data_parallel: Annotated[
        int,
        typer.Option(
            metavar="M",
            min=1,
            help="Under torchrun: processes that have the same items, each for some users of every batch.",
        ),
    ] = 1,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train one model, keep the epoch that validates best, and write a run folder.

    [dim]recvae train ml-1m --model recvae --out runs/ml-1m-recvae --set train.epochs=100[/]
    [dim]recvae train ml-1m --refit runs/ml-1m-recvae --out runs/ml-1m-recvae-all[/]
    [dim]recvae train tonight --warm-start runs/yesterday --out runs/tonight[/]
    """
    used = use_threads(threads, run=out if resume else None)  # before torch is loaded
    from data_prep.dataset import Dataset
    from recvae.experiments.facts import doubt_about_start
    from recvae.experiments.measure import begin
    from recvae.training.keepers import under_way
    from recvae.training.run_folder import read_run

    across = join(device, data_parallel)
    first = across is None or across.rank == 0
    terminal = Terminal(json=json and first, quiet=quiet or not first)

    def find() -> Path:
        hold(out, folder, refit, warm_start, config, marker="run.json")
        return under_way(out)  # a run that is to replace another one is not in its place from the start

    begun = find() if across is None else across.lead(find)
    continued = resume and (begun / "run.json").is_file()
    plan = None if refit is None else _plan(refit, model, config, settings, seed, metric)
    of_runs = {"run": begun if continued else None, "start": warm_start}
    chosen = plan.config if plan else _configuration(model, config, settings or [], seed, **of_runs)
    data = Dataset.load(folder)
    fit = begin(
        chosen,
        data,
        metric=metric,
        refit=plan,
        device=device if across is None else str(across.device),
        folder=out,
        resume=resume,
        overwrite=overwrite,
        start=warm_start,
        across=across,
    )
    recommender, is_refit = fit.model, fit.validation is None
    terminal.note(*_introduction(fit, data, recommender.follow(fit.clicks), used))
    if across is not None:
        shared = f"; {data_parallel} have the same part, and other users of a batch" if data_parallel > 1 else ""
        terminal.note(f"  ranks  {across.size}, each with a part of the items{shared}")
    if warm_start is not None and not is_refit:
        if doubt := doubt_about_start(warm_start, read_run(warm_start).dataset, data):
            terminal.warn(doubt)
    elif config is None and not continued and not is_refit:
        _mention_shipped(terminal, data, chosen.name)
    began = time.perf_counter()
    if chosen.train is not None:
        epochs = _run(terminal, fit, data, out, device, used)
    else:
        fit.run()
        epochs = None
    seconds = time.perf_counter() - began
    if not first:
        return
    _draw_curves(out, fit.metric, f"{entry(chosen.name).title} on {data.name}")
    score = recommender.metrics.get("validation")
    where = "" if recommender.best_epoch is None else f" in epoch {recommender.best_epoch} of {epochs}"
    if score is not None:
        terminal.note(f"Validation {fit.metric} {share(score)}{where}, {seconds:.1f} s. The model is in {out}.")
    if is_refit:
        length = "" if epochs is None else f" for {amount(epochs, 'epoch')}"
        terminal.note(
            f"Refitted on the training and validation clicks{length}, {seconds:.1f} s. The model is in {out}."
        )
    if warm_start is not None and recommender.start is not None:
        terminal.note(f"It started from {warm_start}: {started(recommender.start)}.")
    run, dataset = shlex.quote(str(out)), shlex.quote(str(folder))
    if (
        score is not None
        and epochs is not None
        and recommender.best_epoch == epochs
        and not recommender.config.options(TrainOptions).stop_after
    ):
        terminal.note(_more_epochs(recommender, dataset, run, epochs))
    terminal.next(f"recvae evaluate {run} {dataset}", f"recvae recommend {run} --item {_example(data)}")
    terminal.document(
        {
            "run": str(out),
            "model": chosen.name,
            "dataset": recommender.dataset,
            **({} if recommender.start is None else {"start": recommender.start.model_dump()}),
            "best_epoch": recommender.best_epoch,
            "epochs": epochs,
            "metrics": {} if is_refit else {fit.metric: score},
            "seconds": round(seconds, 3),
            "threads": used,
            "config": recommender.config.to_dict(),
        }
    )


def _plan(
    refit: Path,
    model: str | None,
    config: str | None,
    settings: list[str] | None,
    seed: int | None,
    metric: str | None,
) -> "Refit":
    """Return the settings with which the run ``refit`` is trained again; refuse options that would change them."""
    from recvae.errors import InputError
    from recvae.experiments.refit import plan_refit

    options = {"--model": model, "--config": config, "--set": settings or None, "--seed": seed, "--metric": metric}
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise InputError(f"--refit takes everything from {refit}: leave out {', '.join(given)}.")
    return plan_refit(refit)


def _configuration(
    model: str | None,
    config: str | None,
    settings: list[str],
    seed: int | None,
    *,
    run: Path | None,
    start: Path | None,
) -> "RunConfig":
    """Return the configuration that the arguments describe.

    ``run``, a run to be resumed, brings its own, and so does ``start``, from which a new one starts, but for the epoch
    at which a refitted run ends.
    """
    from recvae.config import resolve
    from recvae.errors import InputError
    from recvae.training.run_folder import read_run
    from recvae.training.start import check_kind

    folder = start if run is None else run
    if folder is None or config is not None:
        return resolve(model, config, settings, seed)
    before = read_run(folder)
    if run is None:
        check_kind(str(folder), before.model, model or before.model)
    elif model not in (None, before.model):
        raise InputError(f"{run} holds a '{before.model}' run, not a '{model}' one. Leave --model out to resume it.")
    kept = [f"seed={before.config.get('seed', 0)}"]
    for section in ("model", "train"):
        for key, value in before.config.get(section, {}).items():
            of_refit = run is None and key == "stop_after" and "refit" in before.dataset
            if value is not None and not of_refit:  # None is a default, and TOML has no word for it
                kept.append(f"{section}.{key}={dumps(value)}")
    return resolve(before.model, None, [*kept, *settings], seed)


def _run(terminal: Terminal, fit: "Fit", data: "Dataset", out: Path, device: str, threads: int) -> int:
    """Train a model with epochs, and return how many were done; say where things stand if Ctrl-C ends it."""
    from recvae.training.keepers import under_way
    from recvae.training.run_folder import read_metrics
    from recvae.training.threads import SlowEpochs

    model = fit.model
    done = len(read_metrics(under_way(out))) if fit.resume else 0
    options = model.config.options(TrainOptions)
    epochs = min(options.epochs, options.stop_after or options.epochs)
    try:
        with terminal.warnings(), terminal.epochs(fit.metric, epochs=epochs, done=done) as display:
            watch = SlowEpochs(threads)

            def on_epoch(report: Document) -> None:
                row = {**report, "epochs": epochs}
                display.epoch(row)
                if sentence := watch.sentence(row):
                    terminal.warn(sentence)

            fit.run(on_step=display.step, on_epoch=on_epoch)
    except KeyboardInterrupt:
        if model.best_epoch is None:
            earlier = f" The run in {out} is as it was." if (out / "run.json").is_file() else ""
            raise Interrupted(f"Stopped before the first epoch was done; nothing is kept.{earlier}") from None
        if fit.across is not None and fit.across.rank:
            raise
        _draw_curves(out, fit.metric, "")
        places = f"{shlex.quote(str(data.path))} --out {shlex.quote(str(out))}"
        launcher = "" if fit.across is None else f"torchrun --nproc-per-node {fit.across.size} -m "
        again = f"{launcher}recvae train {places} --resume" + ("" if device == "auto" else f" --device {device}")
        if fit.across is not None and fit.across.data_parallel > 1:
            again += f" --data-parallel {fit.across.data_parallel}"
        score = f", {fit.metric} {share(model.metrics['validation'])}" if model.metrics else ""
        raise Interrupted(
            f"Stopped. {out} holds the best model so far (epoch {model.best_epoch}{score}). Continue with: {again}"
        ) from None
    return len(read_metrics(out))


def _introduction(fit: "Fit", data: "Dataset", following: str, threads: int) -> list[str]:
    """Return lines about model, data and every setting, and about the settings that follow the data."""
    model, config = fit.model, fit.model.config.to_dict()
    n_users, n_items = fit.clicks.shape
    entries = amount(fit.clicks.nnz, "rating" if model.of_ratings else "click")
    counts = f"{amount(n_users, 'user')}, {amount(n_items, 'item')}, {entries}"
    lines = [f"{entry(model.name).title} on {data.name}: {counts}"]
    lines += [
        f"  {section:<6} {settings_line(config[section])}" for section in ("model", "train") if config.get(section)
    ]
    if following:
        lines.append(f"  follow {following}: for {counts}; --set has the last word")
    return [*lines, f"  seed   {config['seed']}, device {model.device}, {amount(threads, 'thread')}"]


def _more_epochs(model: "Recommender", dataset: str, run: str, epochs: int) -> str:
    """Return the advice for a run whose best epoch was its last."""
    from recvae.training.resuming import tied_to_epochs

    more = f"--set train.epochs={2 * epochs}"
    said = f"The best epoch was the last one, so more may be better: recvae train {dataset} --out {run}"
    tied = tied_to_epochs(model.config.to_dict())
    if not tied:
        return f"{said} --resume {more}"
    return (
        f"The best epoch was the last one, so more may be better. {tied[0]} goes over all epochs, so train again "
        f"as now with {more} --overwrite."
    )


def started(start: "Started") -> str:
    """Return the facts about a warm start, for a line."""
    counts = f"{amount(start.kept_items, 'item')} kept, {start.new_items:,} new, {start.dropped_items:,} left out"
    return f"version {start.version}, {counts}"


def settings_line(options: Document) -> str:
    """Return options in one line; options that are off are left out, with ``x_every=0`` all that begin with x_."""
    off = tuple(key.removesuffix("every") for key, value in options.items() if key.endswith("_every") and not value)
    shown = {k: value for k, value in options.items() if value not in (None, False, ()) and not k.startswith(off)}
    return " ".join(f"{key}={list(value) if isinstance(value, tuple) else value}" for key, value in shown.items())


def _mention_shipped(terminal: Terminal, data: "Dataset", model: str) -> None:
    from recvae.config import shipped_for

    name = shipped_for(data.manifest, model)
    if name is not None:
        terminal.note(f"  Settings found for this dataset are shipped: --config {name}")


def _example(data: "Dataset") -> str:
    """Return the most clicked item with a title, quoted for a shell, as an example; else its id."""
    from recvae.matrices import item_counts

    top = int(item_counts(data.train).argmax())
    return shlex.quote(str(data.item_titles[top] or data.item_ids[top]))


def _draw_curves(run: Path, metric: str, title: str) -> None:
    """Draw RUN/curves.png where there are epochs to draw and Matplotlib is installed."""
    from recvae.training.run_folder import read_metrics

    rows = read_metrics(run)
    if rows and find_spec("matplotlib") is not None:
        from recvae.reports.figures import training_curves

        training_curves(rows, run / "curves.png", metric=metric, title=title)
