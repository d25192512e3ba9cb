"""The outcome of a backtest: over all questions, by window and by clicks seen, with paired comparisons by user."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from eval import SEEN, Evaluation, summarize
from recvae.experiments.backtest import KIND, Asked, Backtest
from recvae.files import JsonObject
from recvae.reports.machine import environment
from recvae.reports.results import ModelResult, results

if TYPE_CHECKING:
    Values = Mapping[str, NDArray[np.float64]]


def outcome(backtest: Backtest, metric: str) -> JsonObject:
    """Return the results shape (:mod:`recvae.reports.tables`) with windows, clicks seen and the fits of each model.

    ``metric``: the one that models are compared by; the user of a question is its cluster. Raises
    :class:`FormatError` for a part that is missing or damaged.
    """
    asked = backtest.asked()
    measured, parts, values = {}, {}, {}
    for entrant in backtest.entrants:
        label = entrant.label
        parts[label] = backtest.parts(entrant)
        mine = values[label] = {
            name: np.concatenate([np.array(part["values"][name], np.float64) for part in parts[label]])
            for name in backtest.plan.metrics
        }
        metrics = {name: summarize(of_questions, clusters=asked.user) for name, of_questions in mine.items()}
        measured[label] = ModelResult(
            Evaluation(metrics, dict(mine), 0, 0.0, 0.0),
            train_seconds=round(sum(part["seconds"] for part in parts[label]), 3),
            config=entrant.config.to_dict(),
        )
    log = backtest.log
    dataset = {"name": log.name, "source": log.source, "clicks": len(log.data), "users": log.data.n_users}
    found = results(measured, dataset, environment(), metric=metric, clusters=asked.user)
    for entrant in backtest.entrants:
        model = found["models"][entrant.label]
        del model["rank_seconds"]  # not measured apart from the metrics
        model["config_from"] = entrant.source
        model["fits"] = [
            {key: value for key, value in part.items() if key not in ("values", "config")}
            for part in parts[entrant.label]
        ]
        mine = values[entrant.label]
        model["windows"] = [_means(mine, asked, asked.window == place) for place in range(len(backtest.windows))]
        model["by_clicks_seen"] = [_means(mine, asked, asked.seen == place) for place in range(len(SEEN))]
    return {
        "kind": KIND,
        **found,
        "counted": "questions",
        "plan": {**backtest.plan.to_dict(), "latest": float(log.times[-1])},
        "windows": _windows(backtest, asked, next(iter(parts.values()))),
        "clicks_seen": [
            {"least": least, "most": most, "questions": int(np.count_nonzero(asked.seen == place))}
            for place, (least, most) in enumerate(SEEN)
        ],
    }


def _means(values: "Values", asked: Asked, chosen: NDArray[np.bool_]) -> JsonObject:
    return {
        name: summarize(of_questions[chosen], clusters=asked.user[chosen]).to_dict()
        for name, of_questions in values.items()
    }


def _windows(backtest: Backtest, asked: Asked, parts: list[JsonObject]) -> list[JsonObject]:
    """Return for each window its times, and what was asked in it."""
    from data_prep.moments import written

    unknown: dict[int, int] = {}
    for part in parts:
        places = [place for place, window in enumerate(backtest.windows) if window.fit == part["fit"]]
        unknown |= dict(zip(places, part["clicks_on_unknown_items"], strict=True))
    latest = float(backtest.log.times[-1])
    found = []
    for place, window in enumerate(backtest.windows):
        mine = asked.window == place
        found.append(
            {
                "begin": window.begin,
                "end": window.end,
                "from": written(window.begin, latest),
                "fit": window.fit,
                "questions": int(np.count_nonzero(mine)),
                "users": len(np.unique(asked.user[mine])),
                "first_questions": int(np.count_nonzero(mine & (asked.seen == 0))),
                "clicks": int(asked.clicks[mine].sum()),
                "clicks_on_unknown_items": unknown.get(place, 0),
            }
        )
    return found
