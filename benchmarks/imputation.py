"""Held-out ratings: the VAE with arbitrary conditioning beside a damped user-plus-item bias model; and its rankings.

    python benchmarks/imputation.py ml-100k-98765 ml-100k-1 ... --config ml-100k-vaeac-ratings --clicks ml-100k-vaeac

Each folder is a split with ratings ('recvae prepare ml-100k --ratings --seed 1 ...'). On each the bias model's two
dampings are tuned on the validation users, and VAEAC is trained, the validation users choosing its epoch. Both predict
the test users' held-out ratings once. The settings of VAEAC were chosen on the first folder's validation users; who is
a test user of another folder and one of those is left out there. Errors of one person are alike, and one person may be
a test user of several splits: intervals resample people.
"""

import argparse
import shlex
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep import Dataset
from eval import evaluate, rating_errors, summarize
from recvae.bench import measure
from recvae.config import RunConfig, resolve
from recvae.feed import R2
from recvae.files import write_json
from recvae.report import environment

DAMPINGS = (0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 25.0)
RESULT = Path(__file__).resolve().parent / "results" / "imputation.json"
TOLD = "multinomial, clicks, rated items left out"
METRICS = ("ndcg@100", "recall@20", "recall@50")
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
        return sums / (np.diff(histories.indptr) + self.of_users)

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


def compared(errors: dict[str, Floats], people: Any, draws: int = 10_000) -> dict[str, Any]:
    """Return RMSE and MAE of both models, and of VAEAC less the bias model with 95 % bootstrap intervals over people.

    ``errors``: of "vaeac" and "bias", (n,), the same ratings; ``people``: whose each rating is, (n,).
    """
    _, person = np.unique(people, return_inverse=True)
    n = int(person.max()) + 1
    sizes = np.bincount(person)
    chosen = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=draws)  # how often each person is drawn
    answer: dict[str, Any] = {"ratings": len(person), "people": n}
    for name, power in (("rmse", 2), ("mae", 1)):
        sums = {model: np.bincount(person, np.abs(values) ** power) for model, values in errors.items()}
        values = {model: (s.sum() / sizes.sum()) ** (1 / power) for model, s in sums.items()}
        drawn = {model: (chosen @ s / (chosen @ sizes)) ** (1 / power) for model, s in sums.items()}
        low, high = np.quantile(drawn["vaeac"] - drawn["bias"], [0.025, 0.975])
        answer[name] = {
            **{model: {"mean": values[model], "se": float(drawn[model].std())} for model in values},
            "vaeac_less_bias": {"difference": values["vaeac"] - values["bias"], "low": low, "high": high},
        }
    return answer


class ToldWhatWasSeen:
    """A model of clicks that is handed ratings: it ranks by the clicks among them, and leaves out all that was rated.

    What a model of ratings gains is more than being told which items a user has seen and did not like.
    """

    def __init__(self, model: Any, least: float) -> None:
        self.model, self.least = model, least

    def recommend(self, histories: Any, k: int = 10, **more: Any) -> Any:
        clicks = histories.copy()
        clicks.data = (clicks.data >= self.least).astype(np.float32)
        return self.model.recommend(clicks, k, deny=histories, **more)


def ranked(config: RunConfig, data: Dataset, metric: str) -> tuple[Any, dict[str, Floats], dict[str, Any]]:
    """Train and rank for the test users; return the model, each metric by user, and what it took."""
    model, result = measure(config, data, list(METRICS), metric=metric, device="cpu")
    about = {"epoch": model.best_epoch, "validation": model.metrics.get("validation"), "seconds": result.train_seconds}
    return model, result.evaluation.per_user, about


def main() -> None:
    """Measure, print a table and write the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--config", default="ml-100k-vaeac-ratings", help="VAEAC with the Gaussian likelihood")
    parser.add_argument("--liked", help="VAEAC of ratings with the multinomial likelihood; of --clicks if not given")
    parser.add_argument("--clicks", default="ml-100k-vaeac", help="VAEAC of clicks")
    parser.add_argument("--beside", nargs="*", default=["ml-100k-mult-vae", "ml-100k-ease"], help="others that rank")
    parser.add_argument("--out", type=Path, default=RESULT, help="the JSON to write (default: %(default)s)")
    arguments = parser.parse_args()
    began = time.perf_counter()
    configs = {"gaussian, ratings": resolve(None, arguments.config)}
    clicks = resolve(None, arguments.clicks)
    configs["multinomial, ratings"] = (
        resolve(None, arguments.liked) if arguments.liked else resolve(None, arguments.clicks, ["model.ratings=true"])
    )
    configs["multinomial, clicks"] = clicks
    configs |= {name: resolve(None, name) for name in arguments.beside}
    errors: dict[str, list[Floats]] = {"vaeac": [], "bias": []}
    people: list[Any] = []
    rows_shown = [*configs, TOLD]
    by_user: dict[str, dict[str, list[Floats]]] = {name: {metric: [] for metric in METRICS} for name in rows_shown}
    users: list[Any] = []
    splits = []
    first = set(Dataset.load(arguments.folders[0]).user_ids("validation"))
    for folder in arguments.folders:
        data = Dataset.load(folder)
        ids = data.user_ids("test")
        counted = np.array([not (splits and user in first) for user in ids])
        shown, hidden = data.ratings("test_in"), data.ratings("test_out")
        rows = np.repeat(np.arange(len(ids)), np.diff(hidden.indptr))
        bias, about_bias = tuned_bias(data)
        split: dict[str, Any] = {"folder": folder.name, "protocol": data.manifest["protocol"], "bias": about_bias}
        found = {"bias": rating_errors(bias, shown, hidden)}
        for name, config in configs.items():
            gaussian = config.name == "vaeac" and config.model.likelihood == "gaussian"
            model, values, split[name] = ranked(config, data, R2 if gaussian else METRICS[0])
            if gaussian:
                found["vaeac"] = rating_errors(model, shown, hidden)
            shown_for = {name: values}
            if config is clicks:
                least = data.manifest["filters"]["min_rating"]
                told = evaluate(ToldWhatWasSeen(model, least), shown, data.test_out, METRICS)
                shown_for[TOLD] = told.per_user
            for row, of_row in shown_for.items():
                for metric in METRICS:
                    by_user[row][metric].append(of_row[metric][counted])
        kept = counted[rows]
        for name, of_split in found.items():
            errors[name].append(of_split[kept])
        people.append(ids[rows[kept]].astype(str))
        users.append(ids[counted].astype(str))
        split |= compared({name: of_split[kept] for name, of_split in found.items()}, people[-1])
        splits.append(split)
        print(_line(folder.name, split), flush=True)
    pooled = compared({name: np.concatenate(parts) for name, parts in errors.items()}, np.concatenate(people))
    print(_line("all", pooled))
    clusters = np.concatenate(users)
    ranking = {}
    for name, values in by_user.items():
        ranking[name] = {m: summarize(np.concatenate(v), clusters=clusters).to_dict() for m, v in values.items()}
        print(f"{name:45}", "  ".join(f"{m} {v['mean']:.4f} ±{v['se']:.4f}" for m, v in ranking[name].items()))
    write_json(
        arguments.out,
        {
            "command": _command(),
            "errors": pooled,
            "ranking": ranking,
            "splits": splits,
            "configs": {name: config.to_dict() for name, config in configs.items()},
            "seconds": round(time.perf_counter() - began, 1),
            "environment": environment(),
        },
    )


def _command() -> str:
    """Return the command that was run, without the place where the record goes."""
    words = sys.argv[1:]
    if "--out" in words:
        place = words.index("--out")
        del words[place : place + 2]
    return shlex.join(["python", "benchmarks/imputation.py", *words])


def _line(name: str, found: dict[str, Any]) -> str:
    parts = []
    for metric in ("rmse", "mae"):
        values, difference = found[metric], found[metric]["vaeac_less_bias"]
        parts.append(
            f"{metric} {values['vaeac']['mean']:.4f} bias {values['bias']['mean']:.4f} difference "
            f"{difference['difference']:+.4f} [{difference['low']:+.4f}, {difference['high']:+.4f}]"
        )
    return f"{name:16} {'   '.join(parts)}   {found['ratings']:,} ratings of {found['people']:,} people"


if __name__ == "__main__":
    main()
