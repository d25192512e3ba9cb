"""Held-out ratings: the VAE with arbitrary conditioning beside a damped user-plus-item bias model; and its rankings.

The commands are in docs/models/vaeac.md. Each folder is a split with ratings. On each the bias model's two dampings are
tuned on the validation users, and VAEAC is trained, the validation users choosing its epoch. Who is a test user of
another folder than the first and a validation user of the first, where VAEAC's settings were chosen, is left out.
"""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.accuracy.rows import METRICS
from benchmarks.accuracy.tables import imputation, value
from benchmarks.harness import parser, write_record
from data_prep import Dataset
from eval import evaluate, rating_errors, resampled_means, summarize
from recvae.config import resolve
from recvae.experiments.measure import measure
from recvae.queries import Answer, Query
from recvae.recommender import Recommender

DAMPINGS = (0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 25.0)
TOLD = "multinomial, clicks, rated items left out"
Floats = NDArray[np.float64]


class DampedBias:
    """mean + item offset + user offset: least squares with damping times the squared offsets added, by turns.

    A user's offset is that of the ratings that are known of him, so users need not have been trained on.
    """

    def __init__(self, train: Any, of_users: float, of_items: float, turns: int = 20) -> None:
        ratings, (n_users, n_items) = train.tocoo(), train.shape
        self.of_users, self.mean = of_users, float(ratings.data.mean())
        counts = np.bincount(ratings.col, minlength=n_items) + of_items
        self.items, users = np.zeros(n_items), np.zeros(n_users)
        for _ in range(turns):
            users = self.user_offsets(train)
            left = ratings.data - self.mean - users[ratings.row]
            self.items = np.bincount(ratings.col, left, minlength=n_items) / counts

    def user_offsets(self, histories: Any) -> Floats:
        """Return the offset of each user, (n,), from the ratings that are known of them."""
        known = histories.tocoo()
        sums = np.bincount(known.row, known.data - self.mean - self.items[known.col], minlength=known.shape[0])
        return np.asarray(sums / (np.diff(histories.indptr) + self.of_users))

    def predict_ratings(self, histories: Any, where: Any) -> Any:
        """Return the ratings expected, CSR, where ``where`` has entries."""
        predicted = where.astype(np.float64)
        users = np.repeat(self.user_offsets(histories), np.diff(where.indptr))
        predicted.data = self.mean + self.items[where.indices] + users
        return predicted


def tuned_bias(data: Dataset) -> tuple[DampedBias, dict[str, float]]:
    """Return the bias model whose dampings give the validation users' held-out ratings the least squared error."""
    users = data.ratings("validation_in"), data.ratings("validation_out")
    found = []
    for of_users, of_items in product(DAMPINGS, DAMPINGS):
        model = DampedBias(data.ratings("train"), of_users, of_items)
        found.append((float((rating_errors(model, *users) ** 2).mean()), of_users, of_items, model))
    error, of_users, of_items, model = min(found, key=lambda entry: entry[:3])
    return model, {"of_users": of_users, "of_items": of_items, "validation_rmse": error**0.5}


def compared(errors: Any, people: Any) -> dict[str, Any]:
    """Return RMSE and MAE of both models, and of VAEAC less the bias model with 95 % bootstrap intervals over people.

    ``errors``: of "vaeac" and of "bias", (n,) each, for the same ratings; ``people``: whose each rating is, (n,).
    """
    answer: dict[str, Any] = {"ratings": len(people), "people": len(np.unique(people))}
    for name, power in (("rmse", 2), ("mae", 1)):
        powers = [np.abs(np.asarray(errors[model])) ** power for model in ("vaeac", "bias")]
        ours, bias = (float(values.mean() ** (1 / power)) for values in powers)
        drawn = resampled_means(powers, clusters=people, draws=10_000) ** (1 / power)
        low, high = np.quantile(drawn[:, 0] - drawn[:, 1], [0.025, 0.975])
        answer[name] = {
            "vaeac": {"mean": ours, "se": float(drawn[:, 0].std())},
            "bias": {"mean": bias, "se": float(drawn[:, 1].std())},
            "vaeac_less_bias": {"difference": ours - bias, "low": float(low), "high": float(high)},
        }
    return answer


class ToldWhatWasSeen:
    """A model of clicks that is handed ratings: it ranks by the clicks among them, and leaves out all that was rated.

    What a model of ratings gains is more than being told which items a user has seen and did not like.
    """

    def __init__(self, model: Recommender, least: float) -> None:
        self.model, self.least = model, least

    def answer(self, query: Query) -> Answer:
        clicks = query.histories.copy()
        clicks.data = (clicks.data >= self.least).astype(np.float32)
        return self.model.answer(replace(query, histories=clicks, deny=query.histories))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("folders", nargs="+", type=Path)
    options.add_argument("--config", default="ml-100k-vaeac-ratings", help="VAEAC with the Gaussian likelihood")
    options.add_argument("--clicks", default="ml-100k-vaeac", help="VAEAC of clicks")
    options.add_argument("--beside", nargs="*", default=["ml-100k-mult-vae", "ml-100k-ease"], help="others that rank")
    arguments = options.parse_args()
    configs = {
        "gaussian, ratings": resolve(None, arguments.config),
        "multinomial, ratings": resolve(None, arguments.clicks, ["model.ratings=true"]),
        "multinomial, clicks": resolve(None, arguments.clicks),
        **{name: resolve(None, name) for name in arguments.beside},
    }
    errors: list[pd.DataFrame] = []
    by_user: dict[str, list[pd.DataFrame]] = {}
    splits: list[dict[str, Any]] = []
    first = set(Dataset.load(arguments.folders[0]).user_ids("validation"))
    for folder in arguments.folders:
        data = Dataset.load(folder)
        ids = data.user_ids("test").astype(str)
        counted = np.array([not (splits and user in first) for user in ids])
        shown, hidden = data.ratings("test_in"), data.ratings("test_out")
        rows = np.repeat(np.arange(len(ids)), np.diff(hidden.indptr))
        bias, about_bias = tuned_bias(data)
        split: dict[str, Any] = {"folder": folder.name, "protocol": data.manifest["protocol"], "bias": about_bias}
        found = {"bias": rating_errors(bias, shown, hidden)}
        values: dict[str, Any] = {}
        for name, config in configs.items():
            model, result = measure(config, data, METRICS, device="cpu")  # by r2, or ndcg@100
            seconds, validation = result.train_seconds, model.metrics.get("validation")
            split[name] = {"epoch": model.best_epoch, "validation": validation, "seconds": seconds}
            values[name] = result.evaluation.per_user
            if model.predicts_ratings:
                found["vaeac"] = rating_errors(model, shown, hidden)  # type: ignore[arg-type]  # it predicts ratings
            if name == "multinomial, clicks":
                told = ToldWhatWasSeen(model, data.manifest["filters"]["min_rating"])
                values[TOLD] = evaluate(told, shown, data.test_out, METRICS).per_user
        for name, of_row in values.items():
            by_user.setdefault(name, []).append(pd.DataFrame(of_row).assign(user=ids)[counted])
        errors.append(pd.DataFrame(found).assign(user=ids[rows])[counted[rows]])
        splits.append(split | compared(errors[-1], errors[-1]["user"]))
        print(f"{folder.name}: RMSE of VAEAC {value(splits[-1]['rmse']['vaeac'])}", flush=True)
    pooled = pd.concat(errors)
    tables = {name: pd.concat(parts) for name, parts in by_user.items()}
    results = {
        "errors": compared(pooled, pooled["user"]),
        "ranking": {
            name: {metric: summarize(table[metric], clusters=table["user"]).to_dict() for metric in METRICS}
            for name, table in tables.items()
        },
        "splits": splits,
        "configs": {name: config.to_dict() for name, config in configs.items()},
    }
    for part in ("errors", "ranking"):
        print("", *imputation(results, part), sep="\n")
    write_record("imputation", results, arguments)


if __name__ == "__main__":
    main()
