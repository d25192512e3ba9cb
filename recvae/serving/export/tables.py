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

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnxscript.optimizer import fold_constants

from recvae.errors import InputError
from recvae.training.export_folder import WEIGHTS, Precision

LEAST = 1 << 12  # values of a matrix that is worth shrinking
BLOCKS = (32, 64, 128)  # values that share a scale
INLINE = 1024  # bytes of a tensor that stays in its graph
PAGE, LARGE = 4096, 1 << 20  # large tensors begin on a page, so that they can be mapped; bytes
CONTRIB = "com.microsoft"  # onnxruntime's own operations

Quantised = tuple[ir.Value, ir.Value, ir.Value, int]
"""A table in eight bits for products, its scales, the same table for look-ups, and the size of its blocks."""


def prepared(model: ir.Model) -> ir.Model:
    """Return a graph whose products read tables as they are kept, and whose constant parts are computed."""
    for node in list(model.graph.all_nodes()):
        if node.op_type in ("MatMul", "Gemm") and (turned := _transposed(node.inputs[1])) is not None:
            _as_gemm(model.graph, node, turned)
    fold_constants(model, onnx_shape_inference=False, input_size_limit=1 << 62, output_size_limit=1 << 62)
    RemoveUnusedNodesPass()(model)
    return model


def shrunk(model: ir.Model, precision: Precision, title: str) -> ir.Model:
    """Return a graph with its tables in another precision; raise :class:`InputError` where it has none to shrink."""
    if precision == "float32":
        return model
    nodes = list(model.graph.all_nodes())
    if precision == "int8":
        in_blocks: dict[str, Quantised] = {}
        changed = [_quantise(model.graph, node, in_blocks) for node in nodes]
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
                data = tensor.tobytes()
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


# --- constant parts ----------------------------------------------------------------------------------------------


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


def _quantise(graph: ir.Graph, node: ir.Node, kept: dict[str, Quantised]) -> bool:
    """Let a product with a table, or a look-up in one, use it in eight bits; return whether the node is such."""
    place = {"Gemm": 1, "MatMul": 1, "Gather": 0, "GatherND": 0}.get(node.op_type)
    table = None if place is None else _table(node.inputs[place])
    if place is None or table is None:
        return False
    value = node.inputs[place]
    assert value is not None
    if node.op_type in ("Gemm", "MatMul"):
        turned = "transB" in node.attributes and node.attributes["transB"].as_int() == 1
        if not turned:
            table = np.ascontiguousarray(table.T)
        key = f"{value.name}.{'rows' if turned else 'columns'}"
        flat, scales, _, block = _in_blocks(graph, key, table, kept)
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        sizes = {"K": table.shape[1], "N": table.shape[0], "bits": 8, "block_size": block, "accuracy_level": 4}
        inputs = [node.inputs[0], flat, scales] + ([] if bias is None else [None, None, bias])
        _replace(graph, node, [ir.node("MatMulNBits", inputs, sizes, domain=CONTRIB)])
        return True
    _, scales, rows, block = _in_blocks(graph, f"{value.name}.rows", table, kept)
    if node.op_type == "Gather":
        _replace(graph, node, _looked_up(graph, node, (rows, scales, block), table.shape[1]))
    else:
        _replace(graph, node, _cells_looked_up(graph, node, (rows, scales, block)))
    return True


def _in_blocks(graph: ir.Graph, name: str, table: NDArray[np.float32], kept: dict[str, Quantised]) -> Quantised:
    """Return a table in eight bits, its scales, the table as rows, and the block size that takes least memory.

    The table is uint8 (n, blocks, block) for products and (n, blocks * block) for look-ups, the same bytes, and 128 is
    0; the scales are float32 (n, blocks).
    """
    if name not in kept:
        block = min(BLOCKS, key=lambda size: -(-table.shape[1] // size) * (size + 4))
        tool = _quantiser()
        config = tool.DefaultWeightOnlyQuantConfig(block_size=block, is_symmetric=True, bits=8)
        turned = np.ascontiguousarray(table.T)
        numbers, scales, _ = tool.DefaultWeightOnlyQuantizer(config).qbits_block_quant(turned)
        kept[name] = (
            _constant(graph, f"{name}.int8", numbers),
            _constant(graph, f"{name}.scales", scales.reshape(len(table), -1)),
            _constant(graph, f"{name}.int8.flat", numbers.reshape(len(table), -1)),
            block,
        )
    return kept[name]


def _quantiser() -> ModuleType:
    """Import onnxruntime's tool, and take back the settings of Python's logging that it makes for all programs."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        return import_module("onnxruntime.quantization.matmul_nbits_quantizer")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def _looked_up(graph: ir.Graph, node: ir.Node, table: tuple[ir.Value, ir.Value, int], width: int) -> list[ir.Node]:
    """Return nodes that look up rows and make them float32, without the values that fill up the last block."""
    rows, scales, block = table
    sizes = {"gather_axis": 0, "quantize_axis": 1, "block_size": block, "bits": 8}
    found = ir.node("GatherBlockQuantized", [rows, node.inputs[1], scales], sizes, domain=CONTRIB)
    if width % block == 0:
        return [found]
    ends = [_number(graph, number) for number in ([0], [width], [1])]
    return [found, ir.node("Slice", [found.outputs[0], *ends[:2], ends[2]])]


def _cells_looked_up(graph: ir.Graph, node: ir.Node, table: tuple[ir.Value, ir.Value, int]) -> list[ir.Node]:
    """Return nodes that look up single values, of rows and columns (..., 2), and make them float32."""
    rows, scales, block = table
    numbers = ir.node("GatherND", [rows, node.inputs[1]])
    wide = ir.node("Cast", [numbers.outputs[0]], {"to": ir.DataType.FLOAT})
    zero = ir.node("Sub", [wide.outputs[0], _number(graph, np.float32(128))])
    blocks = ir.node("Div", [node.inputs[1], _number(graph, [1, block])])
    scale = ir.node("GatherND", [scales, blocks.outputs[0]])
    return [numbers, wide, zero, blocks, scale, ir.node("Mul", [zero.outputs[0], scale.outputs[0]])]


def _number(graph: ir.Graph, value: Sequence[int] | np.float32) -> ir.Value:
    """Return a small constant, each once."""
    array = np.asarray(value, dtype=np.float32 if isinstance(value, np.float32) else np.int64)
    name = f"constant.{array.dtype}.{array.tolist()}"
    return graph.initializers[name] if name in graph.initializers else _constant(graph, name, array)
