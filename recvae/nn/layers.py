"""Layers of the networks: a first layer on sparse clicks, a linear layer with fast products, initialisers."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from recvae.nn.batches import Batch
from recvae.nn.kernels import (
    FEW_ROWS,
    Context,
    GradientMemory,
    blocks_of,
    columns_of,
    gathered_sum,
    product,
    product_of_blocks,
    product_of_columns,
    rounding,
)
from recvae.nn.shards import Items, Shard, all_items, draw, items_here, shard_of

ROWS_AT_ONCE = 1024  # rows of a first layer's gradient at a time: few enough to stay in the cache


class ClickLinear(nn.Module):
    """A linear layer on sparse clicks: (B, I) x (I, H) + (H,).

    ``weight`` is kept as a table of one row per item. On a CPU the clicked rows are gathered and summed, and the
    gradient has the clicked rows only; elsewhere the batch is scattered into a dense buffer, reused from step to step,
    and multiplied. The two agree to rounding. With a part of the catalogue the sums of all processes are added.
    """

    def __init__(self, items: Items, width: int) -> None:
        super().__init__()
        self.shard = shard_of(items)
        self.weight = nn.Parameter(torch.empty(items_here(items), width))
        self.bias = nn.Parameter(torch.empty(width))
        self.memory = GradientMemory()
        self.buffer: Tensor | None = None  # the dense matrix of a training step, where there is one

    def forward(self, batch: Batch, values: Tensor) -> Tensor:
        """Return (B, H) from one value per click (N,)."""
        if batch.shared is not None and not torch.is_grad_enabled():
            return self.of_shared(batch, *batch.shared, values)
        return self.gathered(batch, values) if values.device.type == "cpu" else self.multiplied(batch, values)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "buffer": None}  # neither copied nor written to a file

    def gathered(self, batch: Batch, values: Tensor) -> Tensor:
        """Sum the clicked rows of the table."""
        if not torch.is_grad_enabled():
            return self._joined(batch.row_sums(self.weight, values)).add_(self.bias)
        summed: Tensor = _GatheredSum.apply(self.weight, batch, values, self.memory)  # type: ignore[no-untyped-call]  # torch ships it without types
        return self._joined(summed) + self.bias

    def _joined(self, summed: Tensor) -> Tensor:
        """Return a sum over all items from a sum over the items here."""
        return summed if self.shard is None else self.shard.sum(summed)

    def of_shared(self, batch: Batch, items: Tensor, places: Tensor, values: Tensor) -> Tensor:
        """Multiply a dense matrix of the users and the ``items`` (U,) that most of them have."""
        dense = values.new_zeros(len(batch), len(items))
        dense.view(-1)[batch.rows * len(items) + places] = values
        weight = self.weight if len(items) == len(self.weight) else self.weight[items]
        return product(dense, weight.T, self.bias)

    def multiplied(self, batch: Batch, values: Tensor) -> Tensor:
        """Scatter the batch into a dense matrix, in training the buffer, and multiply."""
        if not torch.is_grad_enabled():
            return self.of_rows(batch.dense(values))
        shape = (len(batch), self.weight.shape[0])
        buffer = self.buffer
        if buffer is None or buffer.shape[0] < shape[0] or buffer.device != values.device:
            buffer = self.buffer = values.new_empty(shape)
        return self.of_rows(batch.dense(values, out=buffer[: shape[0]]))

    def of_rows(self, dense: Tensor) -> Tensor:
        """Return (B, H) from dense rows (B, I), which get a gradient where they need one."""
        if not torch.is_grad_enabled():
            if self.shard is None:
                return product(dense, self.weight.T, self.bias)
            return self._joined(product(dense, self.weight.T)) + self.bias
        out: Tensor = _Multiplied.apply(self.weight, dense)  # type: ignore[no-untyped-call]  # torch ships it without types
        return self._joined(out) + self.bias


class _GatheredSum(torch.autograd.Function):
    """Sums of table rows, and the gradient of the rows that were used."""

    @staticmethod
    def forward(ctx: Context, table: Tensor, batch: Batch, values: Tensor, memory: GradientMemory) -> Tensor:
        used = values.nonzero().squeeze(1)  # clicks that dropout kept
        ends = torch.zeros(len(values) + 1, dtype=torch.int64, device=values.device)
        torch.cumsum(values != 0, 0, out=ends[1:])
        columns, values = batch.columns[used], values[used]
        ctx.save_for_backward(table)
        ctx.memory, ctx.used = memory, (batch.rows[used], columns, values)
        return gathered_sum(table, columns, ends[batch.offsets], values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (table,) = ctx.saved_tensors
        rows, columns, values = ctx.used
        columns, order = columns.sort(stable=True)
        rows, values = rows[order], values[order]
        items, counts = torch.unique_consecutive(columns, return_counts=True)
        ends = counts.cumsum(0)
        gradient = ctx.memory.rows(table, items)
        grad = grad.contiguous()
        for start in range(0, len(items), ROWS_AT_ONCE):
            stop = min(start + ROWS_AT_ONCE, len(items))
            first, last = int(ends[start] - counts[start]), int(ends[stop - 1])
            offsets = torch.zeros(stop - start + 1, dtype=torch.int64)
            torch.sub(ends[start:stop], first, out=offsets[1:])
            sums = gathered_sum(grad, rows[first:last], offsets, values[first:last])
            gradient.index_copy_(0, items[start:stop], sums)
        ctx.memory.written()
        return gradient, None, None, None


class _Multiplied(torch.autograd.Function):
    """A dense batch times a table, (B, I) x (I, H)."""

    @staticmethod
    def forward(ctx: Context, table: Tensor, dense: Tensor) -> Tensor:
        ctx.save_for_backward(table, dense)
        ctx.rounded = rounding()
        return product(dense, table.T)

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        table, dense = ctx.saved_tensors
        needs_table, needs_dense = ctx.needs_input_grad
        return (
            product(dense.T, grad.T.contiguous(), rounded=ctx.rounded) if needs_table else None,
            product(grad.contiguous(), table, rounded=ctx.rounded) if needs_dense else None,
        )


class Linear(nn.Linear):
    """torch's linear layer, with :func:`~recvae.nn.kernels.product` for its three products."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.memory = GradientMemory()
        self.blocks: Tensor | None = None
        self.columns: NDArray[np.float32] | None = None

    def hold(self) -> None:
        """Take memory for two more copies of the weight, with which answers are faster; it may not change from now on.

        One copy is for products with a single row, the other for products with several. Each product of few rows is
        made once, so that its program is there when it is asked for.
        """
        self.blocks, self.columns = blocks_of(self.weight), columns_of(self.weight)
        if self.blocks is not None:
            with torch.no_grad():  # as answers are: oneDNN has other programs for training
                for rows in FEW_ROWS[1:]:
                    product_of_blocks(self.weight.new_zeros(rows, self.in_features), self.blocks, self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """Return (B, outputs) from (B, inputs)."""
        if not torch.is_grad_enabled():
            held = self.blocks is not None or self.columns is not None
            if held and not rounding():  # first of all: a graph that is traced reads no number of users
                if len(input) == 1 and self.columns is not None:
                    return product_of_columns(input, self.columns, self.bias)
                if len(input) > 1 and self.blocks is not None:
                    return product_of_blocks(input, self.blocks, self.bias)
            return product(input, self.weight, self.bias)
        out: Tensor = _Linear.apply(input, self.weight, self.bias)  # type: ignore[no-untyped-call]  # torch ships it without types
        return out


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.rounded = rounding()
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        needs_input, needs_weight, needs_bias = ctx.needs_input_grad
        grad = grad.contiguous()
        return (
            product(grad, weight.T, rounded=ctx.rounded) if needs_input else None,
            product(grad.T, x.T, rounded=ctx.rounded) if needs_weight else None,
            grad.sum(0) if needs_bias else None,
        )


class Parts(NamedTuple):
    """The parts of the items along the rows of a layer's weight and along its bias; None where all of it is here."""

    of_weight: Shard | None = None
    of_bias: Shard | None = None


ALL_HERE = Parts()

Init = Callable[[Tensor, Tensor, int, torch.Generator, Parts], None]
"""Draws a layer's parameters in place: (weight, bias, fan_in, generator, parts)."""


def linear(inputs: int, outputs: Items, init: Init, g: torch.Generator) -> Linear:
    """Return a Linear layer, also to a part of the items, initialised by ``init``.

    Where torch's default device is 'meta', tensors have no values and nothing is initialised.
    """
    here = torch.get_default_device()
    with torch.device("meta"):  # torch's own initialisation would draw from the global generator
        layer = Linear(inputs, items_here(outputs))
    layer.to_empty(device="meta" if here.type == "meta" else "cpu")
    shard = shard_of(outputs)
    init(layer.weight, layer.bias, inputs, g, Parts(shard, shard))
    return layer


def click_linear(items: Items, width: int, init: Init, g: torch.Generator) -> ClickLinear:
    """Return a ClickLinear layer initialised by ``init``."""
    layer = ClickLinear(items, width)
    init(layer.weight, layer.bias, all_items(items), g, Parts(of_weight=shard_of(items)))
    return layer


@torch.no_grad()
def init_xavier(weight: Tensor, bias: Tensor, fan_in: int, g: torch.Generator, parts: Parts = ALL_HERE) -> None:
    """Xavier uniform weights, biases truncated normal with standard deviation 0.001 (Liang et al. 2018)."""
    del fan_in
    rows = len(weight) if parts.of_weight is None else parts.of_weight.n_items
    bound = math.sqrt(3.0) * math.sqrt(2.0 / (rows + weight.shape[1]))
    draw(weight, lambda whole: whole.uniform_(-bound, bound, generator=g), parts.of_weight)
    draw(bias, lambda whole: nn.init.trunc_normal_(whole, std=0.001, a=-0.002, b=0.002, generator=g), parts.of_bias)


@torch.no_grad()
def init_fan_in(weight: Tensor, bias: Tensor, fan_in: int, g: torch.Generator, parts: Parts = ALL_HERE) -> None:
    """Uniform in +-1 / sqrt(fan_in), weights and biases: torch's default for a Linear layer (RecVAE's program)."""
    bound = fan_in**-0.5
    draw(weight, lambda whole: whole.uniform_(-bound, bound, generator=g), parts.of_weight)
    draw(bias, lambda whole: whole.uniform_(-bound, bound, generator=g), parts.of_bias)
