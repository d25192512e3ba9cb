"""The tables of weights of a graph: in eight bits or bfloat16 where asked for, and in one file beside the graphs.

int8: onnxruntime's own quantisation of weights in blocks. Each run of 32, 64 or 128 values in a table's row has a scale
and a whole number of eight bits for each value (its tool ``matmul_nbits_quantizer``, symmetric). Rows that are looked
up are made float32 again; products are onnxruntime's ``MatMulNBits``, which rounds its other operand to eight bits too,
in blocks of a row, so that a user's scores depend on no other user. Biases and small matrices stay float32.

bf16: the tables are rounded to bfloat16 for storage, and made float32 again where they are used.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, RemoveUnusedNodesPass
from onnxscript.optimizer import fold_constants

from recvae.errors import InputError
from recvae.training.export_folder import WEIGHTS, Precision

LEAST = 1 << 12  # values of a matrix that is worth shrinking
BLOCKS = (32, 64, 128)  # values that share a scale
INLINE = 1024  # bytes of a tensor that stays in its graph
PAGE, LARGE = 4096, 1 << 20  # large tensors begin on a page, so that they can be mapped; bytes
CONTRIB = "com.microsoft"  # onnxruntime's own operations

_PRODUCTS = ("Gemm", "MatMul")


class Blocks(NamedTuple):
    """A table (n, K) in eight bits, uint8 where 128 is 0, with a scale for each ``block`` values of a row.

    ``numbers`` (n, blocks, block) for products, None where there are none; ``rows`` for look-ups, the same bytes as
    (n, blocks * block), or without products (n, K); ``scales`` float32 (n, blocks); ``n_rows`` is n, ``width`` K.
    """

    numbers: ir.Value | None
    rows: ir.Value
    scales: ir.Value
    block: int
    n_rows: int
    width: int


def prepared(model: ir.Model) -> ir.Model:
    """Return a graph whose products read tables as they are kept, and whose constant parts are computed.

    Equal constants and equal operations become one: onnxruntime maps each constant into memory, and runs every
    operation, whichever outputs are asked for.
    """
    for node in list(model.graph.all_nodes()):
        if node.op_type in ("MatMul", "Gemm") and (turned := _transposed(node.inputs[1])) is not None:
            _as_gemm(model.graph, node, turned)
    fold_constants(model, onnx_shape_inference=False, input_size_limit=1 << 62, output_size_limit=1 << 62)
    _share_constants(model.graph)
    CommonSubexpressionEliminationPass()(model)
    RemoveUnusedNodesPass()(model)
    return model


def shrunk(model: ir.Model, precision: Precision, title: str) -> ir.Model:
    """Return a graph with its tables in another precision; raise :class:`InputError` where it has none to shrink."""
    if precision == "float32":
        return model
    nodes = list(model.graph.all_nodes())
    if precision == "int8":
        changed = [_quantise(model.graph, nodes)]
    else:
        rounded: dict[str, ir.Value] = {}
        changed = [_round(model.graph, node, rounded) for node in nodes]
    if not any(changed):
        raise InputError(
            f"{title} has no table of weights that {precision} would make smaller. Export it with weights='float32'."
        )
    RemoveUnusedNodesPass()(model)
    if precision == "int8":
        model.opset_imports[CONTRIB] = 1
    return model


def write(folder: Path, models: Mapping[str, ir.Model]) -> None:
    """Write the graphs by file name into ``folder``, and the weights of all of them, each once, into one file."""
    places: dict[str, tuple[int, int]] = {}  # offset and length by digest
    with (folder / WEIGHTS).open("wb") as file:
        for model in models.values():
            for value in model.graph.initializers.values():
                tensor = value.const_value
                assert tensor is not None
                if tensor.nbytes <= INLINE:
                    continue
                data = _bytes(tensor)
                digest = hashlib.sha256(data).hexdigest()
                if digest not in places:
                    align = PAGE if len(data) >= LARGE else 64
                    file.write(bytes(-file.tell() % align))
                    places[digest] = file.tell(), len(data)
                    file.write(data)
                offset, length = places[digest]
                value.const_value = ir.ExternalTensor(
                    WEIGHTS, offset, length, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=value.name or ""
                )
    for name, model in models.items():
        (folder / name).write_bytes(ir.to_proto(model).SerializeToString())


def _bytes(tensor: ir.TensorProtocol) -> memoryview:
    """Return a tensor's values as bytes, row by row; they are not copied where they are laid out so."""
    return np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8).data


# --- constant parts ----------------------------------------------------------------------------------------------


def _share_constants(graph: ir.Graph) -> None:
    """Let equal constants be one."""
    first: dict[tuple[ir.DataType, tuple[int, ...], str], ir.Value] = {}
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        assert tensor is not None
        key = tensor.dtype, tuple(tensor.shape.numpy()), hashlib.sha256(_bytes(tensor)).hexdigest()
        same = first.setdefault(key, value)
        if same is not value:
            ir.convenience.replace_all_uses_with(value, same)


def _transposed(value: ir.Value | None) -> ir.Value | None:
    """Return the matrix of which a value is the transpose, None where it is no such."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != "Transpose":
        return None
    order = node.attributes.get("perm")
    return node.inputs[0] if order is not None and list(order.as_ints()) == [1, 0] else None


def _as_gemm(graph: ir.Graph, node: ir.Node, matrix: ir.Value) -> None:
    """Replace a product with a transposed matrix by one that transposes it meanwhile."""
    attributes = dict(node.attributes)
    if "transB" in attributes and attributes["transB"].as_int():
        return
    bias = node.inputs[2:] if node.op_type == "Gemm" else []
    made = ir.node("Gemm", [node.inputs[0], matrix, *bias], {"transB": 1})
    made.attributes.update({name: attributes[name] for name in ("alpha", "beta", "transA") if name in attributes})
    _replace(graph, node, [made])


def _replace(graph: ir.Graph, node: ir.Node, made: list[ir.Node]) -> None:
    """Put nodes in a node's place; the last one's output takes the place of the node's."""
    old, new = node.outputs[0], made[-1].outputs[0]
    new.name, new.type, new.shape = old.name, old.type, old.shape
    ir.convenience.replace_nodes_and_values(graph, node, [node], made, [old], [new])


# --- precision ---------------------------------------------------------------------------------------------------


def _table(value: ir.Value | None) -> NDArray[np.float32] | None:
    """Return the constant matrix of float32 that is worth shrinking, None where a value is none."""
    if value is None or value.const_value is None or value.const_value.dtype != ir.DataType.FLOAT:
        return None
    shape = value.const_value.shape.numpy()
    if len(shape) != 2 or shape[0] * shape[1] < LEAST or min(shape) < 2:
        return None
    found: NDArray[np.float32] = value.const_value.numpy()
    return found


def _constant(graph: ir.Graph, name: str, array: NDArray[np.generic]) -> ir.Value:
    """Return a new constant of a graph."""
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    value.shape, value.type = ir.Shape(array.shape), ir.TensorType(ir.tensor(array).dtype)
    graph.register_initializer(value)
    return value


def _round(graph: ir.Graph, node: ir.Node, kept: dict[str, ir.Value]) -> bool:
    """Let a node read its tables in bfloat16; return whether it reads any."""
    changed = False
    for place, value in enumerate(node.inputs):
        table = _table(value)
        if table is None or value is None or value.name is None:
            continue
        if value.name not in kept:
            kept[value.name] = _constant(graph, f"{value.name}.bf16", table.astype(ml_dtypes.bfloat16))
        changed = True
        if node.op_type.startswith("Gather") and place == 0:  # the rows that are looked up are made float32
            found = ir.node(node.op_type, [kept[value.name], *node.inputs[1:]], node.attributes)
            _replace(graph, node, [found, ir.node("Cast", [found.outputs[0]], {"to": ir.DataType.FLOAT})])
        else:
            cast = ir.node("Cast", [kept[value.name]], {"to": ir.DataType.FLOAT})
            cast.outputs[0].name = f"{value.name}.float32.{place}.{node.name}"
            graph.insert_before(node, cast)
            node.replace_input_with(place, cast.outputs[0])
    return changed


def _quantise(graph: ir.Graph, nodes: Sequence[ir.Node]) -> bool:
    """Let products with tables, and look-ups in them, use the tables in eight bits; return whether there are any."""
    in_blocks: dict[tuple[str, bool], Blocks] = {}
    products = {(_name(node.inputs[1]), _turned(node)) for node in nodes if node.op_type in _PRODUCTS}
    found = False
    for node in nodes:
        place = 1 if node.op_type in _PRODUCTS else 0
        table = _table(node.inputs[place]) if node.op_type in (*_PRODUCTS, "Gather", "GatherND") else None
        if table is None:
            continue
        found = True
        rows = place == 0 or _turned(node)
        key = _name(node.inputs[place]), rows
        if key not in in_blocks:
            in_blocks[key] = _in_blocks(
                graph, ".".join((key[0], "rows" if rows else "columns")), table if rows else table.T, key in products
            )
        use = {"Gather": _looked_up, "GatherND": _cells_looked_up}.get(node.op_type, _multiplied)
        _replace(graph, node, use(graph, node, in_blocks[key]))
    return found


def _name(value: ir.Value | None) -> str:
    return "" if value is None or value.name is None else value.name


def _turned(node: ir.Node) -> bool:
    """Return whether a product is with the transpose of its table: a row of the table is then an output."""
    return "transB" in node.attributes and node.attributes["transB"].as_int() == 1


def _in_blocks(graph: ir.Graph, name: str, table: NDArray[np.float32], of_product: bool) -> Blocks:
    """Return a table (n, K) in eight bits; for products its rows are filled up to whole blocks.

    Blocks of a table for products have the size that takes least memory.
    """
    width: int = table.shape[1]
    block = min(BLOCKS, key=lambda size: -(-width // size) * (size + 4)) if of_product else BLOCKS[1]
    tool = _quantiser()
    config = tool.DefaultWeightOnlyQuantConfig(block_size=block, is_symmetric=True, bits=8)
    turned = np.ascontiguousarray(table.T)
    numbers, scales, _ = tool.DefaultWeightOnlyQuantizer(config).qbits_block_quant(turned)
    rows = numbers.reshape(len(table), -1)
    kept = np.ascontiguousarray(rows if of_product else rows[:, :width])
    return Blocks(
        _constant(graph, f"{name}.int8", numbers) if of_product else None,
        _constant(graph, f"{name}.int8.rows", kept),
        _constant(graph, f"{name}.scales", scales.reshape(len(table), -1)),
        block,
        *table.shape,
    )


def _quantiser() -> ModuleType:
    """Import onnxruntime's tool, and take back the settings of Python's logging that it makes for all programs."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        return import_module("onnxruntime.quantization.matmul_nbits_quantizer")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def _multiplied(graph: ir.Graph, node: ir.Node, table: Blocks) -> list[ir.Node]:
    """Return the product of a node with a table in eight bits."""
    del graph
    sizes = {"K": table.width, "N": table.n_rows, "bits": 8, "block_size": table.block}
    bias = [] if len(node.inputs) < 3 else [None, None, node.inputs[2]]
    inputs = [node.inputs[0], table.numbers, table.scales, *bias]
    return [ir.node("MatMulNBits", inputs, {**sizes, "accuracy_level": 4}, domain=CONTRIB)]


def _looked_up(graph: ir.Graph, node: ir.Node, table: Blocks) -> list[ir.Node]:
    """Return nodes that look up rows and make them float32, without the values that fill up the last block."""
    sizes = {"gather_axis": 0, "quantize_axis": 1, "block_size": table.block, "bits": 8}
    found = ir.node("GatherBlockQuantized", [table.rows, node.inputs[1], table.scales], sizes, domain=CONTRIB)
    if table.numbers is None or table.width % table.block == 0:
        return [found]
    ends = [_number(graph, number) for number in ([0], [table.width], [1])]
    return [found, ir.node("Slice", [found.outputs[0], *ends])]


def _cells_looked_up(graph: ir.Graph, node: ir.Node, table: Blocks) -> list[ir.Node]:
    """Return nodes that look up single values, of rows and columns (..., 2), and make them float32."""
    numbers = ir.node("GatherND", [table.rows, node.inputs[1]])
    wide = ir.node("Cast", [numbers.outputs[0]], {"to": ir.DataType.FLOAT})
    zero = ir.node("Sub", [wide.outputs[0], _number(graph, np.float32(128))])
    blocks = ir.node("Div", [node.inputs[1], _number(graph, [1, table.block])])
    scale = ir.node("GatherND", [table.scales, blocks.outputs[0]])
    return [numbers, wide, zero, blocks, scale, ir.node("Mul", [zero.outputs[0], scale.outputs[0]])]


def _number(graph: ir.Graph, value: Sequence[int] | np.float32) -> ir.Value:
    """Return a small constant, each once."""
    array = np.asarray(value, dtype=np.float32 if isinstance(value, np.float32) else np.int64)
    name = f"constant.{array.dtype}.{array.tolist()}"
    return graph.initializers[name] if name in graph.initializers else _constant(graph, name, array)
