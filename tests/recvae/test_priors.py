"""Every prior with every likelihood in the models that take them, against float64 NumPy from the papers' equations."""

import numpy as np
import oracles
import pytest
import torch
from conftest import checkerboard
from oracles_family import NLL
from scipy.sparse import csr_array
from scipy.special import logsumexp
from tiny_models import array, fix_weights, layers

import recvae
from recvae.models.mult import MultVAENetwork, MultVAEOptions
from recvae.models.recvae import RecVAENetwork, RecVAEOptions
from recvae.nn.batches import Batch, Clicks
from recvae.nn.likelihoods import LIKELIHOODS
from recvae.nn.priors import PRIORS

X = oracles.fixed_clicks()
USERS, ITEMS = X.shape
LATENT, PSEUDO, DROPOUT = 3, 4, 0.5
SMALL = {"latent": LATENT, "pseudo_inputs": PSEUDO, "dropout": DROPOUT}


def mask(n, noise):
    return noise.mask(n, DROPOUT)


def of_clicks(noise):
    """The dropout of the clicks, as a dense mask."""
    dense = np.zeros_like(X)
    dense[X.nonzero()] = mask(int(X.sum()), noise)
    return dense


def posterior(network, x, noise=None):
    """Mean and log-variance of rows that are already as they enter the first layer."""
    if isinstance(network, RecVAENetwork):
        parameters = {
            "layers": [(array(network.encoder.first.weight).T, array(network.encoder.first.bias)),
                       *((array(m.weight), array(m.bias)) for m in network.encoder.inner)],
            "norms": [(array(m.weight), array(m.bias)) for m in network.encoder.norms],
            "mu": (array(network.encoder.mu.weight), array(network.encoder.mu.bias)),
            "logvar": (array(network.encoder.logvar.weight), array(network.encoder.logvar.bias)),
        }  # fmt: skip
        previous, h = [], x
        for layer, (gain, bias) in zip(parameters["layers"], parameters["norms"], strict=True):
            skips = sum(previous) if previous else 0.0
            h = oracles.layer_norm(oracles.swish(oracles.affine(h, layer) + skips), gain, bias, 1e-5)
            previous.append(h)
        return oracles.affine(h, parameters["mu"]), oracles.affine(h, parameters["logvar"])
    out = oracles.mlp(x, layers(network)[0])
    return out[:, :LATENT], out[:, LATENT:]


def log_normal(z, mu, logvar):
    return oracles.normal_log_density(z, mu, np.exp(logvar)).sum(1)


def log_prior(name, network, z, noise):
    if name == "standard":
        return log_normal(z, 0.0, np.zeros_like(z))
    if name == "composite":  # the old posterior is that of the weights as they stand: the prior was just updated
        return oracles.recvae_log_prior(z, *posterior(network, oracles.normalise(X)))
    rows = np.clip(array(network.pseudo_inputs), 0, 1) * mask(PSEUDO * ITEMS, noise).reshape(PSEUDO, ITEMS)
    mu, logvar = posterior(network, rows)
    return logsumexp([log_normal(z, mu[c], logvar[c]) for c in range(PSEUDO)], axis=0) - np.log(PSEUDO)


def made(model, prior, likelihood):
    options = {**SMALL, "prior": prior, "likelihood": likelihood, "confidence": 3.0}
    if model == "recvae":
        network = RecVAENetwork(ITEMS, RecVAEOptions(hidden=6, layers=3, **options))
    else:
        network = MultVAENetwork(ITEMS, MultVAEOptions(hidden=(5,), kl="sampled", **options))
    return fix_weights(network.double())


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("model", ["recvae", "mult-vae"])
def test_the_loss_is_that_of_the_equations(model, prior, likelihood, written_noise):
    network = made(model, prior, likelihood)
    phase = network.phases()[0].name
    batch = Batch.of(csr_array(X))
    network.begin_phase(phase, 0, Clicks(csr_array(X)), 3)
    loss = network.loss(phase, batch, 0.17, written_noise)
    mu, logvar = posterior(network, oracles.normalise(X) * of_clicks(written_noise))
    z = mu + written_noise.draws(USERS, LATENT) * np.exp(logvar / 2)
    kl = log_normal(z, mu, logvar) - log_prior(prior, network, z, written_noise)
    decoder = layers(network)[1] if model == "mult-vae" else None
    logits = (
        oracles.mlp(z, decoder)
        if decoder
        else oracles.affine(z, (array(network.decoder.weight), array(network.decoder.bias)))
    )
    nll = NLL[likelihood](logits, X, 3.0) if likelihood == "gaussian" else NLL[likelihood](logits, X)
    weight = 0.005 * X.sum(1) if model == "recvae" else 0.17
    np.testing.assert_allclose(loss.kl.item(), kl.mean(), rtol=1e-5)
    np.testing.assert_allclose(loss.nll.item(), nll.mean(), rtol=1e-5)
    np.testing.assert_allclose(loss.total.item(), (nll + weight * kl).mean(), rtol=1e-5)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("model", ["recvae", "mult-vae", "vamp-vae"])
def test_every_prior_trains_and_is_repeated_from_its_seed(model, prior, tmp_path):
    kind = {"recvae": recvae.RecVAE, "mult-vae": recvae.MultVAE, "vamp-vae": recvae.VampVAE}[model]
    hidden = (8,) if model == "mult-vae" else 8
    options = {"hidden": hidden, "latent": 4, "pseudo_inputs": 5, "batch_size": 20, "epochs": 2, "seed": 3}
    board = checkerboard()
    one, two = (kind(prior=prior, device="cpu", **options).fit(board).tensors() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) and one[name].isfinite().all() for name in one)
    assert ("pseudo_inputs" in one) == (prior == "vamp")


@pytest.mark.parametrize("model", ["recvae", "mult-vae"])
def test_an_old_encoder_in_place_of_a_table_changes_nothing(model, monkeypatch):
    kind, hidden = {"recvae": (recvae.RecVAE, 8), "mult-vae": (recvae.MultVAE, (8,))}[model]
    options = {"hidden": hidden, "latent": 4, "batch_size": 20, "epochs": 3, "seed": 3, "prior": "composite"}
    table = kind(device="cpu", **options).fit(checkerboard()).tensors()
    monkeypatch.setattr("recvae.nn.priors.TABLE_VALUES", 0)
    encoder = kind(device="cpu", **options).fit(checkerboard()).tensors()
    for name in table:
        torch.testing.assert_close(encoder[name], table[name], rtol=1e-4, atol=1e-6)


def test_the_l2_term_of_recvae_leaves_out_biases_and_norms():
    network = RecVAENetwork(ITEMS, RecVAEOptions(hidden=6, layers=2, latent=3, l2=0.1, prior="vamp", pseudo_inputs=4))
    penalised = set(network.l2())
    assert penalised == {
        "encoder.first.weight", "encoder.inner.0.weight", "encoder.mu.weight", "encoder.logvar.weight",
        "decoder.weight",
    }  # fmt: skip
    assert not RecVAENetwork(ITEMS, RecVAEOptions(hidden=6, layers=2, latent=3)).l2()
