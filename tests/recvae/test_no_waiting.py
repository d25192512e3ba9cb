"""A training step asks the device nothing: shown on torch's meta device, which has no values to answer with."""

from functools import partial

import pytest
import torch
from conftest import checkerboard
from quick_models import NEURAL, quick

from recvae.models.conditional import ConditionalVAENetwork, ConditionalVAEOptions
from recvae.models.mult import MultDAENetwork, MultDAEOptions, MultVAENetwork, MultVAEOptions
from recvae.models.vaeac import VAEACNetwork, VAEACOptions
from recvae.nn import likelihoods
from recvae.nn.batches import Batch, Clicks
from recvae.nn.noise import Noise
from recvae.nn.priors import Composite
from recvae.training.meter import Meter

ITEMS = 40


def conditional():
    """With three tags, two of each item, and two attributes of each of 20 users."""
    network = ConditionalVAENetwork(ITEMS, ConditionalVAEOptions(hidden=(12,), latent=6), n_conditions=7)
    tags = torch.arange(2 * ITEMS) % 3
    network.learn_from((2 * torch.arange(ITEMS + 1), tags), 3 + torch.arange(40).view(20, 2) % 4)
    return network


def network(name, **more):
    """The network of a registered model, small, with some options."""
    model = quick(name, **{"hidden": (12,) if name == "conditional-vae" else 12, "latent": 6} | more)
    return type(model).build(ITEMS, model.config.model, 1)


NETWORKS = {name: partial(network, name) for name in NEURAL} | {
    "conditional-vae, tags": conditional,
    "recvae, bernoulli, vamp": lambda: network("recvae", likelihood="bernoulli", prior="vamp"),
    "recvae, gaussian, standard": lambda: network("recvae", likelihood="gaussian", prior="standard"),
    "mult-vae, composite": lambda: network("mult-vae", prior="composite"),
    "mult-vae, vamp": lambda: network("mult-vae", prior="vamp"),
    "vaeac, gaussian": lambda: VAEACNetwork(
        ITEMS, VAEACOptions(hidden=12, latent=6, ratings=True, likelihood="gaussian")
    ),
    "mult-vae, bernoulli, flips": lambda: MultVAENetwork(
        ITEMS, MultVAEOptions(latent=6, likelihood="bernoulli", corruption="flips", samples=2, kl="sampled", gamma=0.01)
    ),
    "mult-vae, gaussian, subset": lambda: MultVAENetwork(
        ITEMS, MultVAEOptions(latent=6, likelihood="gaussian", confidence=3.0, corruption="subset")
    ),
    "mult-dae, bernoulli, flips": lambda: MultDAENetwork(
        ITEMS, MultDAEOptions(latent=6, likelihood="bernoulli", corruption="flips")
    ),
}


class ShapeNoise(Noise):
    """Noise of the right shapes; the meta device has no generator."""

    def __init__(self):
        pass

    def kept(self, values, rate):
        return torch.empty_like(values).uniform_() >= rate

    def uniform(self, like):
        return torch.empty_like(like).uniform_()

    def counts(self, means):
        return torch.poisson(means)

    def integers(self, n, below):
        return torch.randint(below, (n,), device="meta")

    def normal(self, like):
        return torch.empty_like(like).normal_()


@pytest.mark.parametrize("route", ["one tile", "tiles kept", "tiles made twice"])
@pytest.mark.parametrize("name", NETWORKS)
def test_no_operation_of_a_step_needs_a_value(name, route, monkeypatch):
    if route != "one tile":
        monkeypatch.setattr(likelihoods, "TILE_SCORES_ELSEWHERE", 1)
        monkeypatch.setattr(likelihoods, "LEAST_WIDTH", 8)
    if route == "tiles made twice":
        monkeypatch.setattr(likelihoods, "KEPT_SCORES_ELSEWHERE", 0)
    matrix = checkerboard(users=20, items=ITEMS)
    clicks = Clicks(matrix)
    network = NETWORKS[name]()
    for phase in network.phases():
        network.begin_phase(phase.name, 0, clicks, 10)
    trained = {
        phase.name: {n for n, p in network.named_parameters() if any(p is one for one in phase.parameters)}
        for phase in network.phases()
    }
    prior = getattr(network, "latent_prior", None)
    if isinstance(prior, Composite):
        prior.table = prior.table.to("meta")
    network.to("meta")
    batch, meter = Batch.of(matrix, "meta"), Meter(torch.device("meta"))
    for phase in network.phases():
        network.requires_grad_(False)
        parameters = [p for n, p in network.named_parameters() if n in trained[phase.name]]
        for parameter in parameters:
            parameter.requires_grad_(True)
        loss = network.loss(phase.name, batch, 0.1, ShapeNoise())
        loss.total.backward()
        meter.add(loss, len(batch))
        assert parameters
        assert all(parameter.grad.shape == parameter.shape for parameter in parameters)
    with pytest.raises((RuntimeError, NotImplementedError)):
        loss.total.item()  # the device does refuse to answer
