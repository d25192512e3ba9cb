"""What rules cost: accuracy, variety and time of a model's lists under diversity and at most n items of a tag.

    python -m benchmarks.accuracy.rules ml-1m runs/ml-1m-recvae-edlae

The model is trained before: recvae train ml-1m --config ml-1m-recvae-edlae --out runs/ml-1m-recvae-edlae. The figures
are of the test users' lists of 10. Times are of one thread, plain lists and lists by rules in turn, medians of ratios,
for all users at once and for one user at a time.
"""

import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import alone, parser, write_record
from data_prep import Dataset
from recvae import Recommender, load
from recvae.cli.catalogues import refuse_other_data
from recvae.experiments.facts import facts
from recvae.experiments.measure import evaluated
from recvae.queries import Query

K = 10
METRICS = tuple(f"{name}@{K}" for name in ("ndcg", "diversity", "coverage", "gini"))
DIVERSITIES = (0.0, 0.2, 0.4, 0.6, 0.8)
MOST = 3
TIMED: Mapping[str, Mapping[str, Any]] = {
    "diversity .4": {"diversity": 0.4},
    f"most_per_tag {MOST}": {"most_per_tag": MOST},
    "both": {"diversity": 0.4, "most_per_tag": MOST},
}
RANKED: Mapping[str, Mapping[str, Any]] = {"plain": {}, **TIMED}


def measured(model: Recommender, data: Dataset) -> dict[str, dict[str, float]]:
    """Return the metrics of the test users' lists by rule."""
    rules: dict[str, dict[str, Any]] = {f"diversity {d:g}": {"diversity": d} for d in DIVERSITIES}
    rules[f"most_per_tag {MOST}"] = {"most_per_tag": MOST}
    table = {}
    for name, rule in rules.items():
        metrics = evaluated(model, data, METRICS, **rule).metrics
        table[name] = {metric: value.mean for metric, value in metrics.items()}
    return table


def ratios(model: Recommender, data: Dataset, users: int, rounds: int) -> dict[str, list[float]]:
    """Return for each rule the times of its lists over those of plain lists, one for each round.

    ``users`` are asked about together: the first ones, then the next.
    """
    histories = data.test_in
    found: dict[str, list[float]] = {name: [] for name in TIMED}
    for turn in range(rounds + 1):
        start = turn * users % max(1, histories.shape[0] - users + 1)
        rows = histories[start : start + users]
        seconds = {}
        for name, rule in RANKED.items():
            query = Query(rows, K, **rule)
            began = time.perf_counter()
            model.answer(query)
            seconds[name] = time.perf_counter() - began
        if turn:  # the first round warms up
            for name, of_rule in found.items():
                of_rule.append(seconds[name] / seconds["plain"])
    return found


def main() -> None:
    options = parser(__doc__)
    options.add_argument("dataset", type=Path, help="a dataset folder with item tags")
    options.add_argument("run", type=Path, help="the run folder of a model of it")
    options.add_argument("--rounds", type=int, default=15, help="of timing (default: %(default)s)")
    arguments = options.parse_args()
    torch.set_num_threads(1)
    data = Dataset.load(arguments.dataset)
    model = load(arguments.run, "cpu")
    refuse_other_data(model, arguments.run, data, arguments.dataset)
    if not model.items.tag_names:
        model.items = model.items.tagged(data.item_tags)
    table = measured(model, data)
    print(f"{'':<16}" + "".join(f"{metric:>14}" for metric in METRICS))
    for name, means in table.items():
        print(f"{name:<16}" + "".join(f"{means[metric]:>14.4f}" for metric in METRICS))
    figures = []
    n_users = int(data.test_in.shape[0])
    for users, rounds in ((n_users, arguments.rounds), (1, 10 * arguments.rounds)):
        for name, values in ratios(model, data, users, rounds).items():
            figures.append({**alone(f"{name}, {users} users at once, over plain", values, ""), "users": users})
            print(f"{name}, {users} users at once: {statistics.median(values):.2f} times plain")
    results = {"figures": figures, "table": table, "dataset": facts(data), "model": model.config.to_dict()}
    write_record("rules", results, arguments)


if __name__ == "__main__":
    main()
