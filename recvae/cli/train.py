"""``recvae train``: from a dataset folder to a run folder."""

import shlex
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from json import dumps  # what it writes of text, numbers, booleans and lists of them is TOML too
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recvae.cli.options import METRIC, DatasetFolder, Debug, Device, Json, ModelName, Overwrite, Quiet, Seed
from recvae.cli.output import check_folder
from recvae.cli.terminal import Interrupted, Terminal, amount, share
from recvae.registry import entry

if TYPE_CHECKING:
    from data_prep.dataset import Dataset
    from recvae.config import RunConfig
    from recvae.recommender import Recommender
    from recvae.refit import Refit


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
    metric: Annotated[
        str | None,
        typer.Option(
            help=f"What chooses the epoch, on the validation users: {METRIC}, of ratings r2, or the resumed run's."
        ),
    ] = None,
    seed: Seed = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train one model, keep the epoch that validates best, and write a run folder.

    [dim]recvae train ml-1m --model recvae --out runs/ml-1m-recvae --set train.epochs=100[/]
    [dim]recvae train ml-1m --refit runs/ml-1m-recvae --out runs/ml-1m-recvae-all[/]
    """
    from data_prep.dataset import Dataset
    from recvae.bench import facts
    from recvae.checkpoint import read_run
    from recvae.errors import InputError
    from recvae.feed import default_metric, learned_from, validate_with

    terminal = Terminal(json=json, quiet=quiet)
    continued = resume and (out / "run.json").is_file()
    plan = None if refit is None else _plan(refit, model, config, settings, seed, metric)
    chosen = plan.config if plan else _configuration(model, config, settings or [], seed, out if continued else None)
    if resume and chosen.train is None:
        raise InputError(f"'{chosen.name}' is not trained by epochs, so there is nothing to resume.")
    recommender = entry(chosen.name).recommender().from_config(chosen, device)
    before = read_run(out).dataset if continued else {}
    is_refit = plan is not None or "refit" in before
    if is_refit and metric is not None:
        raise InputError(f"{out} is refitted, without validation: leave --metric out.")
    if metric is None:
        metric = before.get("validation_metric") or default_metric(recommender, METRIC)
    if not continued:
        check_folder(out, marker="run.json", overwrite=overwrite)
    data = Dataset.load(folder)
    if plan is not None:
        plan.check_catalogue(data)
    # Read, like the validation clicks, before anything is said: damage shows here.
    given = learned_from(recommender, data, refit=is_refit)
    clicks = given["train"]
    validation = None if is_refit else validate_with(data, metric, recommender)
    if is_refit:
        recommender.dataset = facts(data, refit=plan.facts(clicks) if plan else before["refit"])
    else:
        recommender.dataset = facts(data, validation_metric=metric)
    terminal.note(*_introduction(recommender, data, clicks))
    if config is None and not continued and not is_refit:
        _mention_shipped(terminal, data.name, chosen.name)
    began = time.perf_counter()
    with _leave_nothing_unfinished(out, fresh=not continued):
        if chosen.train is not None:
            epochs = _fit(terminal, recommender, data, given, validation, metric, out, resume, overwrite, device)
        else:
            recommender.fit(**given)
            recommender.metrics = {} if validation is None else {"validation": validation(recommender)}
            recommender.save(out, overwrite=overwrite)
            epochs = None
    seconds = time.perf_counter() - began
    _draw_curves(out, metric, f"{entry(chosen.name).title} on {data.name}")
    score = recommender.metrics.get("validation")
    where = "" if recommender.best_epoch is None else f" in epoch {recommender.best_epoch} of {epochs}"
    if score is not None:
        terminal.note(f"Validation {metric} {share(score)}{where}, {seconds:.1f} s. The model is in {out}.")
    if is_refit:
        length = "" if epochs is None else f" for {amount(epochs, 'epoch')}"
        terminal.note(
            f"Refitted on the training and validation clicks{length}, {seconds:.1f} s. The model is in {out}."
        )
    run, dataset = shlex.quote(str(out)), shlex.quote(str(folder))
    terminal.next(f"recvae evaluate {run} {dataset}", f"recvae recommend {run} --item {_example(data)}")
    terminal.document(
        {
            "run": str(out),
            "model": chosen.name,
            "dataset": recommender.dataset,
            "best_epoch": recommender.best_epoch,
            "epochs": epochs,
            "metrics": {} if is_refit else {metric: score},
            "seconds": round(seconds, 3),
            "config": chosen.to_dict(),
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
    """Return what ``refit`` is trained again with; refuse options that would change it."""
    from recvae.errors import InputError
    from recvae.refit import plan_refit

    options = {"--model": model, "--config": config, "--set": settings or None, "--seed": seed, "--metric": metric}
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise InputError(f"--refit takes everything from {refit}: leave out {', '.join(given)}.")
    return plan_refit(refit)


def _configuration(
    model: str | None, config: str | None, settings: list[str], seed: int | None, run: Path | None
) -> "RunConfig":
    """Return the configuration that the arguments describe; ``run``, a run to be resumed, brings its own."""
    from recvae.checkpoint import read_run
    from recvae.config import resolve
    from recvae.errors import InputError

    if run is None or config is not None:
        return resolve(model, config, settings, seed)
    before = read_run(run)
    if model not in (None, before.model):
        raise InputError(f"{run} holds a '{before.model}' run, not a '{model}' one. Leave --model out to resume it.")
    kept = [f"seed={before.config.get('seed', 0)}"]
    for section in ("model", "train"):
        for key, value in before.config.get(section, {}).items():
            if value is not None:  # None is a default, and TOML has no word for it
                kept.append(f"{section}.{key}={dumps(value)}")
    return resolve(before.model, None, [*kept, *settings], seed)


def _fit(
    terminal: Terminal,
    model: "Recommender",
    data: "Dataset",
    given: Mapping[str, Any],
    validation: Any,
    metric: str,
    out: Path,
    resume: bool,
    overwrite: bool,
    device: str,
) -> int:
    """Train a model with epochs, and return how many were done; say where things stand if Ctrl-C ends it."""
    from recvae.checkpoint import read_metrics
    from recvae.vae import NeuralRecommender

    assert isinstance(model, NeuralRecommender)
    done = len(read_metrics(out)) if resume else 0
    options = model.config.train
    epochs = min(options.epochs, options.stop_after or options.epochs)
    try:
        with terminal.epochs(metric, epochs=epochs, done=done) as display:
            model.fit(
                **given,
                validation=validation,
                folder=out,
                resume=resume,
                overwrite=overwrite,
                on_step=display.step,
                on_epoch=lambda report: display.epoch({**report.to_dict(), "epochs": epochs}),
            )
    except KeyboardInterrupt:
        if model.best_epoch is None:
            raise Interrupted("Stopped before the first epoch was done; nothing is kept.") from None
        _draw_curves(out, metric, "")
        places = f"{shlex.quote(str(data.path))} --out {shlex.quote(str(out))}"
        again = f"recvae train {places} --resume" + ("" if device == "auto" else f" --device {device}")
        score = f", {metric} {share(model.metrics['validation'])}" if model.metrics else ""
        raise Interrupted(
            f"Stopped. {out} holds the best model so far (epoch {model.best_epoch}{score}). Continue with: {again}"
        ) from None
    return len(read_metrics(out))


def _introduction(model: "Recommender", data: "Dataset", clicks: Any) -> list[str]:
    """Return lines about what is trained on what, with every setting."""

    config = model.config.to_dict()
    n_users, n_items = clicks.shape
    entries = amount(clicks.nnz, "rating" if model.of_ratings else "click")
    counts = f"{amount(n_users, 'user')}, {amount(n_items, 'item')}, {entries}"
    lines = [f"{entry(model.name).title} on {data.name}: {counts}"]
    lines += [
        f"  {section:<6} {settings_line(config[section])}" for section in ("model", "train") if config.get(section)
    ]
    return [*lines, f"  seed   {config['seed']}, device {model.device}"]


def settings_line(options: Mapping[str, Any]) -> str:
    """Return options in one line; those that are off are left out, and with ``x_every=0`` all that begin with x_."""
    off = tuple(key.removesuffix("every") for key, value in options.items() if key.endswith("_every") and not value)
    shown = {k: value for k, value in options.items() if value not in (None, False, ()) and not k.startswith(off)}
    return " ".join(f"{key}={list(value) if isinstance(value, tuple) else value}" for key, value in shown.items())


def _mention_shipped(terminal: Terminal, dataset: str, model: str) -> None:
    from recvae.config import shipped

    if f"{dataset}-{model}" in shipped():
        terminal.note(f"  Settings found for this dataset are shipped: --config {dataset}-{model}")


def _example(data: "Dataset") -> str:
    """Return the most clicked item with a title, quoted for a shell, as an example; else its id."""
    import numpy as np

    top = int(np.bincount(data.train.indices, minlength=data.n_items).argmax())
    return shlex.quote(str(data.item_titles[top] or data.item_ids[top]))


def _draw_curves(run: Path, metric: str, title: str) -> None:
    """Draw RUN/curves.png where there are epochs to draw and Matplotlib is installed."""
    from recvae.checkpoint import read_metrics

    rows = read_metrics(run)
    if rows and find_spec("matplotlib") is not None:
        from recvae.plots import training_curves

        training_curves(rows, run / "curves.png", metric=metric, title=title)


@contextmanager
def _leave_nothing_unfinished(run: Path, *, fresh: bool) -> Iterator[None]:
    """Remove a run folder that this command began, if it ends before the folder holds a model."""
    try:
        yield
    except BaseException:
        if fresh and run.is_dir() and not (run / "model.safetensors").is_file():
            names = {p.name for p in run.iterdir() if not (p.name.endswith(".part") or p.match("fixed-*.safetensors"))}
            if names <= {"run.json", "items.csv", "metrics.jsonl", "resume"}:
                shutil.rmtree(run)
        raise
