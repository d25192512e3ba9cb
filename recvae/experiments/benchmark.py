"""Models measured under the same conditions: the same data, validation metric, evaluator and users, one at a time.

:func:`measure` trains and evaluates one model here; :func:`benchmark` gives each model a fresh process, so that its
peak memory and its threads are its own and a model that fails takes nothing else with it. Nothing here prints.
"""

import importlib.util
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from eval import LIST_SET, MetricName, parse_metric, parse_metrics
from recvae.config import RunConfig, load_toml, resolve, run_config, shipped_for
from recvae.config import find as find_config
from recvae.defaults import Size
from recvae.errors import InputError, WorkError
from recvae.experiments.benchmark_folder import RESULTS, Kept
from recvae.experiments.facts import facts
from recvae.experiments.jobs import Send, in_a_process, peak_memory_mb
from recvae.experiments.measure import OnEpoch, OnStep, measure
from recvae.files import Document, JsonObject, write_text
from recvae.registry import Entry, adopt, entry, models
from recvae.reports.machine import environment
from recvae.reports.results import ModelResult, results, write_results
from recvae.reports.tables import markdown_table
from recvae.training.threads import SlowEpochs, limited

TABLE, FIGURE = "results.md", "comparison.png"


@dataclass(frozen=True)
class Contestant:
    """One model with its settings, and the source of these settings."""

    config: RunConfig
    source: str  # "defaults", "shipped ml-1m-recvae", "--config my.toml"


@dataclass
class Outcome:
    """The results shape (empty where every model failed), and a sentence for each model that failed."""

    results: JsonObject
    failures: dict[str, str] = field(default_factory=dict)
    tracebacks: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Events:
    """Functions for progress; ``on_done`` gets the evaluation's metrics, or None for a failure."""

    on_model: Callable[[str, int, int], None] = lambda name, place, total: None  # place from 1
    on_step: OnStep = lambda done, total: None
    on_epoch: OnEpoch = lambda row: None
    on_done: Callable[[str, ModelResult | None], None] = lambda name, result: None
    on_slow: Callable[[str], None] = lambda sentence: None  # other programs keep a model's threads waiting


def contenders() -> list[str]:
    """Return the names of the models that are compared where none are named."""
    return [name for name, each in models().items() if each.model_class().contends]


def contestants(
    manifest: Document, models: Sequence[str], configs: Sequence[str] = (), seed: int | None = None
) -> list[Contestant]:
    """Return the models to compare, each with its settings.

    A model's settings are those of the one among ``configs`` (names or files) that is for it, else the shipped ones for
    the dataset with this manifest, else the defaults; what is open in them follows the manifest's counts. Raises
    :class:`InputError` for an unknown model or a configuration without use.
    """
    if not models:
        raise InputError("No model is named. Name at least one, for example --models recvae,ease,popularity.")
    for name in models:
        entry(name)
    given: dict[str, str] = {}
    for config in configs:
        name = str(load_toml(find_config(config)).get("name"))
        if name not in models:
            raise InputError(f"The configuration {config} is for '{name}', which is not among the models compared.")
        if name in given:
            raise InputError(f"Two configurations are for '{name}': {given[name]} and {config}. Give one.")
        given[name] = config
    chosen = []
    for name in dict.fromkeys(models):
        known = shipped_for(manifest, name)
        if name in given:
            settings, source = resolve(name, given[name], seed=seed), f"--config {given[name]}"
        elif known is not None:
            settings, source = resolve(name, known, seed=seed), f"shipped {known}"
        else:
            settings, source = resolve(name, seed=seed), "defaults"
        chosen.append(Contestant(settings.for_data(Size.of_training(manifest)), source))
    return chosen


# Each model in a process of its own.


@dataclass(frozen=True)
class _Task:
    """The message with which a process starts: the model to train, and how."""

    folder: Path
    model: Entry  # known there too, where a program registered it here
    config: JsonObject
    metrics: str
    metric: str
    device: str
    threads: int | None
    keep: Path | None  # the run folder to write


def benchmark(
    folder: Path,
    models: Sequence[Contestant],
    *,
    metrics: str,
    metric: str = "ndcg@100",
    device: str = "auto",
    threads: int | None = None,
    kept: Kept | None = None,
    events: Events | None = None,
) -> Outcome:
    """Measure each of ``models`` on the dataset in ``folder``, each in a fresh process, one after the other.

    ``threads``: of each process, None for torch's own number. ``kept``: where trained models and their results stay; a
    model that is finished there is not trained again. A model that fails is left out of the results and has its
    sentence in ``failures``. Raises :class:`InputError` for
    metrics, a dataset or a model (of ratings, whose histories say more than the others') that cannot be used, before
    any work starts.
    """
    from data_prep.dataset import Dataset

    names = parse_metrics(metrics)
    if parse_metric(metric).name in LIST_SET:
        raise InputError(f"'{metric}' has no value per user, so it cannot choose an epoch. Use, for example, ndcg@100.")
    for contestant in models:
        if "ratings" in entry(contestant.config.name).model_class().reads(contestant.config.model):
            raise InputError(
                f"'{contestant.config.name}' learns from ratings, and a benchmark compares models of clicks. Use "
                "recvae train and recvae evaluate, or benchmarks/accuracy/imputation.py."
            )
    data = Dataset.load(folder)
    events = events or Events()
    outcome = Outcome({})
    measured: dict[str, ModelResult] = {}
    for place, contestant in enumerate(models, start=1):
        name = contestant.config.name
        finished = None if kept is None else kept.result(name)
        if finished is not None:
            measured[name] = finished
            continue
        events.on_model(name, place, len(models))
        keep = None if kept is None else kept.place(name)
        asked = ",".join(map(str, names))
        task = _Task(folder, entry(name), contestant.config.to_dict(), asked, metric, device, threads, keep)
        try:
            answer = _in_a_process(task, events)
        except BaseException:
            if kept is not None:
                kept.tidy(name)
            raise
        if isinstance(answer, ModelResult):
            measured[name] = answer
            if kept is not None:
                kept.add(name, answer)
        else:
            outcome.failures[name], outcome.tracebacks[name] = answer
        events.on_done(name, measured.get(name))
    if measured:
        main = sorting_metric(metric, names)
        about = environment() if threads is None else {**environment(), "threads": threads}
        outcome.results = results(measured, facts(data, split="test", validation_metric=metric), about, metric=main)
        for contestant in models:
            if contestant.config.name in measured:
                outcome.results["models"][contestant.config.name]["config_from"] = contestant.source
    return outcome


def sorting_metric(metric: str, names: Sequence[MetricName | str]) -> str:
    """Return which of the metrics measured, ``names``, the table is sorted by: the validation metric where it is one.

    Else the first that has a value per user, so that models can be compared in it.
    """
    parsed = [parse_metric(str(name)) for name in names]
    per_user = [str(name) for name in parsed if name.name not in LIST_SET]
    return metric if metric in per_user else next(iter(per_user), str(parsed[0]))


def _in_a_process(task: _Task, events: Events) -> ModelResult | tuple[str, str]:
    """Return a model's result, or a sentence and a traceback; pass its progress on as it comes."""
    hear: dict[str, Callable[..., object]]
    hear = {"step": events.on_step, "epoch": events.on_epoch, "slow": events.on_slow}
    return in_a_process(_work, hear, task)


def _work(send: Send, task: _Task) -> ModelResult:
    """Measure one model and send its progress."""
    last = 0.0

    def on_step(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > 0.2:
            last = now
            send("step", done, total)

    def on_epoch(row: Document) -> None:
        send("epoch", row)
        if watch is not None and (sentence := watch.sentence(row)):
            send("slow", sentence)

    from data_prep.dataset import Dataset

    adopt(task.model)
    with nullcontext() if task.threads is None else limited(task.threads):
        watch = None if task.threads is None else SlowEpochs(task.threads)
        model, result = measure(
            run_config(task.config),
            Dataset.load(task.folder),
            task.metrics,
            metric=task.metric,
            device=task.device,
            on_step=on_step,
            on_epoch=on_epoch,
        )
    result = replace(result, peak_memory_mb=peak_memory_mb())
    if task.keep is not None:
        model.save(task.keep, overwrite=True)  # of a process that was killed before it could tell
    return result


# Files.


def write_report(folder: Path, outcome: Outcome) -> list[str]:
    """Write results.json, results.md and, where Matplotlib is installed, comparison.png; return their names."""
    if not outcome.results:
        raise WorkError("There are no results to write: every model failed.")
    write_results(folder / RESULTS, outcome.results)
    lines = [f"# {outcome.results['dataset']['name']}\n", markdown_table(outcome.results), _settings(outcome)]
    write_text(folder / TABLE, "\n".join(lines))
    if importlib.util.find_spec("matplotlib") is None:
        return [RESULTS, TABLE]
    from recvae.reports.figures import comparison

    comparison(outcome.results, folder / FIGURE)
    return [RESULTS, TABLE, FIGURE]


def _settings(outcome: Outcome) -> str:
    """Return Markdown about the source of each model's settings, the failures, and the machine."""
    models, machine = outcome.results["models"], outcome.results["environment"]
    lines = ["Settings: " + "; ".join(f"{name}: {model['config_from']}" for name, model in models.items()) + ".", ""]
    lines += [f"{name} failed: {sentence}\n" for name, sentence in outcome.failures.items()]
    versions = ", ".join(f"{package} {version}" for package, version in machine.get("versions", {}).items())
    lines.append(f"{machine.get('cpu')}, {machine.get('cores')} cores; Python {machine.get('python')}, {versions}.")
    return "\n".join(lines) + "\n"
