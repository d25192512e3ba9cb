"""Exports whose graphs are written by hand, of a model whose scores are a product with a matrix."""

from contextlib import contextmanager

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from outside_models import CoClick

import recvae
from recvae.registry import MODELS, Entry
from recvae.testing import random_clicks
from recvae.training.export_folder import (
    GRAPH,
    ITEMS,
    MANIFEST,
    SIMILAR,
    TAGS,
    FileFacts,
    Manifest,
    file_facts,
    write_manifest,
)
from recvae.training.item_files import fill_items, fill_tags

CONDITIONS = ("low", "high", "gender=F", "gender=M")
FLOAT, INT, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


class Linear(CoClick):
    """The model that torch ranks with: the weights of the graph, and conditions that add to the scores."""

    name = "linear"

    def conditioned(self, weights):
        """Give the model conditions, float32 (C, n_items)."""
        self.of_conditions, self.condition_names = torch.from_numpy(weights), CONDITIONS
        return self

    @property
    def attributes(self):
        return ("gender",) if self.condition_names else ()

    def scores(self, histories, conditions=None):
        scores = super().scores(histories)
        return scores if conditions is None else scores + torch.from_numpy(conditions.toarray()) @ self.of_conditions

    def similarity(self, items):
        return self.alike[items].clone()


@contextmanager
def registered():
    """Let torch's side of the comparison be known by its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, Linear.name, Entry(Linear.name, f"{__name__}:Linear", "Linear", "nobody's paper"))
        yield


def linear(n_items=60, seed=0, *, conditions=False, **named):
    """A model with random weights and similarities, and few ties."""
    rng = np.random.default_rng(seed)
    model = Linear(device="cpu").fit(random_clicks(30, n_items, 0.2, seed), **named)
    model.weights = torch.from_numpy(rng.normal(size=(n_items, n_items)).astype(np.float32))
    model.alike = torch.from_numpy(rng.uniform(-1, 1, (n_items, n_items)).astype(np.float32))
    if conditions:
        model.conditioned(rng.normal(size=(len(CONDITIONS), n_items)).astype(np.float32))
    return model


def write_export(folder, model, *, similar=True, **facts):
    """Write the export of a :class:`Linear` model; ``facts`` replace those of its manifest."""
    folder.mkdir(parents=True)
    fill_items(folder / ITEMS, model.items)
    if model.items.tag_names:
        fill_tags(folder / TAGS, model.items)
    onnx.save(scoring(model), folder / GRAPH, save_as_external_data=True, location="model.bin", size_threshold=512)
    if similar:
        onnx.save(similarities(model.alike.numpy()), folder / SIMILAR)
    seal(folder, model, similar=similar, **facts)
    return folder


def seal(folder, model, *, similar=True, **facts):
    """Write the manifest of the files that are there."""
    names = sorted(path.name for path in folder.iterdir() if path.name != MANIFEST)
    files: dict[str, FileFacts] = {name: file_facts(folder / name) for name in names}
    known = {
        "recvae": recvae.__version__,
        "model": model.name,
        "title": "Linear",
        "run": "0" * 64,
        "weights": "float32",
        "n_items": model.n_items,
        "named_value": model.named_value,
        "of_ratings": model.of_ratings,
        "conditions": list(model.condition_names),
        "attributes": list(model.attributes),
        "dataset": {"name": "toy", "validation_metric": "ndcg@100"},
        "metrics": {"validation": 0.25},
        "similarity": {"file": SIMILAR} if similar else None,
        "no_similarity": "" if similar else "Linear knows no similar items. Use another model.",
        "files": files,
    }
    write_manifest(folder, Manifest.model_validate({**known, **facts}))


def scoring(model):
    """The graph of the scores, with rules and selection."""
    n_items, of_conditions = model.n_items, getattr(model, "of_conditions", None)
    wide = np.array([n_items], np.int64)
    constants = {
        "weights": model.weights.numpy(),
        "width": wide,
        "least": np.array(-np.inf, np.float32),
        "none": np.array(0, np.float32),
    }
    nodes = [
        helper.make_node("Shape", ["lengths"], ["users"]),
        helper.make_node("Concat", ["users", "width"], ["shape"], axis=0),
        helper.make_node("Expand", ["none", "shape"], ["empty"]),
        helper.make_node("Unsqueeze", ["rows", "one"], ["rows_2"]),
        helper.make_node("Unsqueeze", ["columns", "one"], ["columns_2"]),
        helper.make_node("Concat", ["rows_2", "columns_2"], ["places"], axis=1),
        helper.make_node("ScatterND", ["empty", "places", "values"], ["histories"]),
        helper.make_node("MatMul", ["histories", "weights"], ["scores" if of_conditions is None else "plain"]),
        helper.make_node("Greater", ["histories", "none"], ["seen"]),
        helper.make_node("And", ["seen", "exclude_seen"], ["left_out"]),
        helper.make_node("Or", ["left_out", "hidden"], ["masked"]),
        helper.make_node("Where", ["masked", "least", "scores"], ["admitted"]),
        helper.make_node("TopK", ["admitted", "k"], ["top_scores", "top_items"], axis=1, largest=1, sorted=1),
    ]
    constants["one"] = np.array([1], np.int64)
    inputs = [
        ("lengths", INT, ["B"]), ("rows", INT, ["N"]), ("columns", INT, ["N"]), ("values", FLOAT, ["N"]),
        ("hidden", BOOL, ["H", n_items]), ("exclude_seen", BOOL, []), ("k", INT, [1]),
    ]  # fmt: skip
    if of_conditions is not None:
        inputs.append(("conditions", FLOAT, ["B", len(CONDITIONS)]))
        constants["of_conditions"] = of_conditions.numpy()
        more = [
            helper.make_node("MatMul", ["conditions", "of_conditions"], ["by_condition"]),
            helper.make_node("Add", ["plain", "by_condition"], ["scores"]),
        ]
        nodes[8:8] = more
    outputs = [("top_items", INT, ["B", "k"]), ("top_scores", FLOAT, ["B", "k"]), ("scores", FLOAT, ["B", n_items])]
    return graph(nodes, inputs, outputs, constants)


def similarities(table):
    """The graph of a table of similarities."""
    nodes = [helper.make_node("Gather", ["table", "items"], ["similarity"], axis=0)]
    outputs = [("similarity", FLOAT, ["m", len(table)])]
    return graph(nodes, [("items", INT, ["m"])], outputs, {"table": table})


def graph(nodes, inputs, outputs, constants):
    made = helper.make_graph(
        nodes,
        "hand made",
        [helper.make_tensor_value_info(*port) for port in inputs],
        [helper.make_tensor_value_info(*port) for port in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model
