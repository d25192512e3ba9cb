"""The files that a benchmark keeps as it goes, so that it can go on after it was stopped.

    benchmark.json      what is compared, how it is measured, and on what: fixed when the benchmark begins
    runs/NAME/          the trained model: a run folder like any other
    runs/NAME.json      its result, with the values per user, from which the table is made

The folder appears with the first model that is finished; the second file of a model says that it is. A model that was
under way when the benchmark was stopped is trained from its start: its seconds are those of one run.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eval import Evaluation, Metric
from recvae.config import RunConfig, run_config
from recvae.errors import ConfigError, FormatError, InputError, RecvaeError
from recvae.files import Document, JsonObject, read_json, whole_folder, write_json, writing
from recvae.files.swap import PART
from recvae.reports.results import ModelResult

PLAN, RUNS, RESULTS = "benchmark.json", "runs", "results.json"
KIND, FORMAT = "recvae-benchmark", 1


@dataclass(frozen=True)
class Plan:
    """The plan of a benchmark: models with their settings, metrics, the validation metric, and the dataset's facts.

    ``models``: the configuration of each, and where that comes from.
    """

    models: tuple[tuple[RunConfig, str], ...]
    metrics: str
    metric: str
    dataset: Document

    def to_dict(self) -> JsonObject:
        """Return plain values for JSON."""
        models = [{"config": config.to_dict(), "source": source} for config, source in self.models]
        return {"models": models, "metrics": self.metrics, "metric": self.metric, "dataset": dict(self.dataset)}


def read_plan(folder: Path) -> Plan:
    """Return the plan of a benchmark's folder; raise :class:`FormatError` where it is damaged or another version's."""
    told = read_json(folder / PLAN)
    try:
        if told["kind"] != KIND or told["format"] != FORMAT:
            raise ValueError("another kind or version")
        models = tuple((run_config(model["config"]), str(model["source"])) for model in told["models"])
        return Plan(models, str(told["metrics"]), str(told["metric"]), dict(told["dataset"]))
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise FormatError(
            f"{folder / PLAN} was altered, or is another version's. Benchmark again with --overwrite."
        ) from error


class Kept:
    """The folder of a benchmark under way; use :func:`begin` or :func:`go_on` to get it."""

    def __init__(self, folder: Path, plan: Plan, before: Path | None, *, overwrite: bool) -> None:
        self.folder, self.plan, self.overwrite = folder, plan, overwrite
        self.before = before  # a temporary folder, until the first model is finished

    def place(self, name: str) -> Path:
        """Return where the model's run folder is to be written."""
        return (self.before or self.folder) / RUNS / name

    def tidy(self, name: str) -> None:
        """Remove the unfinished files of a process that was ended while it wrote the model's run folder."""
        with suppress(RecvaeError), writing(self.place(name)):
            pass

    def is_finished(self, name: str) -> bool:
        """Whether the model is trained and measured."""
        return self.before is None and (self.folder / RUNS / f"{name}.json").is_file()

    def result(self, name: str) -> ModelResult | None:
        """Return the result of a model that is finished, None for another.

        Raises :class:`FormatError` where its file is damaged.
        """
        path = self.folder / RUNS / f"{name}.json"
        if not self.is_finished(name):
            return None
        told = read_json(path)
        try:
            measured = told["evaluation"]
            evaluation = Evaluation(
                metrics={key: _metric(value) for key, value in measured["metrics"].items()},
                per_user={key: np.array(values, dtype=np.float64) for key, values in told["per_user"].items()},
                left_out=int(measured["left_out"]),
                rank_seconds=float(measured["rank_seconds"]),
                score_seconds=float(measured["score_seconds"]),
            )
            return ModelResult(evaluation, told["train_seconds"], None, told["peak_memory_mb"], dict(told["config"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(
                f"{path} was altered. Delete it, and --resume trains and measures {name} again."
            ) from error

    def add(self, name: str, result: ModelResult) -> None:
        """Keep the result of a model whose run folder is written; the first one makes the folder."""
        value = {
            "evaluation": result.evaluation.to_dict(),
            "per_user": {
                key: [None if np.isnan(x) else x for x in values.tolist()]
                for key, values in result.evaluation.per_user.items()
            },
            "train_seconds": result.train_seconds,
            "peak_memory_mb": result.peak_memory_mb,
            "config": dict(result.config),
        }
        if self.before is None:
            write_json(self.folder / RUNS / f"{name}.json", value)
            return
        with whole_folder(self.folder, marker=marker(self.folder), overwrite=self.overwrite) as temporary:
            write_json(temporary / PLAN, {"kind": KIND, "format": FORMAT, **self.plan.to_dict()})
            (temporary / RUNS).mkdir()
            self.place(name).rename(temporary / RUNS / name)
            write_json(temporary / RUNS / f"{name}.json", value)
        self.before = None


def marker(folder: Path) -> str:
    """Return the file by which a folder is known as a benchmark's: one that was stopped has no results yet."""
    return PLAN if (folder / PLAN).is_file() else RESULTS


@contextmanager
def begin(folder: Path, plan: Plan, *, overwrite: bool = False) -> Iterator[Kept]:
    """Yield the folder of a new benchmark; an earlier benchmark stays there until the first model is finished."""
    with writing(folder):
        before = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=PART, dir=folder.parent))
        try:
            yield Kept(folder, plan, before, overwrite=overwrite)
        finally:
            shutil.rmtree(before, ignore_errors=True)


def go_on(folder: Path, plan: Plan, dataset: Document) -> Kept:
    """Return the folder of a benchmark to be resumed; raise :class:`InputError` where ``dataset`` is another one."""
    if any(plan.dataset.get(key) != dataset.get(key) for key in ("vocabulary", "filters", "protocol", "counts")):
        raise InputError(
            f"{folder} compares models on {plan.dataset.get('name')}, prepared otherwise than the dataset named here. "
            "--resume needs the dataset folder that it was begun with."
        )
    return Kept(folder, plan, None, overwrite=False)


def _metric(value: Document) -> Metric:
    """Return the metric whose description by :meth:`eval.Metric.to_dict` this is."""
    mean, se = (np.nan if value[key] is None else float(value[key]) for key in ("mean", "se"))
    return Metric(mean, se, int(value["users"]))
