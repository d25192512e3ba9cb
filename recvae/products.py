"""The kernels that everything here is made of: matrix products, sums of gathered rows, and memory for gradients."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Precision = Literal["float32", "tf32", "bf16"]
_rounded_to_bf16 = False  # whether products round their operands; set by precision()


@contextmanager
def precision(name: Precision) -> Iterator[None]:
    """Within this context, make products in float32, in TF32 (CUDA devices only) or with operands rounded to bfloat16.

    Sums, exponentials, parameters and optimiser states stay float32 throughout.
    """
    global _rounded_to_bf16
    before = _rounded_to_bf16, torch.get_float32_matmul_precision()
    _rounded_to_bf16 = name == "bf16"
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
    try:
        yield
    finally:
        _rounded_to_bf16 = before[0]
        torch.set_float32_matmul_precision(before[1])


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return a @ b.T (+ bias), (M, N), from (M, K), (N, K) and (N,). Not differentiable: the callers write gradients.

    Either operand may be a transposed view. On a CPU with AVX-512, oneDNN's float32 product is taken, which uses it on
    every maker's processors where the BLAS that torch is built with does not (`benchmarks/results/products.json`).
    """
    if _rounded_to_bf16 and a.dtype == torch.float32:
        return _rounded_product(a, b, bias)
    if a.device.type == "cpu" and a.dtype == torch.float32:
        if len(a) == 1:  # one user's request reads the weights once, and NumPy's BLAS does so fastest
            row = torch.from_numpy(np.dot(b.detach().numpy(), a.detach().numpy()[0]))[None]
            return row if bias is None else row + bias
        if _onednn_is_faster():
            out: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
            return out
    return torch.mm(a, b.T) if bias is None else torch.addmm(bias, a, b.T)


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
    """Fixed by the machine, never by a timing: the same run gives the same bits again."""
    onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # torch ships it without types
    available = onednn and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return available and torch.backends.cpu.get_cpu_capability() == "AVX512"


def gathered_sum(table: Tensor, rows: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """Return sum_n weights[n] * table[rows[n]] over n in offsets[b] .. offsets[b + 1]: (B, H) from (R, H).

    ``rows`` and ``weights`` (N,), ``offsets`` (B + 1,). Sums in a fixed order; an empty range gives zeros.
    """
    return torch.nn.functional.embedding_bag(
        rows, table, offsets, mode="sum", per_sample_weights=weights.to(table.dtype), include_last_offset=True
    )


class GradientMemory:
    """Memory for one parameter's gradient, kept from step to step.

    At a catalogue's size the operating system takes longer to hand out fresh memory than Adam takes to use it.
    """

    def __init__(self) -> None:
        self._buffer: Tensor | None = None
        self._rows: Tensor | None = None

    def whole(self, parameter: Tensor) -> Tensor:
        """Return a gradient to be filled completely. Fresh memory where gradients are being accumulated."""
        if parameter.grad is not None:
            return torch.empty_like(parameter)
        if self._buffer is None or self._buffer.device != parameter.device:
            self._buffer = torch.empty_like(parameter)
        return self._buffer.view_as(parameter)  # a tensor of its own, so that autograd keeps it instead of a copy

    def rows(self, parameter: Tensor, rows: Tensor) -> Tensor:
        """Return a gradient whose ``rows`` are to be filled and whose other rows are zero."""
        if parameter.grad is not None:
            return torch.zeros_like(parameter)
        if self._buffer is None or self._rows is None or self._buffer.device != parameter.device:
            self._buffer = torch.zeros_like(parameter)
        else:
            self._buffer.index_fill_(0, self._rows, 0.0)  # what the last step left
        self._rows = rows
        return self._buffer.view_as(parameter)

    def __deepcopy__(self, memo: object) -> "GradientMemory":
        return GradientMemory()  # a copy of a layer has gradients of its own

    def release(self) -> None:
        """Let go of the memory."""
        self._buffer = self._rows = None
