"""The record of numbers that a change of structure must leave as they are.

    python -m record.record --write      (with tests/ on the path) makes tests/record/small.json and ml-100k.json anew

For every registered model: the SHA-256 of its weights, the lists it recommends, its metrics; and the JSON document of
every verb. Bits hold on one processor and one version of torch only (docs/differences.md), so the record says which it
was made on; elsewhere lists and metrics are compared within rounding, and digests not at all.
"""

import argparse
import hashlib
import json
import platform
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import recvae
from data_prep import Dataset
from eval import evaluate
from record import made
from recvae.registry import MODELS

HERE = Path(__file__).parent
VOLATILE = {
    "seconds",
    "train_seconds",
    "rank_seconds",
    "peak_memory_mb",
    "environment",
    "versions",
    "path",
    "threads",
    "bytes",
}


def machine() -> dict[str, str]:
    """Return what the bits of a run depend on beside its seed."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = re.search(r"model name\s*:\s*(.+)", info.read_text())
        cpu = found[1] if found else cpu
    return {"cpu": cpu, "capability": torch.backends.cpu.get_cpu_capability(), "torch": torch.__version__}


def weights(model: Any) -> str:
    """Return the SHA-256 of what a model learned: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    parts = getattr(model, "components", None) or [model]
    for part in parts:
        for name, tensor in sorted(part.tensors().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def of_model(model: Any, data: Dataset, *, users: int | None = None, k: int = 10) -> dict[str, Any]:
    """Return a model's weights' digest, its lists and scores for test users (the first ``users``) and its metrics."""
    ids, scores = model.recommend(data.test_in[:users], k=k)
    evaluation = evaluate(model, data.test_in, data.test_out, "ndcg@10,recall@20,ndcg@100")
    return {
        "weights": weights(model),
        "lists": ids.tolist(),
        "scores": hashlib.sha256(scores.tobytes()).hexdigest(),
        "first_scores": [round(float(s), 4) for s in scores[:, 0]],
        "metrics": {name: metric.mean for name, metric in evaluation.metrics.items()},
    }


def steady(value: Any, root: str) -> Any:
    """Return a document without what changes from run to run: times, memory, versions, and the folder it ran in."""
    if isinstance(value, dict):
        return {key: steady(v, root) for key, v in value.items() if key not in VOLATILE}
    if isinstance(value, list):
        return [steady(v, root) for v in value]
    return value.replace(root, "FOLDER") if isinstance(value, str) else value


def small(folder: Path) -> dict[str, Any]:
    """Return the record on the small dataset, made below ``folder``."""
    documents = {"prepare": made.prepare(folder)}
    data = Dataset.load(folder / "data")
    models: dict[str, Any] = {}
    for name in MODELS:
        documents[f"train {name}"] = made.train(folder / "data", name, folder / name)
        models[name] = of_model(recvae.load(folder / name, device="cpu"), data)
    ratings = folder / "vaeac-ratings"
    more = {"model.ratings": True, "model.likelihood": "gaussian", "model.liked_from": 4.0}
    documents["train vaeac of ratings"] = made.document(
        "train", folder / "data", "--model", "vaeac", "--seed", made.SEED, "--metric", "r2", "--out", ratings,
        *(part for key, value in (made.SETTINGS["vaeac"] | more).items()
          for part in ("--set", f"{key}={json.dumps(value)}")),
    )  # fmt: skip
    for verb, arguments in _verbs(folder):
        documents[verb] = made.document(*arguments)
    models["blend"] = of_model(recvae.load(folder / "blend", device="cpu"), data)
    models["refit"] = of_model(recvae.load(folder / "refit", device="cpu"), data)
    return {"machine": machine(), "models": models, "documents": steady(documents, str(folder))}


def _verbs(folder: Path) -> Iterator[tuple[str, tuple[object, ...]]]:
    """Yield the name of each document and the command that prints it, in an order in which they can run."""
    data, cpu = folder / "data", ("--device", "cpu")
    yield (
        "blend",
        ("blend", folder / "recvae", folder / "ease", data, "--metric", "ndcg@10", *cpu, "--out", folder / "blend"),
    )
    yield "refit", ("train", data, "--refit", folder / "recvae", *cpu, "--out", folder / "refit")
    for name in (*MODELS, "blend", "refit", "vaeac-ratings"):
        yield f"evaluate {name}", ("evaluate", folder / name, data, "--metrics", "ndcg@10,recall@20", *cpu)
    for name in ("recvae", "ease", "blend"):
        yield f"recommend {name}", ("recommend", folder / name, "--item", "001", "--item", "003", "-k", 5, *cpu)
        yield f"similar {name}", ("similar", folder / name, "--item", "001", "-k", 5, *cpu)
    asked = ("--item", "001", "--condition", "Drama", "--condition", "side=A")
    yield "recommend under conditions", ("recommend", folder / "conditional-vae", *asked, "-k", 5, *cpu)
    for name in ("mult-vae", "recvae", "vamp-vae", "vaeac", "conditional-vae", "ease"):
        yield f"diagnose {name}", ("diagnose", folder / name, data, "--samples", 8, "--users", 10, *cpu)
    for name in ("data", "recvae", "blend", "ease"):
        yield f"info {name}", ("info", folder / name)
    searched = ("--search", "model.l2=20:200:log", "--trials", 4, "--metric", "ndcg@10", "--seed", made.SEED)
    yield "tune", ("tune", data, "--model", "ease", *searched, *cpu, "--out", folder / "tuned")
    compared = ("--models", "ease,popularity", "--metrics", "ndcg@10", "--metric", "ndcg@10")
    yield "benchmark", ("benchmark", data, *compared, "--seed", made.SEED, *cpu, "--out", folder / "compared")


def ml_100k(source: Path, folder: Path) -> dict[str, Any]:
    """Return the record on MovieLens-100K: every model for two epochs, vamp-vae small; a digest of all test lists."""
    made.document("prepare", "ml-100k", "--source", source / "ml-100k", "--out", folder / "data")
    data = Dataset.load(folder / "data")
    models = {}
    wider: dict[str, dict[str, Any]] = {
        "ease": {"model.l2": 300.0}, "edlae": {"model.l2": 200.0, "model.dropout": 0.3},
        "recvae-edlae": {"model.path_l2": 200.0}, "item-knn": {"model.neighbours": 100},
        "implicit-als": {"model.factors": 32, "model.regularization": 10.0},
        "conditional-vae": {"model.user_attributes": ["gender"]},
    }  # fmt: skip
    for name in MODELS:
        more = dict(wider.get(name, {}))
        if "train.batch_size" in made.SETTINGS[name]:
            more["train.batch_size"] = 100
            more["model.hidden"] = made.SETTINGS[name]["model.hidden"] and (
                [40] if isinstance(made.SETTINGS[name]["model.hidden"], list) else 40
            )
        made.train(folder / "data", name, folder / name, **more)
        found = of_model(recvae.load(folder / name, device="cpu"), data)
        lists = np.array(found["lists"], dtype=np.int32)
        models[name] = {**found, "lists": hashlib.sha256(lists.tobytes()).hexdigest(), "first_scores": None}
    return {"machine": machine(), "models": models}


def write(path: Path, value: Any) -> None:
    """Write a record, lists of numbers in one line each."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    text = re.sub(r"\[\s+((?:-?[\d.e+-]+,?\s+)+)\]", lambda m: "[" + " ".join(m[1].split()) + "]", text)
    path.write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Make the records anew; for a change that is meant to change numbers, and says so."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--ml-100k", type=Path, help="the folder that holds ml-100k/")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write(arguments.out / "small.json", small(Path(folder)))
    if arguments.ml_100k:
        with tempfile.TemporaryDirectory() as folder:
            write(arguments.out / "ml-100k.json", ml_100k(arguments.ml_100k, Path(folder)))


if __name__ == "__main__":
    main()
