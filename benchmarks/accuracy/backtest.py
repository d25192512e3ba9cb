"""What time changes in the ranking of models: a random split, a time split and a backtest of MovieLens-100K.

    python -m benchmarks.accuracy.backtest ml-100k

The folder has MovieLens-100K's u.data; ratings of 4 and more are clicks. Each model, with its defaults, is measured
three times: on ``recvae prepare --split random``, which draws the clicks to be found from all times; on ``--split
time``, which trains on the first 80 % of the clicks; and by ``recvae backtest`` from the same moment on, in windows of
7 days with a refit every 28 days. RecVAE is trained for a small number of epochs.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.accuracy.backtest_tables import backtest as table
from benchmarks.harness import parser, write_record
from data_prep import ClickLog, Dataset, TimeRules, prepare, read_log
from data_prep.moments import moment
from eval import compare
from recvae.config import RunConfig, resolve
from recvae.experiments.backtest import Backtest, Entrant, Plan
from recvae.experiments.backtest_results import outcome
from recvae.experiments.groups import by_arrival
from recvae.experiments.measure import measure

METRICS = ("ndcg@100", "recall@20")
MAIN = METRICS[0]
MODELS = ("popularity", "item-knn", "ease", "edlae", "implicit-als", "recvae")
DAY = 86_400
FROM, EVERY, REFIT_EVERY = "0.8", 7, 28  # the share of the clicks before the first question, and days


def config_of(name: str, epochs: int) -> RunConfig:
    """Return a model's defaults; ``epochs`` are RecVAE's."""
    return resolve(name, settings=[f"train.epochs={epochs}"] if name == "recvae" else [])


def on_split(data: Dataset, models: list[str], epochs: int) -> dict[str, Any]:
    """Return the test metrics of each model, its difference from the best, and those of known and of new users."""
    found: dict[str, Any] = {}
    values = {}
    arrivals = data.arrivals("test")
    for name in models:
        _, result = measure(config_of(name, epochs), data, METRICS, metric=MAIN, device="cpu")
        evaluation = result.evaluation
        values[name] = evaluation.per_user[MAIN]
        found[name] = {"metrics": evaluation.to_dict()["metrics"]}
        if arrivals is not None:
            found[name]["groups"] = by_arrival(evaluation, arrivals)
        print(f"{data.manifest['protocol']['split']} {name}: {evaluation.metrics[MAIN].mean:.4f}", flush=True)
    best = max(found, key=lambda name: found[name]["metrics"][MAIN]["mean"])
    for name in models:
        if name != best:
            found[name]["versus_best"] = {"metric": MAIN, **compare(values[name], values[best]).to_dict()}
    return {"models": found, **{key: data.manifest[key] for key in ("counts", "arrivals") if key in data.manifest}}


def replayed(log: ClickLog, models: list[str], epochs: int) -> dict[str, Any]:
    """Return the outcome of the backtest, without the machine and the models' settings."""
    start = moment(FROM)
    begin = start.among(len(log.data), lambda place: float(log.times[place]), log.name)
    plan = Plan(begin, EVERY * DAY, REFIT_EVERY * DAY, TimeRules(start), METRICS, MAIN)
    chosen = [Entrant(name, config_of(name, epochs), "defaults") for name in models]
    with TemporaryDirectory() as home:
        work = Backtest(log, chosen, plan, Path(home) / "backtest", "cpu")
        work.prepare_folder(resume=False)
        work.run()
        found = outcome(work, MAIN)
    keys = ("metrics", "versus_best", "windows", "by_clicks_seen")
    told = {name: {key: model[key] for key in keys if key in model} for name, model in found["models"].items()}
    return {"models": told, **{key: found[key] for key in ("windows", "clicks_seen")}}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("folder", type=Path, help="a folder with MovieLens-100K's u.data")
    options.add_argument("--models", nargs="+", default=list(MODELS))
    options.add_argument("--epochs", type=int, default=20, help="of RecVAE")
    arguments = options.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {"metric": MAIN, "epochs": arguments.epochs, "from": FROM}
    for split in ("random", "time"):
        rules: dict[str, Any] = {"cutoff": FROM} if split == "time" else {}
        data = prepare("ml-100k", source=arguments.folder, split=split, **rules)
        found[split] = on_split(data, arguments.models, arguments.epochs)
    found["backtest"] = replayed(read_log("ml-100k", source=arguments.folder), arguments.models, arguments.epochs)
    print("", *table(found), sep="\n")
    write_record("backtest", found, arguments)


if __name__ == "__main__":
    main()
