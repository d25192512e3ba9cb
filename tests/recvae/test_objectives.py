"""What Mult-VAE minimises, in all its forms: against the oracle, and against log p(x) where that can be computed."""

from functools import partial
from itertools import pairwise
from math import ceil

import numpy as np
import oracles
import oracles_family
import pytest
import torch
from conftest import checkerboard
from oracles_family import NODES, WEIGHTS
from scipy.sparse import csr_array
from small_models import BOARD, equal, model
from tiny_models import array, fix_weights, layers, tiny

import recvae
from recvae.errors import InputError
from recvae.models.mult import MultVAENetwork, MultVAEOptions
from recvae.nn.batches import Batch
from recvae.nn.noise import Noise
from recvae.nn.schedules import cyclical_beta

X = oracles.fixed_clicks()
USERS, ITEMS = X.shape
ROWS, COLUMNS = X.nonzero()
RATE, BETA = 0.4, 0.17


# --- the loss, term by term ------------------------------------------------------------------------------------------

CASES = {
    "beta": {},
    "gamma": {"gamma": 0.05},
    "three samples": {"samples": 3},
    "sampled": {"kl": "sampled"},
    "sampled, three samples, gamma": {"kl": "sampled", "samples": 3, "gamma": 0.05},
    "bernoulli": {"likelihood": "bernoulli"},
    "bernoulli, two samples": {"likelihood": "bernoulli", "samples": 2},
    "gaussian": {"likelihood": "gaussian", "confidence": 3.0},
    "gaussian, two samples, sampled": {"likelihood": "gaussian", "samples": 2, "kl": "sampled"},
    "subset": {"corruption": "subset"},
    "subset, bernoulli, gamma": {"corruption": "subset", "likelihood": "bernoulli", "gamma": 0.1},
}


def case_of(options):
    network = MultVAENetwork(ITEMS, MultVAEOptions(hidden=(6,), latent=4, dropout=RATE, **options))
    return fix_weights(network)


def expected_of(network, noise):
    o = network.options
    kept = np.zeros_like(X)
    kept[ROWS, COLUMNS] = noise.mask(len(ROWS), 0.0) > 0
    inputs = oracles.normalise(X * kept) if o.corruption == "subset" else oracles.normalise(X) * kept / (1 - RATE)
    nll = oracles_family.NLL[o.likelihood]
    if o.likelihood == "gaussian":
        nll = partial(nll, confidence=o.confidence)
    draws = noise.draws(o.samples * USERS, o.latent).reshape(o.samples, USERS, o.latent)
    weight = BETA if o.gamma is None else o.gamma * X.sum(1)
    return oracles_family.objective(X, inputs, draws, *layers(network), nll=nll, weight=weight, kl=o.kl)


@pytest.mark.parametrize("case", CASES)
def test_the_loss(case, written_noise):
    network = case_of(CASES[case])
    loss = network.loss("all", Batch.of(csr_array(X)), BETA, written_noise)
    found = [loss.total.item(), loss.nll.item(), loss.kl.item()]
    np.testing.assert_allclose(found, expected_of(network, written_noise), rtol=1e-5)
    assert loss.beta == (None if "gamma" in CASES[case] else BETA)


@pytest.mark.parametrize("case", CASES)
def test_gradients_against_differences_of_the_oracle(case, written_noise):
    """Every parameter's gradient, in one direction each, against central differences of the float64 oracle."""
    network = case_of(CASES[case])
    network.loss("all", Batch.of(csr_array(X)), BETA, written_noise).total.backward()
    gradients = {name: array(p.grad) for name, p in network.named_parameters()}
    network.double()  # so that small steps are not rounded away
    h = 1e-6
    for n, (name, parameter) in enumerate(network.named_parameters()):
        direction = oracles.fixed(*parameter.shape, phase=100 + n)
        sides = []
        for step in (h, -2 * h, h):
            with torch.no_grad():
                parameter.add_(torch.from_numpy(step * direction))
            sides.append(expected_of(network, written_noise)[0])
        expected = (sides[0] - sides[1]) / (2 * h)
        np.testing.assert_allclose((gradients[name] * direction).sum(), expected, rtol=2e-4, atol=2e-5, err_msg=name)


def test_samples_share_the_input_and_differ_in_z():
    """With as many samples as one likes, the loss is the mean over z for one corrupted input."""
    batch = Batch.of(csr_array(X))
    many = case_of({"samples": 4}).loss("all", batch, BETA, Noise(3))
    noise = Noise(3)
    one = case_of({})
    with torch.no_grad():
        mu, logvar = one.posterior(batch, noise)
        draws = noise.normal(mu.repeat(4, 1)).split(USERS)
        nll = [-one.log_likelihood(one.decode(mu + eps * torch.exp(logvar / 2)), batch).mean() for eps in draws]
    assert len({round(value.item(), 4) for value in nll}) == 4
    assert many.nll.item() == pytest.approx(torch.stack(nll).mean().item(), rel=1e-6)


# --- log p(x) by quadrature ------------------------------------------------------------------------------------------


class GivenNoise(Noise):
    """The same latent noise for every user."""

    def __init__(self, eps):
        super().__init__(0)
        self.eps = eps

    def normal(self, like):
        return torch.full_like(like, self.eps)


def minus_loss(network, x):
    """The expectation over z of minus the loss, for one user, with beta as its schedule has it."""
    batch, beta = Batch.of(csr_array(x[None])), network.beta(5, 9)
    with torch.no_grad():
        losses = [network.loss("all", batch, beta, GivenNoise(eps)).total.item() for eps in NODES]
    return -(WEIGHTS @ losses)


@pytest.mark.parametrize("likelihood", ["multinomial", "bernoulli"])
def test_the_evidence_of_the_tiny_model_is_a_probability(likelihood):
    """Over all histories (of three clicks, where their number is given) it sums to one: the quadrature is right."""
    _, decoder = layers(tiny(4))
    rows = oracles_family.histories(4) if likelihood == "bernoulli" else oracles_family.counted_histories(4, 3)
    nll = oracles_family.NLL[likelihood]
    chances = [np.exp(oracles_family.log_evidence(x, decoder, nll)) for x in rows]
    assert sum(chances) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("kl", ["analytic", "sampled"])
@pytest.mark.parametrize("likelihood", ["multinomial", "bernoulli", "gaussian"])
def test_constant_beta_of_one_is_the_plain_elbo(likelihood, kl):
    """It lies below log p(x), by KL(q || p(z | x)) to rounding."""
    network, nll = tiny(5, likelihood=likelihood, kl=kl), oracles_family.NLL[likelihood]
    encoder, decoder = layers(network)
    gaps = []
    for x in oracles_family.histories(5)[1:]:
        constant = oracles_family.log_coefficient(x[None])[0] if likelihood == "multinomial" else 0.0
        elbo = minus_loss(network, x) + constant
        log_q = oracles_family.log_posterior(oracles.normalise(x[None])[0], encoder)
        _, gap = oracles_family.bound_and_gap(x, log_q[None], np.ones(1), decoder, nll)
        evidence = oracles_family.log_evidence(x, decoder, nll)
        assert elbo < evidence
        assert evidence - elbo == pytest.approx(gap, abs=2e-6)
        gaps.append(gap)
    assert min(gaps) > 1e-3  # the posterior is not that of the encoder: there is something to see


def test_a_smaller_beta_is_no_bound():
    """What beta = 1 is for: with 0.2 the objective is above log p(x) somewhere."""
    network = tiny(5, beta_cap=0.2)
    _, decoder = layers(network)
    above = []
    for x in oracles_family.histories(5)[1:]:
        constant = oracles_family.log_coefficient(x[None])[0]
        above.append(
            minus_loss(network, x) + constant > oracles_family.log_evidence(x, decoder, oracles.multinomial_nll)
        )
    assert any(above)


# --- schedules -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("updates", "cycles", "share"), [(100, 4, 0.5), (103, 4, 0.5), (30, 7, 0.3), (20, 1, 1.0)])
def test_cyclical_annealing(updates, cycles, share):
    found = [cyclical_beta(step, cap=0.3, cycles=cycles, share=share, total=updates) for step in range(updates)]
    expected = [0.3 * oracles_family.cyclical(step + 1, updates, cycles, share) for step in range(updates)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert max(found) <= 0.3
    falls = [step for step, (a, b) in enumerate(pairwise(found)) if b < a]
    assert len(falls) == ceil(updates / ceil(updates / cycles)) - 1  # the paper's rounding: 30 / 7 makes cycles of 5
    assert all(found[step + 1] == 0 for step in falls)


def test_the_share_of_a_cycle():
    assert cyclical_beta(0, cap=0.3, cycles=3, share=0, total=9) == 0.3
    betas = [cyclical_beta(step, cap=1.0, cycles=2, share=0.5, total=16) for step in range(16)]
    assert betas == [0, 0.25, 0.5, 0.75, 1, 1, 1, 1] * 2


def test_the_options_choose_cycles():
    options = MultVAEOptions(hidden=(3,), latent=2, anneal="cyclical", cycles=2, anneal_share=0.5, beta_cap=0.4)
    network = MultVAENetwork(5, options)
    assert [network.beta(step, 40) for step in (0, 5, 10, 19, 20, 25)] == pytest.approx([0, 0.2, 0.4, 0.4, 0, 0.2])


def test_cycles_of_a_run_cannot_be_extended(tmp_path):
    model("mult-vae", anneal="cyclical", epochs=2).fit(BOARD, folder=tmp_path / "run")
    with pytest.raises(InputError, match="schedule over its 2 epochs"):
        model("mult-vae", anneal="cyclical", epochs=3).fit(BOARD, folder=tmp_path / "run", resume=True)


# --- whole runs ------------------------------------------------------------------------------------------------------

RUNS = {
    "bernoulli, flips, samples, sampled, gamma": {
        "likelihood": "bernoulli", "corruption": "flips", "samples": 2, "kl": "sampled", "gamma": 0.01,
    },
    "gaussian, subset, cyclical": {
        "likelihood": "gaussian", "confidence": 4.0, "corruption": "subset", "anneal": "cyclical", "cycles": 2,
    },
    "multinomial of weights, flips": {"corruption": "flips", "weighted": True},
}  # fmt: skip


@pytest.mark.parametrize("run", RUNS)
def test_resume_is_exact(run, tmp_path):
    class StoppedError(Exception):
        pass

    def stop(report):
        if report.epoch == 2:
            raise StoppedError

    board = checkerboard()
    board.data = 1 + np.arange(len(board.data), dtype=np.float32) % 3
    whole = model("mult-vae", **RUNS[run], epochs=4).fit(board)
    with pytest.raises(StoppedError):
        model("mult-vae", **RUNS[run], epochs=4).fit(board, folder=tmp_path / "run", on_epoch=stop)
    resumed = model("mult-vae", **RUNS[run], epochs=4).fit(board, folder=tmp_path / "run", resume=True)
    assert equal(whole.tensors(), resumed.tensors())


@pytest.mark.parametrize("run", RUNS)
def test_losses_are_reported(run):
    reports = []
    model("mult-vae", **RUNS[run], epochs=2).fit(BOARD, on_epoch=reports.append)
    losses = reports[-1].phases["all"]
    assert all(np.isfinite(value) for value in losses.values())
    assert set(losses) == {"loss", "nll", "kl"} | (set() if "gamma" in RUNS[run] else {"beta"})


def test_the_plain_elbo_trains():
    """Mult-VAE as a plain VAE: one epoch after another the bound rises."""
    reports = []
    vae = recvae.MultVAE(
        hidden=(16,), latent=4, beta_cap=1.0, anneal="constant", dropout=0.0, samples=5, epochs=30, batch_size=20,
        learning_rate=0.01, seed=1, device="cpu",
    )  # fmt: skip
    vae.fit(BOARD, on_epoch=reports.append)
    bounds = [-report.phases["all"]["loss"] for report in reports]
    assert bounds[-1] > bounds[9] > bounds[0]
