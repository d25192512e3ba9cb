"""Each network against the paper's equations in float64 NumPy: outputs, losses and gradients."""

from copy import deepcopy

import numpy as np
import oracles
import pytest
import torch
from scipy.sparse import csr_array

from recvae.models.mult import MultDAENetwork, MultDAEOptions, MultVAENetwork, MultVAEOptions
from recvae.models.recvae import RecVAENetwork, RecVAEOptions
from recvae.nn.batches import Batch, Clicks

X = oracles.fixed_clicks()
USERS, ITEMS = X.shape
ROWS, COLUMNS = X.nonzero()


def fix_weights(network):
    """Give every parameter values that need no generator."""
    with torch.no_grad():
        for n, (name, parameter) in enumerate(network.named_parameters()):
            values = oracles.fixed(*parameter.shape, scale=0.4, phase=n)
            if "norms" in name and name.endswith("weight"):
                values += 1
            parameter.copy_(torch.from_numpy(values))
    return network


def array(tensor):
    return tensor.detach().double().numpy()


def layer(module):
    return array(module.weight), array(module.bias)


def first_layer(module):
    """The sparse first layer keeps its weight one row per item."""
    return array(module.weight).T, array(module.bias)


def dense(per_click):
    out = np.zeros_like(X)
    out[ROWS, COLUMNS] = per_click
    return out


def dropout_mask(noise, rate):
    return dense(noise.mask(len(ROWS), rate))


def recvae_parameters(network):
    encoder = network.encoder
    return {
        "layers": [first_layer(encoder.first), *(layer(m) for m in encoder.inner)],
        "norms": [layer(m) for m in encoder.norms],
        "mu": layer(encoder.mu),
        "logvar": layer(encoder.logvar),
    }


def mult_layers(network):
    encoder = [first_layer(network.first), *(layer(m) for m in network.encoder)]
    return encoder, [layer(m) for m in network.decoder]


def batch():
    return Batch.of(csr_array(X))


@pytest.mark.parametrize("hidden", [(), (6,), (7, 5)])
def test_mult_dae(hidden, written_noise):
    network = fix_weights(MultDAENetwork(ITEMS, MultDAEOptions(hidden=hidden, latent=4)))
    encoder, decoder = mult_layers(network)
    expected = oracles.mult_dae_logits(X, np.ones_like(X), [*encoder, *decoder])
    np.testing.assert_allclose(array(network.logits(batch())), expected, rtol=1e-5, atol=1e-6)
    noisy = oracles.mult_dae_logits(X, dropout_mask(written_noise, 0.5), [*encoder, *decoder])
    loss = network.loss("all", batch(), 0.0, written_noise)
    np.testing.assert_allclose(loss.total.item(), oracles.multinomial_nll(noisy, X).mean(), rtol=1e-5)


@pytest.mark.parametrize("hidden", [(), (6,), (7, 5)])
def test_mult_vae(hidden, written_noise):
    network = fix_weights(MultVAENetwork(ITEMS, MultVAEOptions(hidden=hidden, latent=4)))
    encoder, decoder = mult_layers(network)
    ones = np.ones_like(X)
    mu, logvar = oracles.mult_vae_posterior(X, ones, encoder)
    for ours, theirs in zip(network.posterior(batch()), (mu, logvar), strict=True):
        np.testing.assert_allclose(array(ours), theirs, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(array(network.logits(batch())), oracles.mlp(mu, decoder), rtol=1e-5, atol=1e-6)
    loss = network.loss("all", batch(), 0.17, written_noise)
    mask, draws = dropout_mask(written_noise, 0.5), written_noise.draws(USERS, 4)
    total, nll, kl = oracles.mult_vae_loss(X, mask, draws, encoder, decoder, 0.17)
    np.testing.assert_allclose([loss.total.item(), loss.nll.item(), loss.kl.item()], [total, nll, kl], rtol=1e-5)


def recvae_case(variant):
    """A network whose old posterior comes from an encoder that is not the current one."""
    options = RecVAEOptions(hidden=6, latent=4, gamma=0.05, variant=variant)
    network = fix_weights(RecVAENetwork(ITEMS, options))
    network.begin_phase("decoder", 0, Clicks(csr_array(X)), 3)  # the prior update
    old = recvae_parameters(network)
    with torch.no_grad():
        for n, parameter in enumerate(network.encoder.parameters()):
            parameter.add_(torch.from_numpy(oracles.fixed(*parameter.shape, scale=0.1, phase=50 + n)))
    return network, old, 1e-5 if variant == "paper" else 1e-1


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_recvae_encoder_and_decoder(variant):
    network, _, eps = recvae_case(variant)
    mu, logvar = oracles.recvae_posterior(X, np.ones_like(X), recvae_parameters(network), eps)
    for ours, theirs in zip(network.posterior(batch()), (mu, logvar), strict=True):
        np.testing.assert_allclose(array(ours), theirs, rtol=1e-5, atol=1e-5)
    logits = oracles.affine(mu, layer(network.decoder))
    np.testing.assert_allclose(array(network.logits(batch())), logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_recvae_encoder_loss(variant, written_noise):
    network, old, eps = recvae_case(variant)
    loss = network.loss("encoder", batch(), 0.0, written_noise)
    mask, draws = dropout_mask(written_noise, 0.5), written_noise.draws(USERS, 4)
    expected = oracles.recvae_encoder_loss(
        X, mask, draws, recvae_parameters(network), old, layer(network.decoder), 0.05, eps
    )
    np.testing.assert_allclose([loss.total.item(), loss.nll.item(), loss.kl.item()], expected, rtol=1e-5)


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_recvae_decoder_loss(variant, written_noise):
    network, _, eps = recvae_case(variant)
    network.begin_phase("decoder", 1, Clicks(csr_array(X)), 3)
    loss = network.loss("decoder", batch(), 0.0, written_noise)
    draws = written_noise.draws(USERS, 4)
    expected = oracles.recvae_decoder_loss(X, draws, recvae_parameters(network), layer(network.decoder), eps)
    np.testing.assert_allclose(loss.total.item(), expected, rtol=1e-5)
    assert loss.kl is None


def test_recvae_constant_beta_replaces_gamma(written_noise):
    network, _, _ = recvae_case("paper")
    by_gamma = network.loss("encoder", batch(), 0.0, written_noise)
    network.options = RecVAEOptions(hidden=6, latent=4, beta=0.3)
    by_beta = network.loss("encoder", batch(), 0.0, written_noise)
    assert by_beta.total.item() == pytest.approx(by_beta.nll.item() + 0.3 * by_beta.kl.item(), rel=1e-6)
    assert by_beta.total.item() != pytest.approx(by_gamma.total.item(), rel=1e-3)


def test_posterior_table_equals_a_frozen_copy_of_the_encoder():
    """The optimisation against the plain version: the old encoder run on the clean rows."""
    network, _, _ = recvae_case("paper")
    clicks = Clicks(csr_array(X))
    network.begin_phase("decoder", 3, clicks, 2)
    frozen = deepcopy(network.encoder)
    with torch.no_grad():
        for parameter in network.encoder.parameters():
            parameter.add_(0.1)
    network.begin_phase("encoder", 4, clicks, 2)  # the encoder passes keep the table
    users = torch.tensor([5, 0, 3])
    part = clicks.take(users, int(X[users].sum()))
    plain = torch.cat(frozen(part, part.normalised()), 1)
    torch.testing.assert_close(network.latent_prior.table[users], plain)


def test_first_prior_of_each_variant():
    clicks = Clicks(csr_array(X))
    for variant, same in (("paper", True), ("released", False)):
        network = RecVAENetwork(ITEMS, RecVAEOptions(hidden=6, latent=4, variant=variant), seed=5)
        network.begin_phase("encoder", 0, clicks, 4)
        own = torch.cat(network.posterior(Batch.of(csr_array(X))), 1)
        assert torch.allclose(network.latent_prior.table, own) == same


GRADIENT_CASES = {
    "mult-vae": lambda: (fix_weights(MultVAENetwork(ITEMS, MultVAEOptions(hidden=(5,), latent=3))), "all"),
    "mult-dae": lambda: (fix_weights(MultDAENetwork(ITEMS, MultDAEOptions(hidden=(5,), latent=3))), "all"),
    "recvae": lambda: (recvae_case("paper")[0], "encoder"),
}


@pytest.mark.parametrize("case", GRADIENT_CASES)
def test_gradients_against_differences_of_the_oracle(case, written_noise):
    """Every parameter's gradient, in a few directions, against central differences of the float64 oracle."""
    network, phase = GRADIENT_CASES[case]()
    old = recvae_parameters(network) if case == "recvae" else None
    if case == "recvae":
        network.begin_phase("decoder", 0, Clicks(csr_array(X)), 3)

    def oracle():
        mask = dropout_mask(written_noise, 0.5)
        if case == "recvae":
            draws = written_noise.draws(USERS, 4)
            decoder = layer(network.decoder)
            return oracles.recvae_encoder_loss(X, mask, draws, recvae_parameters(network), old, decoder, 0.05, 1e-5)[0]
        encoder, decoder = mult_layers(network)
        if case == "mult-vae":
            return oracles.mult_vae_loss(X, mask, written_noise.draws(USERS, 3), encoder, decoder, 0.17)[0]
        return oracles.multinomial_nll(oracles.mult_dae_logits(X, mask, [*encoder, *decoder]), X).mean()

    network.loss(phase, batch(), 0.17, written_noise).total.backward()
    gradients = {name: array(p.grad) for name, p in network.named_parameters()}
    network.double()  # so that small steps are not rounded away
    h = 1e-6
    for n, (name, parameter) in enumerate(network.named_parameters()):
        direction = oracles.fixed(*parameter.shape, phase=100 + n)
        with torch.no_grad():
            parameter.add_(torch.from_numpy(h * direction))
            up = oracle()
            parameter.sub_(torch.from_numpy(2 * h * direction))
            down = oracle()
            parameter.add_(torch.from_numpy(h * direction))
        expected, found = (up - down) / (2 * h), (gradients[name] * direction).sum()
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5, err_msg=name)


def test_initialisation():
    """Xavier for Mult-*, torch's Linear default for RecVAE, also in the first layer that is kept as a table."""
    items, width = 400, 300
    mult = MultVAENetwork(items, MultVAEOptions(hidden=(width,), latent=50), seed=1)
    bound = (6 / (items + width)) ** 0.5
    assert bound * 0.99 < mult.first.weight.abs().max() <= bound
    assert mult.first.bias.abs().max() <= 0.002
    # Standard deviation of a normal cut at two: 0.8796 of the uncut one. 300 draws: s.e. 3.4 %, so 5 s.e. is 17 %.
    assert mult.first.bias.std().item() == pytest.approx(0.001 * 0.8796, rel=0.17)
    rec = RecVAENetwork(items, RecVAEOptions(hidden=width, latent=50), seed=1)
    for parameter, fan_in in (
        (rec.encoder.first.weight, items),
        (rec.encoder.first.bias, items),
        (rec.encoder.inner[0].weight, width),
        (rec.decoder.weight, 50),
        (rec.decoder.bias, 50),
    ):
        assert fan_in**-0.5 * 0.95 < parameter.abs().max() <= fan_in**-0.5


def test_building_a_network_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    RecVAENetwork(20, RecVAEOptions(hidden=6, latent=4), seed=5)
    MultVAENetwork(20, MultVAEOptions(hidden=(6,), latent=4), seed=5)
    assert torch.equal(before, torch.get_rng_state())
