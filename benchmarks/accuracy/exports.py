"""Exports beside the models that they were made of: scores, lists, sizes, and the accuracy of smaller weights.

    recvae prepare ml-1m --ratings --out ml-1m
    python -m benchmarks.accuracy.exports ml-1m

Every model, and a blend of two, is trained for a few epochs, in the sizes that follow the data, and exported with each
precision of weights. onnxruntime's scores and lists of 100 items are compared with torch's on test users' histories;
and an empty history, items that the model does not know, and a query that denies every item.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array

from benchmarks.harness import parser, write_record
from data_prep import Dataset
from eval import evaluate
from recvae import Blend, Recommender
from recvae.config import resolve
from recvae.errors import InputError
from recvae.experiments.facts import facts
from recvae.experiments.measure import begin
from recvae.queries import Query
from recvae.registry import MODELS
from recvae.serving import onnx_runtime
from recvae.serving.export.comparison import TOLERANCE, Graph, difference, no_rules, ragged, scores_of
from recvae.serving.export.folder import export
from recvae.training.export_folder import GRAPH, Precision

METRIC, K = "ndcg@100", 100
PRECISIONS: tuple[Precision, ...] = ("float32", "bf16", "int8")
SETTINGS = {
    "vaeac": ("model.ratings=true", "model.likelihood=gaussian"),
    "conditional-vae": ("model.user_attributes=gender",),
}
BLENDED = ("recvae-edlae", "mult-dae")
VERSION = "0" * 12  # of a run folder, which there is none of


def trained(data: Dataset, epochs: int, only: list[str]) -> Iterator[tuple[str, Recommender]]:
    """Yield every model by name, trained on a dataset, and then a blend of two of them."""
    known: dict[str, Recommender] = {}
    for name, entry in MODELS.items():
        if only and name not in only:
            continue
        settings = list(SETTINGS.get(name, ()))
        if entry.model_class().train_defaults is not None:
            settings.append(f"train.epochs={epochs}")
        fit = begin(resolve(model=name, settings=settings), data, device="cpu")
        fit.run()
        known[name] = fit.model
        yield name, fit.model
    if all(name in known for name in BLENDED):
        yield "blend", Blend([known[name] for name in BLENDED], data.validation_in, (0.7, 0.3))


def compared(model: Recommender, data: Dataset, users: int, folder: Path) -> dict[str, Any]:
    """Return the figures of one model with each precision of weights; raise AssertionError where a list is wrong."""
    query, clicks = model.held_out_inputs(data, "test")
    some = slice(0, users)
    assert clicks is not None
    query, clicks = query.of(some), clicks[some]
    scores = scores_of(model, query.histories, query.conditions)
    found: dict[str, Any] = {"title": model.title, METRIC: evaluate(model, query, clicks, METRIC).metrics[METRIC].mean}
    for weights in PRECISIONS:
        place = folder / f"{model.name}-{weights}"
        try:
            report = export(model, VERSION, place, weights=weights)
        except InputError as error:
            found[weights] = {"refused": str(error)}
            continue
        exported = onnx_runtime.load(place)
        row: dict[str, Any] = {METRIC: evaluate(exported, query, clicks, METRIC).metrics[METRIC].mean}
        row["bytes"] = sum(facts.bytes for name, facts in report.manifest.files.items() if name.startswith("model."))
        if weights == "float32":
            row |= against_torch(Graph(place / GRAPH), query, scores)
            edge_cases(model, exported)
        found[weights] = row
    return found


def against_torch(graph: Graph, query: Query, scores: Any) -> dict[str, Any]:
    """Return how far a graph's scores and lists are from torch's."""
    n_users, n_items = scores.shape
    worst, relative, swapped, wrong = 0.0, 0.0, 0, 0
    for start in range(0, n_users, 100):
        rows = slice(start, min(n_users, start + 100))
        part = query.of(rows)
        feed = {**ragged(part.histories, part.conditions), **no_rules(n_items, K, exclude_seen=True)}
        best, made = graph.run(["top_items", "scores"], feed)
        items = best.astype(np.int64)
        own = scores[rows]
        worst = max(worst, float(np.abs(made - own).max()))
        relative = max(relative, difference(made, own))
        listable = np.where(part.histories.toarray() > 0, -np.inf, own)
        order = np.argsort(-listable, axis=1, kind="stable")[:, :K]
        a, b = np.take_along_axis(listable, items, 1), np.take_along_axis(listable, order, 1)
        differs = items != order
        swapped += int(differs.sum())
        wrong += int((differs & ~(np.abs(a - b) <= 2 * TOLERANCE * np.maximum(1, np.abs(b)))).sum())
    return {"difference": worst, "relative": relative, "swapped": swapped, "beyond_ties": wrong, "users": n_users}


def edge_cases(model: Recommender, exported: Any) -> None:
    """Raise AssertionError unless an empty history, unknown items and a query without items are answered as torch's."""
    nothing = csr_array((1, model.n_items), dtype=np.float32)
    unknown, names = exported.encode([["no such item"]])
    assert names == ["no such item"]
    assert unknown.indptr.tolist() == [0, 0]
    mine = model.answer(Query(nothing, K))
    for histories in (nothing, unknown):
        answer = exported.answer(Query(histories, K))
        assert difference(answer.scores, mine.scores) <= TOLERANCE
        assert np.isfinite(answer.scores).all()
    denied = exported.answer(Query(nothing, K, deny=np.arange(model.n_items)))
    assert (denied.ids == -1).all()
    assert (denied.scores == -np.inf).all()


def main() -> None:
    options = parser(__doc__)
    options.add_argument("dataset", type=Path, help="a dataset folder with ratings, item tags and user attributes")
    options.add_argument("--epochs", type=int, default=5, help="of training (default: %(default)s)")
    options.add_argument("--users", type=int, default=500, help="test users (default: %(default)s)")
    options.add_argument("--models", nargs="*", default=[], help="only these models")
    arguments = options.parse_args()
    torch.set_num_threads(1)
    data = Dataset.load(arguments.dataset)
    table: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, model in trained(data, arguments.epochs, arguments.models):
            table[name] = row = compared(model, data, arguments.users, Path(folder))
            print(name, {key: value for key, value in row.items() if key != "title"}, flush=True)
    results = {"metric": METRIC, "k": K, "epochs": arguments.epochs, "table": table, "dataset": facts(data)}
    write_record("exports", results, arguments)


if __name__ == "__main__":
    main()
