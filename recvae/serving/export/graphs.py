"""A model traced by torch's exporter into ONNX graphs: lists, similarities, and users' vectors.

A graph takes ragged histories, for any number of users and clicks. The model's own methods ``scores_of``,
``similarity``, ``alike_of`` and ``vectors`` are traced; masks and selection are added here. B users, N clicks, I items,
C conditions, m items asked about, D dimensions of a vector:

    lengths int64 [B], rows int64 [N], columns int64 [N], values float32 [N]     clicks by user, and by item within one
    conditions float32 [B, C]        of a model that has conditions
    hidden bool [1 or B, I]          the items that may not be listed
    exclude_seen bool []             whether the items of a history may not be listed either
    k int64 [1]                      1 <= k <= I
    -> top_items int64 [B, k], top_scores float32 [B, k], scores float32 [B, I]
    items int64 [m] -> similarity float32 [m, I], alike float32 [m, I]
    lengths, rows, columns, values, conditions -> vectors float32 [B, D]

``top_items`` has the best first and equal scores by the lower item; items that may not be listed come last, with score
-inf. ``scores`` are those before any mask.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast

import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor, nn

from recvae.errors import WorkError
from recvae.nn.ragged import TracedBatch
from recvae.recommender import Recommender
from recvae.training.export_folder import ENCODER, GRAPH, SIMILAR

OPSET = 20
Axes = Mapping[str, tuple[str | int, ...]]
"""The axes of inputs or outputs by name: a word for a size that is free, a number for one that is not."""

_HISTORIES: Axes = {"lengths": ("users",), "rows": ("clicks",), "columns": ("clicks",), "values": ("clicks",)}
_TRACED = ("users", "clicks", "items")  # one mask for all users, or one for each, differ in no operation
_PARTS = {  # outputs by file
    GRAPH: ("top_items", "top_scores", "scores"),
    SIMILAR: ("similarity", "alike"),
    ENCODER: ("vectors",),
}


def traced(model: Recommender, *, similarity: bool, vectors: bool) -> ir.Model:
    """Return one graph of all outputs, those of similarity and vectors where they are asked for.

    Raises :class:`InputError` for a model without ``scores_of`` or without what is asked for, and :class:`WorkError`
    where torch's exporter cannot trace it.
    """
    n_items, n_conditions = model.n_items, len(model.condition_names)
    given, axes = _inputs(n_items, n_conditions, model.named_value)
    made: dict[str, tuple[str | int, ...]] = {"top_items": ("users", "k"), "top_scores": ("users", "k")}
    made["scores"] = ("users", n_items)
    parts: list[Callable[[TracedBatch, Tensor], list[Tensor]]] = []
    if similarity:
        made |= dict.fromkeys(("similarity", "alike"), ("items", n_items))
        parts.append(lambda batch, items: [model.similarity(items), model.alike_of(items)])
    else:
        del given["items"]
    if vectors:
        found = model.vectors()
        made["vectors"] = ("users", found.items.shape[1])
        parts.append(lambda batch, items: [found.of_users(batch)])
    histories = [name for name in given if name in (*_HISTORIES, "conditions")]

    def outputs(**named: Tensor) -> list[Tensor]:
        batch = TracedBatch.ragged(**{name: named[name] for name in histories}, n_items=n_items)
        scores = model.scores_of(batch)
        lists = _lists(scores, batch, named["hidden"], named["exclude_seen"], named["k"])
        return [*lists, *(one for part in parts for one in part(batch, named.get("items", batch.columns)))]

    with torch.no_grad():
        outputs(**given)  # raises the model's own errors, and makes what it computes once
    return _exported(type(model).__name__, outputs, given, axes, made)


def parts_of(model: ir.Model) -> dict[str, ir.Model]:
    """Return the graphs by file of the one that :func:`traced` made, each with the inputs of its outputs."""
    outputs = {value.name for value in model.graph.outputs}
    files = {file: names for file, names in _PARTS.items() if set(names) <= outputs}
    graphs = {}
    for file, names in files.items():
        inputs = [value.name for value in model.graph.inputs if _belongs(value.name or "", file)]
        graph = ir.convenience.extract(model.graph, cast(list[str], inputs), list(names))
        graph.name = file.removesuffix(".onnx")
        _in_order(graph)
        opsets = {node.domain: model.opset_imports.get(node.domain, 1) for node in graph.all_nodes()}
        graph.opset_imports.update({"": model.opset_imports[""], **opsets})
        graphs[file] = ir.Model(graph, ir_version=model.ir_version, producer_name="recvae")
    return graphs


def _in_order(graph: ir.Graph) -> None:
    """Put constants in the order of their use, and leave the types of inner values to the runtime.

    So that the same model makes the same file: both are otherwise in the order of a set.
    """
    used = dict.fromkeys(value.name for node in graph for value in node.inputs if value is not None and value.name)
    constants = dict(graph.initializers)
    graph.initializers.clear()
    graph.initializers.update({name: constants[name] for name in used if name in constants})
    for node in graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.type = None


def _belongs(name: str, file: str) -> bool:
    """Return whether a file's graph has an input, whether its model reads it or not."""
    if file == SIMILAR or name == "items":
        return file == SIMILAR and name == "items"
    return file == GRAPH or name in (*_HISTORIES, "conditions")


def _lists(scores: Tensor, batch: TracedBatch, hidden: Tensor, exclude_seen: Tensor, k: Tensor) -> list[Tensor]:
    """Return the best items with their scores, and all scores."""
    cells = batch.rows, batch.columns
    listable = scores.index_put(cells, torch.where(exclude_seen, -torch.inf, scores[cells]))
    listable = torch.where(hidden, -torch.inf, listable)
    wanted = cast(int, k.item())  # a symbol: int() would make it a number
    torch._check(wanted >= 1)  # type: ignore[no-untyped-call]  # torch ships it without types; its exporter asks
    torch._check(wanted <= scores.shape[1])  # type: ignore[no-untyped-call]  # the same
    best, items = torch.topk(listable, wanted)
    return [items, best, scores]


def _inputs(
    n_items: int, n_conditions: int, value: float
) -> tuple[dict[str, Tensor], dict[str, tuple[str | int, ...]]]:
    """Return inputs about three users, the second of whom has no history, and the axes of such inputs."""
    columns = torch.tensor([0, 1, 0, 1, 2]) % n_items
    given = {"lengths": torch.tensor([2, 0, 3]), "rows": torch.tensor([0, 0, 2, 2, 2]), "columns": columns}
    given["values"] = torch.full((5,), value)
    axes: dict[str, tuple[str | int, ...]] = dict(_HISTORIES)
    if n_conditions:
        given["conditions"], axes["conditions"] = torch.zeros(3, n_conditions), ("users", n_conditions)
    given["hidden"], axes["hidden"] = torch.zeros(1, n_items, dtype=torch.bool), ("masks", n_items)
    given["exclude_seen"], axes["exclude_seen"] = torch.tensor(True), ()
    given["k"], axes["k"] = torch.tensor([min(2, n_items)]), (1,)
    given["items"], axes["items"] = torch.arange(4) % n_items, ("items",)
    return given, axes


class _Graph(nn.Module):
    """A function of tensors by name, as torch's exporter takes it."""

    def __init__(self, function: Callable[..., list[Tensor]], names: Sequence[str]) -> None:
        super().__init__()
        self.function, self.names = function, names

    def forward(self, *given: Tensor) -> list[Tensor]:
        return self.function(**dict(zip(self.names, given, strict=True)))


def _exported(
    title: str, function: Callable[..., list[Tensor]], given: Mapping[str, Tensor], axes: Axes, made: Axes
) -> ir.Model:
    """Return the graph of a function of named tensors, whose inputs and outputs have these names and axes."""
    free = tuple(
        {place: torch.export.Dim.DYNAMIC for place, size in enumerate(axes[name]) if size in _TRACED} for name in given
    )
    with _quietly(), torch.no_grad():
        try:
            program = torch.onnx.export(
                _Graph(function, list(given)).eval(),
                tuple(given.values()),
                input_names=list(given),
                output_names=list(made),
                dynamic_shapes={"given": free},
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise WorkError(
                f"{title} cannot be exported: torch's exporter cannot trace one of its methods scores_of, similarity, "
                "alike_of and vectors. They must be made of torch's operations on tensors, and read no value or size."
            ) from error
    assert program is not None
    model: ir.Model = program.model
    ClearMetadataAndDocStringPass()(model)  # they name files of this machine
    for node in model.graph.all_nodes():
        for value in node.outputs:
            value.shape = None  # in the exporter's names of sizes
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.shape = ir.Shape({**axes, **made}[value.name or ""])
    return model


@contextmanager
def _quietly() -> Iterator[None]:
    """Leave out three notes of torch's exporter that are of no use to its user.

    It logs that torchvision, of which nothing here is made, is not installed; that an empty list of axes is a list of
    whole numbers, as it is; and Python warns that torch itself compares with a class of its own that it means to
    remove.
    """
    loggers = [logging.getLogger(name) for name in ("torch.onnx._internal.exporter._registration", "onnx_ir")]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)
