"""One model measured on one dataset: trained on its training clicks, evaluated on its held-out users."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eval import Evaluation, evaluate, parse_metrics
from recvae.config import RunConfig
from recvae.experiments.inputs import held_out, learned_from, validate_with
from recvae.recommender import build
from recvae.reports.results import ModelResult

if TYPE_CHECKING:
    from data_prep.dataset import Dataset
    from recvae.recommender import Recommender


OnStep = Callable[[int, int], None]  # updates done in this epoch, updates in an epoch
OnEpoch = Callable[[Mapping[str, Any]], None]  # the plain values of an EpochReport


def facts(data: "Dataset", **more: Any) -> dict[str, Any]:
    """Return what a run or a table says of its dataset, as plain values, with ``more`` added."""
    manifest = data.manifest
    return {
        "name": data.name,
        "vocabulary": data.vocabulary_hash,
        **{key: manifest[key] for key in ("filters", "protocol", "counts") if key in manifest},
        **more,
    }


def other_split(told: Mapping[str, Any], data: "Dataset") -> bool:
    """Return whether the facts that a run keeps of its dataset are of another split than ``data``.

    Equal columns do not make the same split: the clicks that one holds out may be training clicks of the other. A run
    that was trained from Python without facts tells nothing.
    """
    ours = facts(data)
    return any(told[key] != ours.get(key) for key in ("filters", "protocol", "counts") if key in told)


def evaluated(
    model: "Recommender",
    data: "Dataset",
    metrics: str | Sequence[str],
    *,
    split: str = "test",
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Return the evaluation of a model on the held-out users of ``split``."""
    popularity = None
    if any(metric.name == "novelty" for metric in parse_metrics(metrics)):
        import numpy as np

        popularity = np.bincount(data.train.indices, minlength=data.n_items)
    users = held_out(model, data, split)
    return evaluate(model, users.query, users.clicks, metrics, popularity=popularity, progress=progress)


def measure(
    config: RunConfig,
    data: "Dataset",
    metrics: str | Sequence[str],
    *,
    metric: str = "ndcg@100",
    device: str = "auto",
    on_step: OnStep | None = None,
    on_epoch: OnEpoch | None = None,
) -> "tuple[Recommender, ModelResult]":
    """Train one model, ``metric`` on the validation users choosing its epoch, and evaluate it once on test users."""
    model = build(config, device)
    model.dataset = facts(data, validation_metric=metric)
    hooks: dict[str, Any] = {}
    if config.train is not None:
        hooks["on_step"] = on_step
        hooks["on_epoch"] = None if on_epoch is None else lambda report: on_epoch(report.to_dict())
    validation = validate_with(data, metric, model)
    given = learned_from(model, data)  # read before the clock starts
    began = time.perf_counter()
    model.fit(**given, validation=validation, **hooks)
    seconds = time.perf_counter() - began
    if config.train is None:
        model.metrics = {"validation": validation(model)}
    evaluation = evaluated(model, data, metrics)
    result = ModelResult(evaluation, train_seconds=round(seconds, 3), config=model.config.to_dict())
    return model, result
