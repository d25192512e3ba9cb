"""The ELBO and the importance-weighted bounds against models whose log p(x) is known.

Statistical checks allow 4.5 standard errors: with a good estimate and its error known, one such check fails by luck
with probability 7e-6, all of this file's (about 40 values) with less than 3e-4. Their draws are seeded, so what passes
once passes always on one version of torch.
"""

from itertools import pairwise

import numpy as np
import oracles
import pytest
import torch
from conftest import LargestTensor
from scipy.sparse import csr_array
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from recvae.errors import InputError
from recvae.experiments.bounds import Evidence, evidence, importance_weighted, ladder
from recvae.models.mult import MultDAENetwork, MultDAEOptions, MultVAENetwork, MultVAEOptions
from recvae.models.recvae import RecVAENetwork, RecVAEOptions
from recvae.nn.batches import Batch
from recvae.nn.densities import gaussian_draws, gaussian_log_density
from recvae.nn.noise import Noise

USERS, ITEMS, LATENT = 4, 6, 3
ALLOWED = 4.5  # standard errors


class LinearGaussian:
    """z ~ N(0, I), x ~ N(W z + b, s^2 I) and a diagonal q(z | x): everything about it has a closed form, in NumPy.

    Has the methods of a network that the estimate asks for, in float64.
    """

    def __init__(self, orthogonal: bool) -> None:
        weight = oracles.fixed(ITEMS, LATENT, scale=0.8)
        self.weight = np.linalg.qr(weight)[0] * np.array([0.5, 1.0, 1.5]) if orthogonal else weight
        self.bias, self.variance = oracles.fixed(ITEMS, phase=1), 0.6
        self.x = oracles.fixed(USERS, ITEMS, scale=1.5, phase=2)
        precision = np.eye(LATENT) + self.weight.T @ self.weight / self.variance
        self.covariance = np.linalg.inv(precision)  # of p(z | x)
        self.mean = (self.x - self.bias) @ self.weight / self.variance @ self.covariance
        if orthogonal:  # q is p(z | x) itself
            self.mu, self.q_variance = self.mean, np.tile(np.diag(self.covariance), (USERS, 1))
        else:
            self.mu = self.mean + oracles.fixed(USERS, LATENT, scale=0.15, phase=3)
            self.q_variance = np.diag(self.covariance) * (1.0 + 0.1 * oracles.fixed(USERS, LATENT, phase=4))

    def log_marginal(self):
        covariance = self.weight @ self.weight.T + self.variance * np.eye(ITEMS)
        return multivariate_normal(self.bias, covariance).logpdf(self.x)

    def divergence(self):
        """KL(q(z | x) || p(z | x)) of each user."""
        inverse = np.linalg.inv(self.covariance)
        gap = self.mu - self.mean
        trace = (self.q_variance * np.diag(inverse)).sum(1)
        log_volumes = np.linalg.slogdet(self.covariance)[1] - np.log(self.q_variance).sum(1)
        return 0.5 * (trace + np.einsum("uk,kl,ul->u", gap, inverse, gap) - LATENT + log_volumes)

    def draws(self, batch, noise):
        return gaussian_draws(torch.from_numpy(self.mu), torch.from_numpy(np.log(self.q_variance)), noise)

    def prior(self, batch):
        return lambda z: gaussian_log_density(z, 0.0, 0.0)

    def decode(self, z):
        return z

    def log_likelihood(self, z, batch):
        mean = z @ torch.from_numpy(self.weight).T + torch.from_numpy(self.bias)
        return gaussian_log_density(torch.from_numpy(self.x), mean, float(np.log(self.variance))).sum(1)


class SigmaPoints(Noise):
    """Draws +-sqrt(K) along each axis in turn: 2 K of them have the mean of any quadratic exactly."""

    def __init__(self) -> None:
        super().__init__(0)
        self.place = 0

    def normal(self, like):
        eps = torch.zeros_like(like)
        sign, axis = divmod(self.place, LATENT)
        eps[:, axis] = (1 - 2 * sign) * LATENT**0.5
        self.place += 1
        return eps


def test_the_gap_between_log_p_and_elbo_is_the_divergence_to_rounding():
    """log w is quadratic in z here, so that sigma points give the ELBO exactly."""
    model = LinearGaussian(orthogonal=False)
    found = evidence(model, None, SigmaPoints(), 2 * LATENT)
    assert (model.divergence() > 0.005).all()
    np.testing.assert_allclose(model.log_marginal() - found.bounds[1], model.divergence(), atol=1e-12)
    np.testing.assert_allclose(found.reconstruction - found.kl, found.bounds[1], atol=1e-12)
    np.testing.assert_allclose(found.kl_per_dimension.sum(1), found.kl, atol=1e-12)
    expected = 0.5 * (model.q_variance + model.mu**2 - 1 - np.log(model.q_variance))
    np.testing.assert_allclose(found.kl_per_dimension, expected, atol=1e-12)


def test_the_exact_posterior_makes_every_sample_log_p():
    model = LinearGaussian(orthogonal=True)
    found = evidence(model, None, Noise(0), 25)
    for values in found.bounds.values():
        np.testing.assert_allclose(values, model.log_marginal(), atol=1e-12)
    np.testing.assert_allclose(found.effective, 25, rtol=1e-12)
    assert (found.variances[25] < 1e-12).all()


def test_the_estimate_agrees_with_log_p_within_its_error_and_the_elbo_lies_below():
    model = LinearGaussian(orthogonal=False)
    found = evidence(model, None, Noise(7), 4000)
    truth = model.log_marginal()
    errors = np.sqrt(found.variances[4000])
    assert (errors < 0.04).all()
    assert (np.abs(found.bounds[4000] - truth) < ALLOWED * errors).all()
    elbo_errors = np.sqrt(found.variances[1])
    assert (np.abs(found.bounds[1] - (truth - model.divergence())) < ALLOWED * elbo_errors).all()
    assert (found.bounds[1] + ALLOWED * elbo_errors < truth).all()


def test_the_bounds_rise_with_the_samples_and_stay_below_log_p():
    model = LinearGaussian(orthogonal=False)
    model.q_variance = model.q_variance * 0.4  # a worse posterior, so that there is something to gain
    found = evidence(model, None, Noise(3), 1000)
    steps = list(found.bounds)
    assert steps == [1, 10, 100, 1000]
    for fewer, more in pairwise(steps):
        assert (found.bounds[more] > found.bounds[fewer]).all()  # each group holds whole groups: by Jensen, always
    for k in steps:
        assert (found.bounds[k] < model.log_marginal() + ALLOWED * np.sqrt(found.variances[k])).all()


def test_bounds_variances_and_effective_samples_are_those_of_the_log_weights():
    """Against log weights kept whole; 230 samples leave groups of 100 with a rest that is not used."""
    log_w = oracles.fixed(230, USERS, scale=2.0)
    place = iter(range(230))
    kept = []

    def draw():
        z = torch.full((USERS, 1), float(next(place)), dtype=torch.float64)
        return z, torch.zeros(USERS, 1, dtype=torch.float64)

    def log_likelihood(z):
        kept.append(int(z[0, 0]))
        return torch.from_numpy(log_w[kept[-1]] - 700)  # such weights underflow unless sums are made in logarithms

    counted = []
    found = importance_weighted(draw, lambda z: 0 * z, log_likelihood, 230, lambda: counted.append(1))
    assert len(counted) == 230
    for k in (1, 10, 100, 230):
        groups = [logsumexp(log_w[n * k : (n + 1) * k], axis=0) - np.log(k) for n in range(230 // k)]
        np.testing.assert_allclose(found.bounds[k], np.mean(groups, axis=0) - 700, rtol=1e-12)
        if k < 230:
            expected = np.var(groups, axis=0, ddof=1) / len(groups)
            np.testing.assert_allclose(found.variances[k], expected, rtol=1e-9)
    w = np.exp(log_w)
    np.testing.assert_allclose(found.effective, w.sum(0) ** 2 / (w**2).sum(0), rtol=1e-9)
    np.testing.assert_allclose(found.variances[230], w.var(0, ddof=1) / 230 / w.mean(0) ** 2, rtol=1e-9)


@pytest.mark.parametrize(
    ("samples", "expected"), [(1, [1]), (2, [1, 2]), (10, [1, 10]), (1000, [1, 10, 100, 1000]), (99, [1, 10, 99])]
)
def test_ladder(samples, expected):
    assert ladder(samples) == expected


def test_one_sample_has_no_error_and_none_is_refused():
    model = LinearGaussian(orthogonal=False)
    assert np.isnan(evidence(model, None, Noise(0), 1).variances[1]).all()
    with pytest.raises(ValueError, match="at least 1"):
        evidence(model, None, Noise(0), 0)


def test_joined_batches_are_one():
    model = LinearGaussian(orthogonal=False)
    one = evidence(model, None, Noise(0), 12)
    both = Evidence.joined([one, one])
    for k in (1, 10, 12):
        np.testing.assert_array_equal(both.bounds[k], np.tile(one.bounds[k], 2))
        np.testing.assert_array_equal(both.variances[k], np.tile(one.variances[k], 2))
    assert both.kl_per_dimension.shape == (2 * USERS, LATENT)


# --- the networks, by quadrature over a grid of z --------------------------------------------------------------------


X = (oracles.fixed(5, 11) > 0.3).astype(np.float64)
STEP = 0.1
GRID = np.stack(np.meshgrid(*[np.arange(-8, 8, STEP)] * 2), axis=-1).reshape(-1, 2)


def integral(log_density):
    """log of the integral over the grid, along the last axis."""
    return logsumexp(log_density, axis=-1) + 2 * np.log(STEP)


def fix_weights(network, scale):
    with torch.no_grad():
        for n, (name, parameter) in enumerate(network.named_parameters()):
            values = oracles.fixed(*parameter.shape, scale=scale, phase=n)
            parameter.copy_(torch.from_numpy(values + ("norms" in name and name.endswith("weight"))))
    return network


def array(values):
    return values.detach().double().numpy()


def agrees(found, truth, samples):
    errors = np.sqrt(found.variances[samples])
    assert (found.effective > samples / 20).all()  # where few samples decide, the error means little
    assert (np.abs(found.bounds[samples] - truth) < ALLOWED * errors).all()
    assert (found.bounds[1] < truth).all()


def test_mult_vae_against_quadrature():
    network = fix_weights(MultVAENetwork(X.shape[1], MultVAEOptions(hidden=(5,), latent=2)), 0.35)
    decoder = [(array(layer.weight), array(layer.bias)) for layer in network.decoder]
    log_likelihood = X @ oracles.log_softmax(oracles.mlp(GRID, decoder)).T  # (B, grid)
    truth = integral(log_likelihood + oracles.normal_log_density(GRID, 0, 1).sum(1))
    agrees(evidence(network, Batch.of(csr_array(X)), Noise(1), 1500), truth, 1500)


def test_recvae_against_quadrature_under_the_prior_of_its_own_posterior():
    network = fix_weights(RecVAENetwork(X.shape[1], RecVAEOptions(hidden=5, latent=2, layers=2)), 0.3)
    batch = Batch.of(csr_array(X))
    decoder = array(network.decoder.weight), array(network.decoder.bias)
    log_likelihood = X @ oracles.log_softmax(oracles.affine(GRID, decoder)).T
    mu, logvar = (array(part) for part in network.posterior(batch))
    prior = [oracles.recvae_log_prior(GRID, m, v) for m, v in zip(mu, logvar, strict=True)]
    truth = integral(log_likelihood + np.array(prior))
    found = evidence(network, batch, Noise(2), 1500)
    # The wide component reaches far beyond the grid, with a tenth of the mass and next to none of the likelihood.
    agrees(found, truth, 1500)
    axis = np.arange(-9, 9, 0.004)
    for user in range(len(X)):
        for k in range(2):
            m, variance = mu[user, k], np.exp(logvar[user, k])
            log_q = oracles.normal_log_density(axis, m, variance)
            log_p = np.array(
                oracles.recvae_log_prior(axis[:, None], np.full((1, 1), m), np.full((1, 1), logvar[user, k]))
            )
            exact = (np.exp(log_q) * (log_q - log_p)).sum() * 0.004
            assert found.kl_per_dimension[user, k] == pytest.approx(exact, abs=0.04)  # 1,500 draws of a spread of 0.3


# --- what it costs, and what it is for -------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_samples():
    network = MultVAENetwork(400, MultVAEOptions(hidden=(8,), latent=4)).requires_grad_(False)
    rows = (oracles.fixed(16, 400) > 0.9).astype(np.float32)
    largest = []
    for samples in (3, 30):
        with LargestTensor() as seen:
            evidence(network, Batch.of(csr_array(rows)), Noise(0), samples)
        largest.append(seen.elements)
    assert largest[0] == largest[1]


def test_a_prior_that_does_not_factorise_gives_its_sum():
    """(B, 1) in place of (B, K): the same bounds, and the KL of all dimensions together."""
    model = LinearGaussian(orthogonal=False)
    whole = evidence(model, None, Noise(0), 20)
    model.prior = lambda batch: lambda z: gaussian_log_density(z, 0.0, 0.0).sum(1, keepdim=True)
    summed = evidence(model, None, Noise(0), 20)
    np.testing.assert_allclose(summed.bounds[20], whole.bounds[20], rtol=1e-12)
    np.testing.assert_allclose(summed.kl_per_dimension[:, 0], whole.kl, rtol=1e-12)


def test_gaussian_draws_have_the_density_it_names():
    mu, logvar = torch.from_numpy(oracles.fixed(5, 3)), torch.from_numpy(oracles.fixed(5, 3, phase=1))
    z, log_q = gaussian_draws(mu, logvar, Noise(0))()
    np.testing.assert_allclose(log_q, gaussian_log_density(z, mu, logvar), rtol=1e-12)


def test_only_variational_networks_have_a_posterior():
    dae = MultDAENetwork(8, MultDAEOptions(latent=2))
    vae, recvae = MultVAENetwork(8, MultVAEOptions(hidden=(), latent=2)), RecVAENetwork(8, RecVAEOptions(hidden=4))
    assert [n.has_standard_prior for n in (vae, recvae)] == [True, False]
    with pytest.raises(InputError, match="no posterior"):
        evidence(dae, Batch.of(csr_array(np.ones((1, 8)))), Noise(0), 2)
