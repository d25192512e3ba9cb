"""Kernels of the networks: matrix products, sums of gathered rows, and memory for gradients."""

from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# The context object of an autograd function: torch declares none of the attributes that forward sets for backward.
Context = Any
Precision = Literal["float32", "tf32", "bf16"]
_rounding: ContextVar[bool] = ContextVar("rounding", default=False)
# The numbers of rows, up to a service's batch, for which oneDNN writes a program: at most a fifth more rows than asked.
FEW_ROWS = (*range(1, 9), *range(10, 17, 2), *range(20, 33, 4), *range(40, 65, 8))


@contextmanager
def precision(name: Precision) -> Iterator[None]:
    """Within this context, make products in float32, in TF32 (CUDA devices only) or with operands rounded to bfloat16.

    Sums, exponentials, parameters and optimiser states stay float32. Rounding holds for this thread alone; TF32 is a
    global setting of torch and holds for all threads.
    """
    token = _rounding.set(name == "bf16")
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision if name == "tf32" else None
    try:
        if name == "tf32":
            matmul.fp32_precision = "tf32"
        yield
    finally:
        _rounding.reset(token)
        if before is not None:
            matmul.fp32_precision = before


def rounding() -> bool:
    """Return whether products round in this thread; read in forward passes, as backward may run in another."""
    return _rounding.get()


def product(a: Tensor, b: Tensor, bias: Tensor | None = None, *, rounded: bool | None = None) -> Tensor:
    """Return a @ b.T (+ bias), (M, N), from (M, K), (N, K) and (N,). Not differentiable: the callers write gradients.

    Either operand may be a transposed view; ``bias`` is contiguous. On a CPU with AVX-512, oneDNN's float32 product is
    taken: it uses AVX-512 on the processors of every maker, and the BLAS of torch does not (docs/performance.md).
    ``rounded`` overrides the context's :func:`precision`.
    """
    if torch.compiler.is_exporting():  # a graph holds the product alone, whatever machine it is made on
        return torch.nn.functional.linear(a, b, bias)
    if a.dtype == torch.float32 and (rounding() if rounded is None else rounded):
        return _rounded_product(a, b, bias)
    if a.device.type == "cpu" and a.dtype == torch.float32:
        if len(a) == 1 and b.is_contiguous():  # one user's request reads the weights once: NumPy's BLAS is fastest
            row = torch.from_numpy(np.dot(b.detach().numpy(), a.detach().numpy()[0]))[None]
            return row if bias is None else row + bias
        if _onednn_is_faster():
            out: Tensor = torch.ops.mkldnn._linear_pointwise(_packed(a), _packed(b), bias, "none", [], "")
            return out
    return torch.mm(a, b.T) if bias is None else torch.addmm(bias, a, b.T)


def blocks_of(weight: Tensor) -> Tensor | None:
    """Return a copy of a weight (N, K) in oneDNN's blocks, None where :func:`product` is made without oneDNN.

    oneDNN makes this copy in every product, which for a few rows takes longer than the product itself.
    """
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or not _onednn_is_faster():
        return None
    blocks: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
    return blocks


def columns_of(weight: Tensor) -> NDArray[np.float32] | None:
    """Return a copy (K, N) of a weight (N, K) for :func:`product_of_columns`, None where it is of no use."""
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return None
    return np.ascontiguousarray(weight.detach().numpy().T)


def product_of_columns(a: Tensor, columns: NDArray[np.float32], bias: Tensor) -> Tensor:
    """Return :func:`product` of a single row ``a`` (1, K), equal to rounding, with a weight's columns (K, N).

    It reads the memory in long runs. The rows of a last layer are short, and reading them one by one takes twice as
    long where they are not in the cache.
    """
    row = np.dot(a.numpy()[0], columns)
    row += bias.detach().numpy()
    return torch.from_numpy(row)[None]


def product_of_blocks(a: Tensor, blocks: Tensor, bias: Tensor) -> Tensor:
    """Return :func:`product` of several rows ``a`` (M, K), M > 1, with a weight in blocks: the same bits, sooner.

    oneDNN writes a program for each M, which takes a millisecond and .6 MB, and keeps it. Rows of zeros are put below
    ``a`` where M is between two of the few numbers of rows; each row has the same bits whatever the number.
    """
    a, rows = _packed(a), len(a)
    more = FEW_ROWS[bisect_left(FEW_ROWS, rows)] - rows if rows <= FEW_ROWS[-1] else 0
    if more:
        a = torch.cat((a, a.new_zeros(more, a.shape[1])))
    out: Tensor = torch.ops.mkldnn._linear_pointwise(a, blocks, bias, "none", [], "")
    return out[:rows]


def _packed(operand: Tensor) -> Tensor:
    """Return a copy of a transposed part of a matrix, with which oneDNN is hundreds of times slower."""
    return operand if operand.stride(1) == 1 or operand.T.is_contiguous() else operand.contiguous()


def _rounded_product(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """Return :func:`product` with both operands rounded to bfloat16; on a CPU the result is rounded as well."""
    a, b = a.bfloat16(), b.bfloat16()
    if a.device.type == "cuda":
        out = torch.mm(a, b.T, out_dtype=torch.float32)
    elif a.device.type == "cpu" and _onednn_is_faster():
        out = torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "").float()
    else:
        out = torch.mm(a, b.T).float()
    return out if bias is None else out.add_(bias)


@cache
def _onednn_is_faster() -> bool:
    """Return whether the CPU has AVX-512; no timing decides, so that a repeated run gives the same bits."""
    onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # torch ships it without types
    available = onednn and all(
        hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight")
    )
    return available and torch.backends.cpu.get_cpu_capability() == "AVX512"


def gathered_sum(table: Tensor, rows: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """Return sum_n weights[n] * table[rows[n]] over n in offsets[b] .. offsets[b + 1]: (B, H) from (R, H).

    ``rows`` and ``weights`` (N,), ``offsets`` (B + 1,). Sums in a fixed order; an empty range gives zeros.
    """
    if weights.dtype != table.dtype:
        weights = weights.to(table.dtype)
    return torch.nn.functional.embedding_bag(
        rows, table, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
    )


def gathered_sum_at(table: Tensor, rows: Tensor, offsets: Tensor, weights: Tensor, columns: Tensor) -> Tensor:
    """Return the ``columns`` (m,) of :func:`gathered_sum`, (B, m), at the cost of these columns of the rows used."""
    is_used = torch.zeros(len(table), dtype=torch.bool, device=rows.device)
    is_used[rows] = True
    used = is_used.nonzero()  # (U, 1)
    places = is_used.cumsum(0)[rows] - 1
    return gathered_sum(table[used, columns], places, offsets, weights)


def has_float64(device: torch.device) -> bool:
    """Return whether a device computes in float64: Apple's does not."""
    return device.type != "mps"


class GradientMemory:
    """Memory for one parameter's gradient, reused from step to step.

    At a catalogue's size the operating system takes longer to hand out fresh memory than Adam takes to use it. The
    memory is lent once and again only after :meth:`reclaim`: a caller that never reclaims gets fresh memory each time.

    A gradient of some rows is cleared at these rows alone, unless somebody wrote to it after :meth:`written`, as
    torch's DistributedDataParallel does with the mean over processes: then all of it is cleared.
    """

    def __init__(self) -> None:
        self._buffer: Tensor | None = None
        self._rows: Tensor | None = None
        self._version = -1  # torch's count of the buffer's changes when the last rows were filled
        self._lent = False

    def whole(self, parameter: Tensor) -> Tensor:
        """Return a gradient to be filled completely."""
        if not self._lend(parameter):
            return torch.empty_like(parameter)
        if self._buffer is None:
            self._buffer = torch.empty_like(parameter)
        self._rows = None
        return self._buffer.view_as(parameter)  # a new tensor object, which autograd keeps without a copy

    def rows(self, parameter: Tensor, rows: Tensor) -> Tensor:
        """Return a gradient whose ``rows`` are to be filled, before :meth:`written`, and whose other rows are zero."""
        if not self._lend(parameter):
            return torch.zeros_like(parameter)
        if self._buffer is None or self._rows is None or self._buffer._version != self._version:
            self._buffer = torch.zeros_like(parameter)
        else:
            self._buffer.index_fill_(0, self._rows, 0.0)  # the rows of the last step
        self._rows = rows
        return self._buffer.view_as(parameter)

    def written(self) -> None:
        """Declare that the rows of the lent gradient are filled."""
        if self._buffer is not None:
            self._version = self._buffer._version

    def _lend(self, parameter: Tensor) -> bool:
        """Return whether the memory is free for this parameter; from now on it is not."""
        # A tensor that is no leaf has no gradient to overwrite, and torch warns when one reads its grad.
        free = not self._lent and (not parameter.is_leaf or parameter.grad is None)
        buffer = self._buffer
        if not free or (
            buffer is not None
            and (buffer.shape, buffer.dtype, buffer.device) != (parameter.shape, parameter.dtype, parameter.device)
        ):
            self._buffer = self._rows = None  # the old memory belongs to its present holder
        self._lent = True
        return free

    def reclaim(self) -> None:
        """Declare that the lent gradient is no longer read, so that its memory can be lent again."""
        self._lent = False

    def release(self) -> None:
        """Let go of the memory."""
        self._buffer = self._rows = None
        self._lent = False

    def __reduce__(self) -> tuple[type["GradientMemory"], tuple[()]]:
        return GradientMemory, ()  # a copied layer gets new memory, and a file holds none
