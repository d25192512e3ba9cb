"""ndcg@100 and time of training on MovieLens-1M to the end, in float32 and with products of bfloat16 operands."""

import statistics
from argparse import Namespace
from typing import Any

from benchmarks.harness import Figure, alone
from data_prep import prepare
from eval import compare
from recvae.bench import measure as measure_model
from recvae.config import resolve

METRIC = "ndcg@100"


def measure(arguments: Namespace) -> dict[str, Any]:
    if arguments.ml_1m is None:
        raise SystemExit("Name MovieLens-1M's archive or folder with --ml-1m.")
    data = prepare("ml-1m", source=arguments.ml_1m)
    figures: list[Figure] = []
    details: dict[str, Any] = {}
    for title, config in (("RecVAE", "ml-1m-recvae"), ("Mult-VAE", "ml-1m-mult-vae")):
        values = []
        for name in ("float32", "bf16"):
            settings = [f"train.precision={name}", *(["train.epochs=2"] if arguments.small else [])]
            chosen, epochs = resolve(config=config, settings=settings), list[float]()
            keep = lambda row, epochs=epochs: epochs.append(row["seconds"])  # noqa: E731
            _, result = measure_model(chosen, data, METRIC, metric=METRIC, device="cpu", on_epoch=keep)
            metric = result.evaluation.metrics[METRIC]
            print(f"{title} {name}: {METRIC} {metric.mean:.4f} ± {metric.se:.4f}", flush=True)
            figures.append(alone(f"{title}, {METRIC}, {name}", [metric.mean], ""))
            figures.append(alone(f"{title}, epoch, {name}", [statistics.median_high(epochs)]))
            values.append(result.evaluation.per_user[METRIC])
        difference = compare(*values)
        details[title] = {"difference": difference.difference, "low": difference.low, "high": difference.high}
        print(f"{title}: float32 - bf16, paired, with its 95 % interval: {details[title]}", flush=True)
    return {"figures": figures, "details": details}
