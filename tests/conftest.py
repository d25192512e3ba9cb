"""What the tests share: the real data, small matrices, and a training noise that is written down."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import fixed
from torch.utils._python_dispatch import TorchDispatchMode

from recvae.cli import main
from recvae.nn.noise import Noise
from recvae.testing import checkerboard, random_clicks

__all__ = ["checkerboard", "random_clicks"]

torch.set_num_threads(1)  # models this small are slower on more, and much slower where the cores are busy


def pytest_collection_modifyitems(items):
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data that RECVAE_TEST_DATA names."""
    folder = os.environ.get("RECVAE_TEST_DATA")
    if not folder:
        pytest.skip("RECVAE_TEST_DATA is not set: it names a folder with ml-100k and ml-1m")
    return Path(folder)


class WrittenNoise(Noise):
    """Noise without a generator: drops every ``drop``-th click, and draws from a fixed sequence."""

    def __init__(self, drop=3):
        super().__init__(0)
        self.drop = drop

    def mask(self, n, rate):
        """Factor of each of n clicks."""
        return np.where(np.arange(n) % self.drop == 0, 0.0, 1 / (1 - rate))

    def draws(self, *shape):
        return fixed(*shape, scale=1.3, phase=0.5)

    def dropout(self, values, rate):
        return values * torch.from_numpy(self.mask(values.numel(), rate)).view_as(values).to(values.dtype)

    def kept(self, values, rate):
        return torch.from_numpy(self.mask(len(values), 0.0) > 0)

    def normal(self, like):
        return torch.from_numpy(self.draws(*like.shape)).to(like.dtype)


@pytest.fixture
def written_noise():
    return WrittenNoise()


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that any operation returns."""

    def __init__(self):
        super().__init__()
        self.elements, self.shape, self.operation = 0, None, None

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in torch.utils._pytree.tree_leaves(out):
            if isinstance(value, torch.Tensor) and value.numel() > self.elements:
                self.elements, self.shape, self.operation = value.numel(), tuple(value.shape), str(func)
        return out


@dataclass(frozen=True)
class Answer:
    """What a command said, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def cli(capsys):
    """Call the command line in this process."""

    def call(*arguments) -> Answer:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return Answer(status, said.out, said.err)

    return call
