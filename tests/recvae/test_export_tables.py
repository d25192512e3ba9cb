"""Tables of weights in eight bits and bfloat16, and in one file, in graphs that are written by hand."""

import logging

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from recvae.errors import InputError
from recvae.serving.export.comparison import Graph
from recvae.serving.export.tables import prepared, shrunk, write
from recvae.training.export_folder import GRAPH, WEIGHTS

DRAWS = np.random.default_rng(7)
FLOAT, INT = ir.TensorType(ir.DataType.FLOAT), ir.TensorType(ir.DataType.INT64)


def values(*shape):
    return DRAWS.normal(size=shape).astype(np.float32)


def port(name, kind, *shape):
    return ir.Value(name=name, type=kind, shape=ir.Shape(shape))


def constants(**arrays):
    tensors = {name: ir.tensor(array, name=name) for name, array in arrays.items()}
    return {name: ir.Value(name=name, const_value=t, type=ir.TensorType(t.dtype)) for name, t in tensors.items()}


def model(inputs, outputs, nodes, kept):
    for value in outputs:
        value.type = FLOAT
    graph = ir.Graph(
        inputs, outputs, nodes=nodes, initializers=list(kept.values()), opset_imports={"": 20}, name="hand"
    )
    return ir.Model(graph, ir_version=10)


def named(node, name):
    node.outputs[0].name = name
    return node.outputs[0]


def products(weight, bias=None, *, turned):
    """x, float32 (n, K), times a table: (K, N), or (N, K) that is transposed in the graph."""
    x, kept = port("x", FLOAT, "n", None), constants(weight=weight, **({} if bias is None else {"bias": bias}))
    turn = ir.node("Transpose", [kept["weight"]], {"perm": [1, 0]})
    matrix = turn.outputs[0] if turned else kept["weight"]
    product = ir.node("MatMul" if bias is None else "Gemm", [x, matrix, *([] if bias is None else [kept["bias"]])])
    return model([x], [named(product, "y")], [turn, product] if turned else [product], kept)


def look_ups(table):
    """Rows of a table, float32 (m, K), by their numbers."""
    rows, kept = port("rows", INT, "m"), constants(table=table)
    found = ir.node("Gather", [kept["table"], rows], {"axis": 0})
    return model([rows], [named(found, "y")], [found], kept)


def cells(table):
    """Single values of a table by row and column, int64 (m, 2), and whole rows of the same table."""
    where, rows, kept = port("where", INT, "m", 2), port("rows", INT, "m"), constants(table=table)
    found, whole = ir.node("GatherND", [kept["table"], where]), ir.node("Gather", [kept["table"], rows], {"axis": 0})
    return model([where, rows], [named(found, "y"), named(whole, "rows of it")], [found, whole], kept)


def run(made, folder, outputs=("y",), **feed):
    write(folder, {GRAPH: made})
    return Graph(folder / GRAPH).run(outputs, feed)


def rounded(table, block):
    """The table as eight bits hold it: of each block of a row the value that is largest in size is -128."""
    n, width = table.shape
    padded = np.zeros((n, -(-width // block) * block), np.float32)
    padded[:, :width] = table
    parts = padded.reshape(n, -1, block)
    low, high = parts.min(2, keepdims=True), parts.max(2, keepdims=True)
    scale = np.where(np.abs(high) > np.abs(low), high, low) / -128
    numbers = np.clip(np.round(parts / np.where(scale == 0, 1, scale)), -128, 127)
    return (numbers * scale).reshape(n, -1)[:, :width]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("width", [64, 90, 200])
def test_products_in_eight_bits_are_near_and_a_row_depends_on_no_other(width, turned, tmp_path):
    weight, bias, x = values(130, width), values(130), values(5, width)
    made = shrunk(prepared(products(weight if turned else weight.T.copy(), bias, turned=turned)), "int8", "It")
    together = run(made, tmp_path, x=x)[0]
    exact = x @ weight.T + bias
    assert 0 < np.abs(together - exact).std() < 0.01 * exact.std()
    x[1:] *= 100  # another batch around the same row
    other = Graph(tmp_path / GRAPH).run(["y"], {"x": x})[0]
    np.testing.assert_allclose(other[0], together[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("width", [64, 90, 200])
def test_rows_in_eight_bits_are_those_of_the_blocks(width, tmp_path):
    table = values(150, width)
    table[3] = 0
    rows = np.array([0, 3, 149, 3])
    found = run(shrunk(prepared(look_ups(table)), "int8", "It"), tmp_path, rows=rows)[0]
    np.testing.assert_allclose(found, rounded(table, 64)[rows], atol=2e-6)
    assert (tmp_path / WEIGHTS).stat().st_size < 0.3 * table.nbytes


def test_cells_in_eight_bits_are_those_of_their_rows(tmp_path):
    table = values(90, 90)
    where, rows = np.array([[0, 0], [89, 89], [4, 63], [4, 64], [7, 65]]), np.array([0, 89, 4, 4, 7])
    feed = {"where": where, "rows": rows}
    found, whole = run(shrunk(prepared(cells(table)), "int8", "It"), tmp_path, ("y", "rows of it"), **feed)
    np.testing.assert_array_equal(found, whole[np.arange(5), where[:, 1]])
    np.testing.assert_allclose(whole, rounded(table, 64)[rows], atol=2e-6)


@pytest.mark.parametrize("turned", [False, True])
def test_bfloat16_rounds_tables_and_computes_with_float32(turned, tmp_path):
    weight, x = values(80, 64), values(3, 64)
    near = weight.astype(ml_dtypes.bfloat16).astype(np.float32)
    found = run(
        shrunk(prepared(products(weight if turned else weight.T.copy(), turned=turned)), "bf16", "It"), tmp_path, x=x
    )
    np.testing.assert_allclose(found[0], x @ near.T, rtol=1e-5, atol=1e-5)
    rows = np.array([2, 79])
    np.testing.assert_array_equal(run(shrunk(look_ups(weight), "bf16", "It"), tmp_path, rows=rows)[0], near[rows])
    assert (tmp_path / WEIGHTS).stat().st_size == weight.nbytes / 2


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_a_graph_without_tables_has_none_to_shrink(precision):
    with pytest.raises(InputError, match="It has no table of weights"):
        shrunk(look_ups(values(3, 5)), precision, "It")


def test_a_table_of_two_graphs_is_written_once(tmp_path):
    table = values(100, 70)
    write(tmp_path, {"one.onnx": look_ups(table), "two.onnx": look_ups(table.copy())})
    assert (tmp_path / WEIGHTS).stat().st_size == table.nbytes
    for name in ("one.onnx", "two.onnx"):
        np.testing.assert_array_equal(Graph(tmp_path / name).run(["y"], {"rows": np.array([99])})[0], table[99:])


def test_onnxruntimes_tool_leaves_the_logging_of_others_alone(tmp_path):
    before = logging.getLogger().handlers[:], logging.getLogger().level
    run(shrunk(prepared(look_ups(values(100, 70))), "int8", "It"), tmp_path, rows=np.array([0]))
    assert (logging.getLogger().handlers, logging.getLogger().level) == before
