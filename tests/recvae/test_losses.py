"""KL terms, densities and the composite prior against the oracles."""

import numpy as np
import oracles
import pytest
import torch
from scipy.stats import norm

from recvae.losses import composite_log_prior, gaussian_log_density, kl_standard_normal


def test_kl_sums_over_dimensions():
    mu, logvar = oracles.fixed(5, 8, phase=1), oracles.fixed(5, 8, phase=2)
    value = kl_standard_normal(torch.tensor(mu), torch.tensor(logvar))
    np.testing.assert_allclose(value, oracles.kl_to_standard_normal(mu, logvar), rtol=1e-12)


def test_gaussian_log_density_against_scipy():
    z, mu, logvar = (oracles.fixed(4, 3, phase=p) for p in (1, 2, 3))
    value = gaussian_log_density(torch.tensor(z), torch.tensor(mu), torch.tensor(logvar))
    np.testing.assert_allclose(value, norm.logpdf(z, mu, np.exp(logvar / 2)), rtol=1e-12)


def test_composite_prior():
    z, mu, logvar = (oracles.fixed(6, 9, scale=3, phase=p) for p in (1, 2, 3))
    value = composite_log_prior(*(torch.tensor(a) for a in (z, mu, logvar)))
    np.testing.assert_allclose(value, oracles.recvae_log_prior(z, mu, logvar), rtol=1e-10)


def test_composite_prior_is_a_density_in_each_dimension():
    # Integrated over a wide grid: the wide component alone reaches to several hundred.
    z = np.linspace(-2000, 2000, 4_000_001)
    mu, logvar = np.full_like(z, 0.7), np.full_like(z, -1.0)
    log_p = composite_log_prior(*(torch.tensor(a)[:, None] for a in (z, mu, logvar)))
    assert np.trapezoid(np.exp(log_p.numpy()), z) == pytest.approx(1, abs=1e-6)
