"""Layers of the networks: a first layer on sparse clicks, a linear layer with fast products, initialisers."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from recvae.nn.batches import Batch
from recvae.nn.kernels import Context, GradientMemory, blocks_of, gathered_sum, product, product_of_blocks, rounding

ROWS_AT_ONCE = 1024  # rows of a first layer's gradient at a time: few enough to stay in the cache


class ClickLinear(nn.Module):
    """A linear layer on sparse clicks: (B, I) x (I, H) + (H,).

    ``weight`` is kept as a table of one row per item. On a CPU the clicked rows are gathered and summed, and the
    gradient has the clicked rows only; elsewhere the batch is scattered into a dense buffer, reused from step to step,
    and multiplied. The two agree to rounding.
    """

    def __init__(self, n_items: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_items, width))
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
            return batch.row_sums(self.weight, values) + self.bias
        summed: Tensor = _GatheredSum.apply(self.weight, batch, values, self.memory)  # type: ignore[no-untyped-call]  # torch ships it without types
        return summed + self.bias

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
            return product(dense, self.weight.T, self.bias)
        out: Tensor = _Multiplied.apply(self.weight, dense)  # type: ignore[no-untyped-call]  # torch ships it without types
        return out + self.bias


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

    def hold(self) -> None:
        """Take memory for a second copy of the weight, which makes answers faster; it may not change from now on."""
        self.blocks = blocks_of(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        """Return (B, outputs) from (B, inputs)."""
        if not torch.is_grad_enabled():
            if self.blocks is not None and len(input) > 1 and not rounding():
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


Init = Callable[[Tensor, Tensor, int, torch.Generator], None]


def linear(inputs: int, outputs: int, init: Init, g: torch.Generator) -> Linear:
    """Return a Linear layer initialised by ``init(weight, bias, fan_in, generator)``.

    Where torch's default device is 'meta', tensors have no values and nothing is initialised.
    """
    here = torch.get_default_device()
    with torch.device("meta"):  # torch's own initialisation would draw from the global generator
        layer = Linear(inputs, outputs)
    layer.to_empty(device="meta" if here.type == "meta" else "cpu")
    init(layer.weight, layer.bias, inputs, g)
    return layer


@torch.no_grad()
def init_xavier(weight: Tensor, bias: Tensor, fan_in: int, generator: torch.Generator) -> None:
    """Xavier uniform weights, biases truncated normal with standard deviation 0.001 (Liang et al. 2018)."""
    del fan_in
    if weight.is_meta:
        return
    nn.init.xavier_uniform_(weight, generator=generator)
    nn.init.trunc_normal_(bias, std=0.001, a=-0.002, b=0.002, generator=generator)


@torch.no_grad()
def init_fan_in(weight: Tensor, bias: Tensor, fan_in: int, generator: torch.Generator) -> None:
    """Uniform in +-1 / sqrt(fan_in), weights and biases: torch's default for a Linear layer (RecVAE's program)."""
    if weight.is_meta:
        return
    bound = fan_in**-0.5
    weight.uniform_(-bound, bound, generator=generator)
    bias.uniform_(-bound, bound, generator=generator)
