"""ndcg@100 and time of training on MovieLens-1M to the end, in float32 and with products of bfloat16 operands."""

import statistics
from argparse import Namespace
from typing import Any

from benchmarks.harness import Figure, alone
from data_prep import prepare
from recvae.config import resolve
from recvae.experiments.measure import measure as measure_model

METRIC = "ndcg@100"


def measure(arguments: Namespace) -> dict[str, Any]:
    if arguments.ml_1m is None:
        raise SystemExit("Name MovieLens-1M's archive or folder with --ml-1m.")
    data = prepare("ml-1m", source=arguments.ml_1m)
    figures: list[Figure] = []
    for title, config in (("RecVAE", "ml-1m-recvae"), ("Mult-VAE", "ml-1m-mult-vae")):
        for name in ("float32", "bf16"):
            settings = [f"train.precision={name}", *(["train.epochs=2"] if arguments.small else [])]
            chosen, rows = resolve(config=config, settings=settings), list[Any]()
            _, result = measure_model(chosen, data, METRIC, metric=METRIC, device="cpu", on_epoch=rows.append)
            epoch = statistics.median_high([row["seconds"] for row in rows])
            figures.append(alone(f"{title}, {METRIC}, {name}", [result.evaluation.metrics[METRIC].mean], ""))
            figures.append(alone(f"{title}, epoch, {name}", [epoch]))
    return {"figures": figures}
