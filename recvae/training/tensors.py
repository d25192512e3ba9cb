"""Names, shapes, types and ranges that a model expects of the tensors in a file, compared before anything uses them.

Shapes and types are compared with a file's header, before a byte of the tensors is read or a layer is built, so that a
setting or a file that asks for much more memory than the other costs none. Values are compared after reading, in one
pass over each tensor.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Expected:
    """One tensor: its shape, where a letter stands for any length that is the same wherever the letter comes again.

    ``low`` and ``high`` are the least and the largest value there may be; numbers must be finite in any case.
    ``offsets`` names the letter of a length: the values then are the ends of rows in a list of that length, from 0 on,
    none below the one before it.
    """

    shape: tuple[int | str, ...]
    dtype: torch.dtype = torch.float32
    low: float = -math.inf
    high: float = math.inf
    offsets: str | None = None


def of_network(network: nn.Module) -> dict[str, Expected]:
    """Return the form of a network's tensors by name; the network may be on 'meta', where tensors have no memory."""
    return {name: Expected(tuple(value.shape), value.dtype) for name, value in network.state_dict().items()}


def wrong_form(expected: Mapping[str, Expected], found: Mapping[str, tuple[Shape, torch.dtype]]) -> str:
    """Return the first fault in names, shapes or types, to follow the name of a file; '' where there is none."""
    for name in (*expected, *found):
        if name not in found:
            return f"lacks the tensor '{name}'"
        if name not in expected:
            return f"holds a tensor '{name}' that the model does not have"
    lengths: dict[str, int] = {}
    for name, wanted in expected.items():
        shape, dtype = found[name]
        sizes = [
            lengths.setdefault(size, here) if isinstance(size, str) else size
            for size, here in zip(wanted.shape, shape, strict=False)
        ]
        if len(shape) != len(wanted.shape) or list(shape) != sizes or dtype != wanted.dtype:
            here, there = _described(shape, dtype), _described(wanted.shape, wanted.dtype)
            return f"has a tensor '{name}' of {here} where the model has {there}"
    return ""


def wrong_values(expected: Mapping[str, Expected], tensors: Mapping[str, Tensor]) -> str:
    """Return the first fault in the values of tensors of the right form, as :func:`wrong_form` does."""
    for name, wanted in expected.items():
        tensor = tensors[name]
        if not tensor.numel():
            continue
        low, high = (float(end) for end in torch.aminmax(tensor))  # one pass, no memory, and NaN shows in both
        if not (math.isfinite(low) and math.isfinite(high)):
            return f"has values in '{name}' that are not finite numbers"
        if low < wanted.low or high > wanted.high:
            return f"has values in '{name}' from {low:g} to {high:g}, outside {wanted.low:g} to {wanted.high:g}"
        if wanted.offsets is not None:
            length = _length(wanted.offsets, expected, tensors)
            if tensor[0] != 0 or tensor[-1] != length or (tensor.diff() < 0).any():
                return f"has values in '{name}' that are not the ends of rows"
    return ""


def _length(letter: str, expected: Mapping[str, Expected], tensors: Mapping[str, Tensor]) -> int:
    """Return the length that a letter stands for."""
    sizes = ((name, wanted.shape.index(letter)) for name, wanted in expected.items() if letter in wanted.shape)
    name, place = next(sizes)
    return tensors[name].shape[place]


def _described(shape: tuple[int | str, ...], dtype: torch.dtype) -> str:
    return f"{' x '.join(map(str, shape)) or 'one number'} ({str(dtype).removeprefix('torch.')})"
