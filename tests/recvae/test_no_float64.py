"""Devices without float64, Apple's: nothing of a run may make such a tensor there. Shown on a CPU that refuses them."""

import numpy as np
import pytest
import torch
from conftest import checkerboard
from quick_models import NEURAL, quick
from torch.utils._python_dispatch import TorchDispatchMode

from recvae.nn import implicit_slim, priors
from recvae.nn.batches import Clicks
from recvae.nn.implicit_slim import SlimOptions, replace_embeddings
from recvae.nn.network import Loss
from recvae.training import meter as of_losses

BOARD = checkerboard()


class NoFloat64(TorchDispatchMode):
    """Refuses every operation that returns a float64 tensor."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in torch.utils._pytree.tree_leaves(out):
            if isinstance(value, torch.Tensor) and value.dtype == torch.float64:
                raise TypeError(f"{func} made a float64 tensor")
        return out


@pytest.fixture
def without_float64(monkeypatch):
    """As on a device without float64; the functions that go to the CPU have a test of their own below."""
    went = []

    def on_the_cpu(function):
        def call(*arguments, **more):
            went.append(function.__name__)
            with torch.utils._python_dispatch._disable_current_modes():
                return function(*arguments, **more)

        return call

    for module in (of_losses, priors, implicit_slim):
        monkeypatch.setattr(module, "has_float64", lambda device: False)

    def mixture(z, mu, logvar):
        went.append("mixture")
        return torch.logsumexp(priors.gaussian_log_density(z[:, None], mu, logvar).sum(2), dim=1)

    monkeypatch.setattr(priors, "mixture_log_density", mixture)
    for name in ("implicit_slim", "_item_sums"):
        monkeypatch.setattr(implicit_slim, name, on_the_cpu(getattr(implicit_slim, name)))
    return went


@pytest.mark.parametrize("name", NEURAL)
def test_training_and_ranking_make_no_float64_on_the_device(name, without_float64):
    more = {"slim_every": 1} if name in ("recvae", "mult-vae") else {}
    tags = {"item_tags": {str(n): [f"t{n % 2}"] for n in range(40)}} if name == "conditional-vae" else {}
    model = quick(name, epochs=2, **more)
    rows = []
    with NoFloat64():
        model.fit(BOARD, validation=lambda m: float(m.recommend(BOARD, 5).scores.mean()), on_epoch=rows.append, **tags)
        model.similar_items([1, 2])
    assert len(rows) == 2
    assert ("mixture" in without_float64) == (name == "vamp-vae")
    assert ("implicit_slim" in without_float64) == bool(more)


def test_the_losses_of_an_epoch_are_summed_as_well_as_in_float64(monkeypatch):
    """A hundred thousand losses: a plain float32 sum is right to four digits, this one to seven."""
    values = torch.from_numpy(np.random.default_rng(0).uniform(200, 400, 100_000).astype(np.float32))
    meters = []
    for double in (True, False):
        monkeypatch.setattr(of_losses, "has_float64", lambda device, double=double: double)
        meter = of_losses.Meter(torch.device("cpu"))
        for value in values[:20_000]:
            meter.add(Loss(total=value, nll=value, kl=value), 500)
        meters.append(meter.read("all", 1))
    assert meters[1]["loss"] == pytest.approx(meters[0]["loss"], rel=3e-8)


def test_what_goes_to_the_cpu_gives_the_same():
    g = torch.Generator().manual_seed(0)
    z, mu, logvar = (torch.randn(n, 4, generator=g, requires_grad=True) for n in (5, 3, 3))
    expected = priors.mixture_log_density(z, mu, logvar)
    gradients = torch.autograd.grad(expected.sum(), (z, mu, logvar))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(priors, "has_float64", lambda device: False)
        found = priors.mixture_log_density(z, mu, logvar)
    assert torch.equal(found, expected)
    for one, two in zip(torch.autograd.grad(found.sum(), (z, mu, logvar)), gradients, strict=True):
        assert torch.equal(one, two)

    clicks = Clicks(BOARD)
    assert torch.equal(clicks.to("cpu").columns.tensor, clicks.columns.tensor)
    tables = [torch.randn(40, 3, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    replace_embeddings(SlimOptions(slim_every=1), 0, clicks, tables[:1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(implicit_slim, "has_float64", lambda device: False)
        replace_embeddings(SlimOptions(slim_every=1), 0, clicks, tables[1:])
    assert torch.equal(*tables)
