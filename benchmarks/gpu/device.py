"""The base of the programs here: sizes, the device and its ceilings, bare products."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from scipy.sparse import csr_array

from benchmarks.harness import CLICKS, ITEMS, USERS, Contender, Figure, interleaved, medians, several
from benchmarks.speed.steps import Shape
from data_prep import ml20m_shape
from recvae.nn.batches import Clicks
from recvae.nn.kernels import Precision, precision

PRECISIONS: tuple[Precision, ...] = ("float32", "tf32", "bf16")
WARMUP = 2  # rounds
Section = tuple[list[Figure], dict[str, Any]]  # figures and details


@dataclass(frozen=True)
class Setting:
    """Where the program runs and how large everything is."""

    device: str
    rounds: int
    users: int = USERS
    items: int = ITEMS
    clicks: int = CLICKS
    hidden: int = 600
    latent: int = 200
    batch: int = 500
    large_batch: int = 24_576
    top: int = 100  # items of a list
    block: int = 8192  # users ranked at a time
    requests: int = 300
    epoch_steps: int = 10  # of the reference, per round
    scale: tuple[int, int, int] = (1_000_000, 500_000, 100_000_000)
    scale_batch: int = 4096
    scale_steps: int = 4  # per round: 20 in five rounds
    product: int = 8192  # rows and columns of the products that are a ceiling
    copied: int = 1 << 28  # floats: 1 GiB

    @property
    def sizes(self) -> dict[str, int]:
        return {"hidden": self.hidden, "latent": self.latent}

    @cached_property
    def matrix(self) -> csr_array:
        """Clicks of ML-20M's shape, on the host."""
        return ml20m_shape(users=self.users, items=self.items, clicks=self.clicks)

    @cached_property
    def resident(self) -> Clicks:
        """The same, on the device."""
        return Clicks(self.matrix, self.device)


SMALL: dict[str, Any] = {  # tiny shapes of the same kinds, for trying the program
    "users": 1200, "items": 600, "clicks": 30_000, "hidden": 24, "latent": 16, "batch": 100, "large_batch": 500,
    "top": 20, "block": 256, "requests": 20, "epoch_steps": 2, "scale": (2000, 3000, 40_000), "scale_batch": 200,
    "scale_steps": 1, "product": 128, "copied": 1 << 16,
}  # fmt: skip


def within(name: Precision, step: Callable[[], object]) -> Contender:
    """Return ``step`` with its products in the named precision."""

    def run() -> None:
        with precision(name):
            step()

    return run


def ceilings(setting: Setting) -> dict[str, float]:
    """Return bandwidths, launch latency and product rates, each from several operations without a wait between."""
    size, repeats = setting.product, 20
    source = torch.ones(setting.copied, device=setting.device)
    target, value = torch.empty_like(source), torch.zeros(1, device=setting.device)
    contenders: dict[str, Contender] = {
        "copy": several(lambda: target.copy_(source), repeats),
        "fill": several(target.zero_, repeats),
        "launch": several(lambda: value.add_(1), 100 * repeats),  # in a queue that is never empty
    }
    for name in PRECISIONS:
        contenders[name] = several(Products(((1, size, size, size),), name, setting.device), repeats)
    seconds = {name: value / repeats for name, value in medians(interleaved(contenders, 5, WARMUP)).items()}
    return {
        "copy_gb_per_s": 2 * source.nbytes / seconds["copy"] / 1e9,
        "fill_gb_per_s": source.nbytes / seconds["fill"] / 1e9,
        **{f"{name}_product_tflops": 2 * size**3 / seconds[name] / 1e12 for name in PRECISIONS},
        "launch_us": seconds["launch"] / 100 * 1e6,
    }


class Products:
    """Matrix products at given shapes and nothing else; the operands are there already, in the precision asked for.

    ``shapes``: ``(count, m, k, n)`` for ``count`` products of (m, k) by (k, n); results are float32 on a CUDA device.
    """

    def __init__(self, shapes: Sequence[Shape], name: Precision, device: str) -> None:
        self.precision = name
        self.mixed: dict[str, Any] = {"out_dtype": torch.float32} if name == "bf16" and device == "cuda" else {}
        dtype = torch.bfloat16 if name == "bf16" else torch.float32
        self.operands = []
        for count, m, k, n in shapes:
            a, b = torch.randn(m, k, device=device), torch.randn(n, k, device=device)
            self.operands.append((count, a.to(dtype), b.to(dtype)))

    def __call__(self) -> None:
        with precision(self.precision):
            for count, a, b in self.operands:
                for _ in range(count):
                    torch.mm(a, b.T, **self.mixed)
