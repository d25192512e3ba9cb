"""``recvae tune``: a search for a model's best options on the validation users."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recvae.cli.options import METRIC, DatasetFolder, Debug, Device, Json, ModelName, Overwrite, Quiet, Seed, Threads
from recvae.cli.output import check_folder, hold
from recvae.cli.terminal import Follower, Interrupted, Terminal, amount, share
from recvae.cli.threads import use_threads
from recvae.files import Document, JsonObject
from recvae.options import space_text, value_text
from recvae.registry import entry
from recvae.training.threads import SlowEpochs

if TYPE_CHECKING:
    from data_prep.dataset import Dataset
    from recvae.config import RunConfig
    from recvae.experiments.space import Plan
    from recvae.experiments.study import Study, Trial
    from recvae.options import Space


def tune(
    folder: DatasetFolder,
    out: Annotated[Path, typer.Option(metavar="DIR", help="The study's folder to write.", show_default=False)],
    model: ModelName = None,
    config: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help="Where to start: a shipped configuration's name, or a TOML file."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="One option, such as train.epochs=50, that is not searched; repeatable."
        ),
    ] = None,
    search: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=LOW:HIGH[:log]|KEY=A,B,C",
            help="Search this option so, such as model.l2=10:1000:log, instead of the way it declares; repeatable.",
        ),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(metavar="N", help="How many configurations to try: 30, or what --minutes allows.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(metavar="M", help="Begin no trial after this many minutes of training.")
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help=f"What is to be large, on the validation users: {METRIC}, of ratings r2, or the resumed study's."
        ),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL|FILE",
            help="Share the search with other processes, by a database such as sqlite:///studies.db or a journal file. "
            "What is tried then depends on their speed, and is not the same when run again.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the study in DIR; only a new budget need be given.")
    ] = False,
    seed: Seed = None,
    device: Device = "auto",
    threads: Threads = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Search for the options that validate best, and write them as a configuration that 'recvae train' takes.

    [dim]recvae tune ml-1m --model recvae --trials 30 --out studies/ml-1m-recvae[/]
    [dim]recvae tune ml-1m --model recvae --storage search.journal --out studies/worker-1[/]
    """
    used = use_threads(threads)  # before torch is loaded
    from data_prep.dataset import Dataset
    from recvae.errors import InputError
    from recvae.experiments import study as studies
    from recvae.experiments import tune as tuning
    from recvae.experiments.shared import tune_shared

    terminal = Terminal(json=json, quiet=quiet)
    hold(out, folder, config)
    if storage is not None and resume:
        raise InputError("--storage goes on with what the storage holds: leave --resume out, and name another --out.")
    before = studies.read_study(out) if resume and (out / studies.STUDY).is_file() else None
    if before is None:
        check_folder(out, marker=studies.STUDY, overwrite=overwrite)
    data = Dataset.load(folder)
    plan = _plan(
        data, model, before, config=config, settings=settings or [], searches=search or [], seed=seed, metric=metric
    )
    wanted = (trials, None if minutes is None else minutes * 60)
    if before is not None and wanted == (None, None):
        wanted = (before.trials_wanted, before.seconds_wanted)
    elif wanted == (None, None):
        wanted = (tuning.TRIALS, None)
    terminal.note(*_introduction(plan, data, wanted, before))
    show = _Show(terminal, plan.metric, wanted[0], used)
    command = ["recvae", "tune", str(folder), "--model", plan.model, "--metric", plan.metric]
    for name, values in (
        *(("--config", [config]), ("--set", settings), ("--search", search)),
        *(("--trials", [trials]), ("--minutes", [minutes]), ("--seed", [seed])),
    ):
        for value in values or []:
            command += [] if value is None else [name, str(value)]
    how: JsonObject = {
        "trials": wanted[0],
        "seconds": wanted[1],
        "device": device,
        "overwrite": overwrite,
        "command": shlex.join(command),
        "events": tuning.Events(show.trial, show.step, show.epoch, show.done),
    }
    try:
        if storage is None:
            study = tuning.tune(plan, data, out, resume=resume, **how)
        else:
            study = tune_shared(plan, data, out, storage, **how)
    except KeyboardInterrupt:
        show.close()
        if storage is not None:
            raise Interrupted(
                "Stopped. The storage keeps the finished trials: run the same command with another --out to go on."
            ) from None
        raise _stopped(folder, out, device, kept=before is not None or show.finished) from None
    finally:
        show.close()
    terminal.result(*_summary(study))
    written = [file.name for file in sorted(out.iterdir()) if not file.name.startswith(".")]
    terminal.note(f"Written to {out}: {', '.join(written)}.")
    if studies.FIGURE not in written:
        terminal.note("No figure: install Matplotlib with pip install 'recvae[plot]'.")
    assert study.config is not None
    metric_too = "" if plan.metric == _default_metric(study.config) else f" --metric {plan.metric}"
    best = shlex.quote(str(out / studies.BEST))
    terminal.next(f"recvae train {shlex.quote(str(folder))} --config {best}{metric_too} --out RUN")
    terminal.document({"study": str(out), "threads": used, **study.to_dict()})


def _plan(
    data: "Dataset",
    model: str | None,
    before: "Study | None",
    *,
    config: str | None,
    settings: list[str],
    searches: list[str],
    seed: int | None,
    metric: str | None,
) -> "Plan":
    """Return the search that the arguments describe; a study to be resumed brings its own."""
    from dataclasses import replace

    from recvae.errors import ConfigError, InputError
    from recvae.experiments.space import parse_search, plan

    if before is not None:
        if model not in (None, before.plan.model):
            raise InputError(
                f"{before.folder} holds a study of '{before.plan.model}', not of '{model}'. Leave --model out to "
                "resume it."
            )
        if config is None and seed is None and not settings and not searches:
            return replace(before.plan, metric=metric or before.plan.metric)
        model, metric = before.plan.model, metric or before.plan.metric
    space: dict[str, Space] = {}
    for text in searches:
        key, kind = parse_search(text)
        if key in space:
            raise ConfigError(f"{key} is searched twice. Give one --search for it.")
        space[key] = kind
    made = plan(model, config=config, settings=settings, space=space, seed=seed, manifest=data.manifest)
    return replace(made, metric=metric or _default_metric(made.start))


def _default_metric(config: "RunConfig") -> str:
    """Return the metric that 'recvae train' chooses by where none is named."""
    from recvae.recommender import build

    return build(config, "cpu").default_metric


def _introduction(plan: "Plan", data: "Dataset", wanted: tuple[Any, Any], before: "Study | None") -> list[str]:
    """Return lines about the searched options, the dataset and the budget."""
    budget = [] if wanted[0] is None else [amount(wanted[0], "trial")]
    budget += [] if wanted[1] is None else [f"{wanted[1] / 60:g} minutes"]
    users = amount(data.n_users("validation"), "validation user")
    lines = [f"{entry(plan.model).title} on {data.name}: {' or '.join(budget)}, {plan.metric} of {users} decides"]
    lines += [f"  search {key}={space_text(space)}" for key, space in plan.space.items()]
    if not plan.space:
        lines.append("  no option of this model is searched: there is one trial")
    if before is not None:
        lines.append(f"  {amount(len(before.trials), 'trial')} done already")
    return lines


def _settings_text(settings: JsonObject) -> str:
    return " ".join(f"{key.partition('.')[2]}={value_text(value)}" for key, value in settings.items())


def _summary(study: "Study") -> list[str]:
    """Return lines about the best trial, and the number of trials that were complete, pruned or failed."""
    best, metric = study.best, study.plan.metric
    assert best is not None
    assert best.value is not None
    where = "" if best.epoch is None else f", epoch {best.epoch}"
    first = study.trials[0]
    lines = [
        f"Best of {amount(len(study.trials), 'trial')}: validation {metric} {share(best.value)} "
        f"(trial {best.number}{where}; {best.source})"
    ]
    lines += [f"  {key} = {value_text(value)}" for key, value in best.settings.items()]
    if first.value is not None and best.number != 1:
        lines.append(f"It began at {share(first.value)}, with the settings given.")
    states = [trial.state for trial in study.trials]
    ended = [f"{states.count(state)} {state}" for state in ("pruned", "failed") if state in states]
    if study.trials_wanted is not None and len(states) < study.trials_wanted and study.seconds_wanted is None:
        ended.append("everything there is to try was tried")
    lines.append(f"{', '.join([*ended, f'{study.seconds:.1f} s of training in all'])}.")
    return lines


def _stopped(folder: Path, out: Path, device: str, *, kept: bool) -> Interrupted:
    """Return where things stand after Ctrl-C."""
    from recvae.experiments.study import BEST, read_study

    if not kept:
        return Interrupted("Stopped before the first trial was done; nothing is kept.")
    study = read_study(out)
    again = f"recvae tune {shlex.quote(str(folder))} --out {shlex.quote(str(out))} --resume"
    again += "" if device == "auto" else f" --device {device}"
    best = study.best
    score = "" if best is None else f"; {out / BEST} has the best, {study.plan.metric} {share(best.value or 0.0)}"
    return Interrupted(f"Stopped after {amount(len(study.trials), 'trial')}{score}. Continue with: {again}")


class _Show(Follower):
    """Shows the search as it goes: a bar per trial on a terminal, and everywhere a line when it is done."""

    def __init__(self, terminal: Terminal, metric: str, total: int | None, threads: int) -> None:
        super().__init__(terminal)
        self.metric, self.total = metric, total
        self.watch = SlowEpochs(threads)
        self.finished = False  # at least one trial

    def epoch(self, row: Document) -> None:
        """Show an epoch that is done."""
        super().epoch(row)
        self.slow(self.watch.sentence(row))

    def trial(self, number: int, config: "RunConfig") -> None:
        self.watch.another()
        if self.terminal.err.is_terminal:  # elsewhere every epoch would be a line
            epochs = None if config.train is None else config.train.epochs
            self.display = self.terminal.epochs(self.metric, epochs=epochs, label=self._name(number))
            self.display.__enter__()

    def done(self, trial: "Trial", study: "Study") -> None:
        self.close()
        self.finished = True
        best = study.best
        parts = [self._name(trial.number)]
        if trial.value is not None:
            parts.append(f"{self.metric} {share(trial.value)} {'*' if best is trial else ' '}")
        elif trial.state == "pruned":
            parts.append(f"pruned at epoch {trial.scores[-1][0]} with {share(trial.best_so_far[-1][1])}")
        else:
            parts.append(f"failed: {trial.error}")
        if best is not None:
            parts.append(f"best {share(best.value or 0.0)}")
        parts.append(_settings_text(trial.settings))
        parts.append(f"{trial.seconds:.1f} s" if trial.same_as is None else f"the same as trial {trial.same_as}")
        self.terminal.say("  ".join(part for part in parts if part))

    def _name(self, number: int) -> str:
        return f"trial {number}" if self.total is None else f"trial {number:>{len(str(self.total))}}/{self.total}"
