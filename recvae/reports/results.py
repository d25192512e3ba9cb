"""The results shape: the JSON object that every comparison of models writes, reads and sorts."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from eval import Evaluation, compare
from recvae.errors import FormatError, InputError
from recvae.files import Document, JsonObject, read_json, write_json

MAIN_METRIC = "ndcg@100"  # the papers select and compare models by it


@dataclass(frozen=True)
class ModelResult:
    """The evaluation of one model, and its cost.

    ``train_seconds``: wall time of fitting; ``peak_memory_mb``: peak resident memory of the process, in 10^6 bytes;
    ``rank_seconds``: if None, the evaluation's; ``config``: JSON values. None means not measured.
    """

    evaluation: Evaluation
    train_seconds: float | None = None
    rank_seconds: float | None = None
    peak_memory_mb: float | None = None
    config: Document = field(default_factory=dict)


def results(
    models: Mapping[str, ModelResult],
    dataset: Document,
    environment: Document,
    *,
    metric: str = MAIN_METRIC,
    clusters: npt.NDArray[np.int64] | None = None,
) -> JsonObject:
    """Return the results shape for ``models`` by name, in their order.

    ``metric`` is the main metric, by which the best model is found and ``versus_best`` is measured; where no model has
    it, the first metric with a value per user. ``clusters``: the user of each value, where a user has several. Raises
    :class:`~recvae.errors.InputError` where there is no model, or where two models were evaluated on different users.
    """
    if not models:
        raise InputError("There are no results: name at least one model.")
    shapes = {name: _model_shape(model) for name, model in models.items()}
    arrays = {name: model.evaluation.per_user for name, model in models.items()}
    if not any(metric in values for values in arrays.values()):
        metric = next((other for values in arrays.values() for other in values), metric)
    means = {name: _mean(shapes[name], metric) for name in shapes}
    best = max(shapes, key=lambda name: means[name])
    for name in shapes:
        if name != best and math.isfinite(means[name]):
            versus = compare(arrays[name][metric], arrays[best][metric], clusters=clusters)
            shapes[name]["versus_best"] = {"metric": metric, **versus.to_dict()}
    return {"models": shapes, "dataset": dict(dataset), "environment": dict(environment)}


def _model_shape(model: ModelResult) -> JsonObject:
    """Return one model's part of the results shape, without the comparison."""
    evaluation = model.evaluation.to_dict()
    fields = {
        "metrics": evaluation["metrics"],
        "left_out": evaluation["left_out"],
        "train_seconds": model.train_seconds,
        "rank_seconds": evaluation["rank_seconds"] if model.rank_seconds is None else model.rank_seconds,
        "peak_memory_mb": model.peak_memory_mb,
        "config": dict(model.config),
    }
    return {key: value for key, value in fields.items() if value is not None}


def write_results(path: Path, value: Document) -> None:
    """Write results.json, whole or not at all."""
    write_json(path, value)


def read_results(path: Path) -> JsonObject:
    """Read results.json; raise :class:`~recvae.errors.FormatError` where it is missing or has another shape."""
    value = read_json(path)
    wrong = _shape_mistake(value)
    if wrong:
        raise FormatError(f"{path} is not a results file: {wrong}. Make it with 'recvae benchmark' or 'evaluate'.")
    checked: JsonObject = value
    return checked


def _shape_mistake(value: object) -> str:
    """Return the first fault in the results shape, '' where there is none."""
    if not isinstance(value, dict):
        return "it holds no JSON object"
    for key in ("models", "dataset", "environment"):
        if not isinstance(value.get(key), dict):
            return f"'{key}' is missing or no object"
    if not value["models"]:
        return "it has no models"
    for name, model in value["models"].items():
        metrics = model.get("metrics") if isinstance(model, dict) else None
        if not isinstance(metrics, dict):
            return f"model '{name}' has no metrics"
        for metric, parts in metrics.items():
            if not isinstance(parts, dict) or not all(_number_or_none(parts.get(key)) for key in ("mean", "se")):
                return f"metric '{metric}' of model '{name}' has no mean and se"
        versus = model.get("versus_best")
        if versus is not None and (
            not isinstance(versus, dict)
            or not isinstance(versus.get("metric"), str)
            or not all(_number_or_none(versus.get(key)) for key in ("difference", "low", "high", "p"))
        ):
            return f"'versus_best' of model '{name}' is not a comparison"
        for key in ("train_seconds", "rank_seconds", "peak_memory_mb"):
            if not _number_or_none(model.get(key)):
                return f"'{key}' of model '{name}' is not a number"
    return ""


def _number_or_none(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value))


def main_metric(results: Document) -> str:
    """Return the metric that models are sorted by: the metric of the comparison, else ndcg@100, else the first."""
    models = results["models"].values()
    compared = [model["versus_best"]["metric"] for model in models if model.get("versus_best")]
    names = [name for model in models for name in model["metrics"]]
    return str(next(iter(compared), MAIN_METRIC if MAIN_METRIC in names or not names else names[0]))


def ranked_models(results: Document) -> list[str]:
    """Return the models' names, the best in the main metric first, those without it last."""
    metric = main_metric(results)
    return sorted(results["models"], key=lambda name: -_mean(results["models"][name], metric))


def _mean(model: Document, metric: str) -> float:
    """Return the mean of a metric, -inf where the model has none."""
    mean = model["metrics"].get(metric, {}).get("mean")
    return -math.inf if mean is None else float(mean)
