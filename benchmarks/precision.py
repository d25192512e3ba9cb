"""What products of bfloat16 operands change in training on MovieLens-1M: ndcg@100 of the test users, and time.

Each model is trained to the end with its shipped configuration, once in float32 and once in bf16, and both are compared
on the same users. Usage:

    python benchmarks/precision.py ml-1m.zip
"""

from pathlib import Path
from typing import Any

from harness import Figure, alone, options, record

METRIC = "ndcg@100"


def trained(data: Any, config: str, precision: str, epochs: int | None) -> tuple[Any, list[float]]:
    """Train, validated as the command line does it; return the evaluation and the seconds of each epoch."""
    from eval import evaluate, validator
    from recvae.config import resolve
    from recvae.registry import entry

    settings = [f"train.precision={precision}", *([f"train.epochs={epochs}"] if epochs else [])]
    chosen = resolve(config=config, settings=settings)
    model: Any = entry(chosen.name).recommender().from_config(chosen, "cpu")
    seconds: list[float] = []
    validation = validator(data.validation_in, data.validation_out, METRIC)
    model.fit(data.train, validation=validation, on_epoch=lambda report: seconds.append(report.seconds))
    return evaluate(model, data.test_in, data.test_out, METRIC), seconds


def main() -> None:
    parser = options(__doc__, rounds=1)
    parser.add_argument("source", type=Path, help="MovieLens-1M's archive or folder")
    arguments = parser.parse_args()
    from data_prep import prepare
    from eval import compare

    data = prepare("ml-1m", source=arguments.source)
    figures: list[Figure] = []
    details: dict[str, Any] = {}
    for title, config in (("RecVAE", "ml-1m-recvae"), ("Mult-VAE", "ml-1m-mult-vae")):
        runs = {name: trained(data, config, name, 2 if arguments.small else None) for name in ("float32", "bf16")}
        for name, (evaluation, seconds) in runs.items():
            metric = evaluation.metrics[METRIC]
            print(f"{title} {name}: {METRIC} {metric.mean:.4f} ± {metric.se:.4f}", flush=True)
            figures.append(alone(f"{title}, {METRIC}, {name}", [metric.mean], ""))
            figures.append(alone(f"{title}, epoch, {name}", sorted(seconds)[len(seconds) // 2 :][:1]))
        difference = compare(*(evaluation.per_user[METRIC] for evaluation, _ in runs.values()))
        details[title] = {"difference": difference.difference, "low": difference.low, "high": difference.high}
        print(f"{title}: float32 - bf16, paired, with its 95 % interval: {details[title]}", flush=True)
    results = {
        "title": "Products of bfloat16 operands",
        "about": "Training to the end with the shipped configurations on MovieLens-1M, products in float32 and with"
        " operands rounded to bfloat16 (`--set train.precision=bf16`); validation and test are always in float32. The"
        " standard error of each ndcg@100 is .007, and a run with another seed differs by up to .005.",
        "figures": figures,
        "details": details,
    }
    record("precision", results, arguments)


if __name__ == "__main__":
    main()
