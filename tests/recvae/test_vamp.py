"""The VampPrior VAE: the whole loss against its oracle, its prior as a density, and its simpler relatives."""

from functools import partial
from itertools import product

import numpy as np
import oracles
import oracles_family
import oracles_vamp
import pytest
import torch
from conftest import LargestTensor, WrittenNoise, checkerboard, random_clicks
from scipy.sparse import csr_array
from scipy.special import logsumexp

import recvae
from recvae.errors import InputError
from recvae.experiments.bounds import evidence
from recvae.models.mult import MultVAENetwork, MultVAEOptions
from recvae.models.vamp import VampVAENetwork, VampVAEOptions
from recvae.nn.batches import Batch
from recvae.nn.layers import ClickLinear
from recvae.nn.noise import Noise
from recvae.nn.priors import mixture_log_density

X = oracles.fixed_clicks()
USERS, ITEMS = X.shape
ROWS, COLUMNS = X.nonzero()
LATENT, PSEUDO, BETA = 3, 4, 0.17
PLAIN = {"prior": "standard", "hierarchical": False, "gated": False, "layers": 1, "dropout": 0.0}


class SeparateNoise(WrittenNoise):
    """Written noise that differs from call to call, so that no draw can be taken for another."""

    def __init__(self):
        super().__init__()
        self.dropped = self.drawn = 0

    def mask_of_call(self, call, n, rate):
        return np.where((np.arange(n) + call) % 3 == 0, 0.0, 1 / (1 - rate))

    def draws_of_call(self, call, *shape):
        return oracles.fixed(*shape, scale=1.3, phase=0.5 + call)

    def dropout(self, values, rate):
        self.dropped += 1
        mask = self.mask_of_call(self.dropped, values.numel(), rate)
        return values * torch.from_numpy(mask).view_as(values).to(values.dtype)

    def normal(self, like):
        self.drawn += 1
        return torch.from_numpy(self.draws_of_call(self.drawn, *like.shape)).to(like.dtype)


def upper(network):
    """The prior's density of the upper code."""
    return network.latent_prior.density(None, network)


def build(items=ITEMS, scale=0.4, **options):
    """A small network with written weights; some pseudo-inputs lie outside of [0, 1]."""
    made = VampVAENetwork(items, VampVAEOptions(**{"hidden": 5, "latent": LATENT, "pseudo_inputs": PSEUDO, **options}))
    with torch.no_grad():
        for n, (name, parameter) in enumerate(made.named_parameters()):
            of_this = 1.3 if name == "pseudo_inputs" else scale
            parameter.copy_(torch.from_numpy(oracles.fixed(*parameter.shape, scale=of_this, phase=n + 1)))
    return made


def array(tensor):
    return tensor.detach().double().numpy()


def layer(module, gated):
    """(W, b), or (W, b, V, c), of a hidden layer."""
    weight, bias = array(module.weight), array(module.bias)
    weight = weight.T if isinstance(module, ClickLinear) else weight
    if not gated:
        return weight, bias
    (w, v), (b, c) = np.split(weight, 2), np.split(bias, 2)
    return w, b, v, c


def parameters(network):
    gated, found = network.options.gated, {}
    for name in ("encoder", "lower_encoder", "lower_prior", "decoder"):
        if hasattr(network, name):
            tower = getattr(network, name)
            found[name] = {
                "firsts": [layer(module, gated) for module in tower.firsts],
                "inner": [layer(module, gated) for module in tower.inner],
                "head": layer(tower.head, gated=False),
            }
    if hasattr(network, "pseudo_inputs"):
        found["pseudo_inputs"] = array(network.pseudo_inputs)
    return found


def expected_loss(network):
    """The oracle's (total, nll, kl) under SeparateNoise."""
    noise, o = SeparateNoise(), network.options

    def of_clicks(call):
        mask = np.zeros_like(X)
        mask[ROWS, COLUMNS] = noise.mask_of_call(call, len(ROWS), o.dropout)
        return mask

    inputs = [of_clicks(1), of_clicks(2)] if o.hierarchical else [of_clicks(1)]
    pseudo = noise.mask_of_call(len(inputs) + 1, o.pseudo_inputs * ITEMS, o.dropout).reshape(o.pseudo_inputs, ITEMS)
    draws = [noise.draws_of_call(call, USERS, o.latent) for call in (1, 2)]
    nll = oracles_family.NLL[o.likelihood]
    return oracles_vamp.loss(X, parameters(network), [*inputs, pseudo], draws, BETA, nll)


def batch(matrix=X):
    return Batch.of(csr_array(matrix))


CASES = [
    {"prior": prior, "hierarchical": hierarchical, "gated": gated, "layers": layers}
    for prior, hierarchical, gated, layers in product(("vamp", "standard"), (True, False), (True, False), (1, 2))
]
CASES += [{"layers": 3}, {"pseudo_inputs": 1}, {"likelihood": "bernoulli"}, {"dropout": 0.2}]


@pytest.mark.parametrize("options", CASES, ids=str)
def test_loss_and_logits(options):
    network = build(**options)
    loss = network.loss("all", batch(), BETA, SeparateNoise())
    np.testing.assert_allclose([v.item() for v in (loss.total, loss.nll, loss.kl)], expected_loss(network), rtol=1e-5)
    expected = oracles_vamp.mean_logits(X, parameters(network))
    np.testing.assert_allclose(array(network.logits(batch())), expected, rtol=1e-5, atol=1e-5)


def test_the_default_is_h_vamp_gated():
    o = recvae.VampVAE.model_defaults
    assert (o.prior, o.hierarchical, o.gated, o.pseudo_inputs, o.layers) == ("vamp", True, True, 1000, 2)
    assert (o.hidden, o.latent, o.dropout, o.likelihood) == (600, 200, 0.5, "multinomial")


def test_log_variances_are_bounded():
    """In both directions, for clicks and for pseudo-inputs; in float64, where narrow densities are exact."""
    network = build(scale=7.0).double()
    found = torch.cat([network.encoder.gaussian(network._of_clicks(network.encoder, batch(), None))[1].flatten(),
                       network.latent_prior.components(network)[1].flatten()])  # fmt: skip
    assert (found.min(), found.max()) == (-12, 4)
    loss = network.loss("all", batch(), BETA, SeparateNoise())
    np.testing.assert_allclose([v.item() for v in (loss.total, loss.nll, loss.kl)], expected_loss(network), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "term"),
    [({}, 0), ({}, 1), ({}, 2), ({"layers": 1}, 0), ({"hierarchical": False}, 2), (PLAIN, 2), ({"gated": False}, 0),
     ({"likelihood": "bernoulli", "layers": 3}, 0)],
    ids=str,
)  # fmt: skip
def test_gradients_against_differences_of_the_oracle(options, term):
    """Every parameter's gradient in one direction, of the total (0), the likelihood's term (1) and the KL's (2)."""
    network = build(**options)
    loss = network.loss("all", batch(), BETA, SeparateNoise())
    (loss.total, loss.nll, loss.kl)[term].backward()
    gradients = {name: np.zeros(p.shape) if p.grad is None else array(p.grad) for name, p in network.named_parameters()}
    network.double()
    h = 1e-6
    for n, (name, parameter) in enumerate(network.named_parameters()):
        direction = oracles.fixed(*parameter.shape, phase=100 + n)
        step = torch.from_numpy(h * direction)
        with torch.no_grad():
            up = expected_loss_at(network, parameter, step)[term]
            down = expected_loss_at(network, parameter, -step)[term]
        expected, found = (up - down) / (2 * h), (gradients[name] * direction).sum()
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5, err_msg=name)


def expected_loss_at(network, parameter, step):
    parameter.add_(step)
    found = expected_loss(network)
    parameter.sub_(step)
    return found


# --- the prior ------------------------------------------------------------------------------------------------------


def test_one_pseudo_input_makes_a_gaussian_prior():
    """The sampled KL agrees in expectation with the closed form between q(z | x) and q(z | u).

    7 users at 5 standard errors of 3000 draws: another seed would fail by luck once in 250,000 times.
    """
    draws = 3000
    network = build(scale=0.8, pseudo_inputs=1, hierarchical=False, dropout=0.0).double()
    with torch.no_grad():
        mu, logvar = (array(v) for v in network.posterior(batch()))
        mu_p, logvar_p = (array(v) for v in network.latent_prior.components(network))
        z, log_q = network.sampler(batch().repeated(draws), Noise(3))()
        kl = array(log_q - network.log_prior(z, upper(network))).reshape(draws, USERS)
    expected = oracles_vamp.kl_between_gaussians(mu, logvar, mu_p, logvar_p)
    errors = kl.std(0, ddof=1) / np.sqrt(draws)
    assert (np.abs(kl.mean(0) - expected) < 5 * errors).all()
    assert (expected > 20 * errors).all()  # so that the test says something


@pytest.mark.parametrize("prior", ["vamp", "standard"])
def test_the_prior_integrates_to_one(prior):
    network = build(latent=1, hierarchical=False, prior=prior).double()
    grid = torch.linspace(-30, 30, 6001, dtype=torch.float64)[:, None]
    with torch.no_grad():
        density = network.log_prior(grid, upper(network)).exp()
    assert density.sum().item() * 0.01 == pytest.approx(1, abs=1e-9)
    if prior == "vamp":  # and it is a mixture, not one Gaussian
        mean = (density * grid[:, 0]).sum() * 0.01
        second = (density * (grid[:, 0] - mean).square()).sum() * 0.01
        assert not torch.allclose(
            density, torch.exp(-0.5 * (grid[:, 0] - mean) ** 2 / second) / (6.2832 * second) ** 0.5
        )


def test_the_prior_of_a_hierarchy_integrates_to_one():
    network = build(latent=1, layers=1).double()
    line = torch.linspace(-15, 15, 601, dtype=torch.float64)
    with torch.no_grad():
        density = network.log_prior(torch.cartesian_prod(line, line), upper(network)).exp()
    assert density.sum().item() * 0.05**2 == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("logvar", [-12.0, 0.0, 4.0])
def test_mixture_density_is_exact_for_narrow_components_too(logvar):
    z, mu = (torch.from_numpy(oracles.fixed(n, 200, scale=3, phase=n)).float() for n in (9, 6))
    z[3] = mu[2] + 1e-3
    logvars = torch.full_like(mu, logvar) + torch.from_numpy(oracles.fixed(6, 200, scale=0.1))
    found = mixture_log_density(z, mu, logvars)
    components = [oracles_vamp.log_normal(array(z), array(mu)[c], array(logvars)[c]) for c in range(6)]
    np.testing.assert_allclose(array(found), logsumexp(components, axis=0) - np.log(6), rtol=1e-6)
    assert found.dtype == torch.float32


def test_no_tensor_of_users_by_components_by_dimensions():
    tensors = [torch.randn(n, 40, requires_grad=True, generator=torch.Generator().manual_seed(n)) for n in (64, 50, 50)]
    with LargestTensor() as largest:
        mixture_log_density(*tensors).sum().backward()
    assert largest.elements == 64 * 50


def test_pseudo_inputs_count_within_zero_and_one_only():
    """As they are used, and in their gradient; they start within."""
    network = build(dropout=0.0)
    with torch.no_grad():
        network.pseudo_inputs[0, :4] = torch.tensor([-2.0, 0.5, 3.0, 1.0])
        before = network.latent_prior.components(network)[0]
        network.pseudo_inputs[0, 0], network.pseudo_inputs[0, 2] = 0.0, 1.0
        assert torch.equal(network.latent_prior.components(network)[0], before)
        network.pseudo_inputs[0, 0], network.pseudo_inputs[0, 2] = -2.0, 3.0
    network.loss("all", batch(), BETA, SeparateNoise()).kl.backward()
    assert [bool(g) for g in network.pseudo_inputs.grad[0, :3]] == [False, True, False]
    fresh = VampVAENetwork(500, VampVAEOptions(hidden=4, latent=2, pseudo_inputs=40)).pseudo_inputs
    # 20,000 draws: 6 standard errors are 4e-4 of the mean's, and 3 % of the deviation's.
    assert fresh.mean().item() == pytest.approx(0.05, abs=4.3e-4)
    assert fresh.std().item() == pytest.approx(0.01, rel=0.03)


@pytest.mark.parametrize("options", [{"hierarchical": False}, {}, {"prior": "standard"}], ids=str)
def test_evidence_agrees_with_quadrature(options):
    """What the instruments ask for, q, p(z) and p(x | z), makes log p(x) = log of the integral of p(x | z) p(z).

    At 5 of its standard errors for 6 users: by luck once in 290,000 times. (The empty row has p(x) = 1 in any case.)
    """
    network = build(latent=1, layers=1, **options).double().requires_grad_(False)
    some, samples = batch(X[:-1]), 1000
    found = evidence(network, some, Noise(5), samples)
    line = torch.linspace(-15, 15, 301, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line) if network.options.hierarchical else line[:, None]
    log_p = array(network.prior(some)(grid))[:, 0] + grid.shape[1] * np.log(0.1)
    logits = array(network.output(network.decode(grid)))
    for user in range(USERS - 1):
        log_x = -oracles.multinomial_nll(logits, X[[user]])
        error = found.variances[samples][user] ** 0.5
        assert abs(found.bounds[samples][user] - logsumexp(log_x + log_p)) < 5 * error
        assert error < 0.1
        assert found.bounds[1][user] < found.bounds[samples][user]


# --- its relatives and its options -----------------------------------------------------------------------------------


def test_without_its_parts_it_is_mult_vae_with_a_sampled_kl(written_noise):
    network = build(**{**PLAIN, "dropout": 0.5})
    mult = MultVAENetwork(ITEMS, MultVAEOptions(hidden=(5,), latent=LATENT, kl="sampled"))
    pairs = [
        (mult.first, network.encoder.firsts[0]), (mult.encoder[0], network.encoder.head),
        (mult.decoder[0], network.decoder.firsts[0]), (mult.decoder[1], network.decoder.head),
    ]  # fmt: skip
    for theirs, ours in pairs:
        theirs.load_state_dict(ours.state_dict())
    one, two = (model.loss("all", batch(), BETA, written_noise) for model in (network, mult))
    torch.testing.assert_close((one.total, one.nll, one.kl), (two.total, two.nll, two.kl))
    assert torch.equal(network.logits(batch()), mult.logits(batch()))


def test_dense_rows_and_clicks_meet_the_same_table():
    """Values on both routes, and the gradients of dense rows against plain products."""
    first = build(gated=False).encoder.firsts[0]
    clicks = batch()
    rows = clicks.dense(clicks.normalised()).requires_grad_(True)
    torch.testing.assert_close(first.of_rows(rows), first(clicks, clicks.normalised()))
    weights = torch.from_numpy(oracles.fixed(USERS, 5))
    wanted = [rows, first.weight, first.bias]
    found = torch.autograd.grad((first.of_rows(rows) * weights).sum(), wanted)
    plain = torch.autograd.grad(((rows @ first.weight + first.bias) * weights).sum(), wanted)
    torch.testing.assert_close(found, plain)
    with torch.no_grad():
        torch.testing.assert_close(first.of_rows(rows), rows @ first.weight + first.bias)


def test_beta_and_l2():
    make = partial(VampVAENetwork, 9)
    small = {"hidden": 3, "latent": 2, "pseudo_inputs": 2}
    default = make(VampVAEOptions(**small))
    assert [default.beta(step, 400) for step in (0, 50, 100, 399)] == pytest.approx([0, 0.15, 0.3, 0.3])
    paper = make(VampVAEOptions(**small, anneal="paper", anneal_updates=1000))
    assert [paper.beta(step, 400) for step in (0, 100, 300, 999)] == [0, 0.1, 0.3, 0.3]
    assert make(VampVAEOptions(**small, anneal="constant", beta_cap=1.0)).beta(0, 400) == 1
    assert default.l2() == {}
    names = set(make(VampVAEOptions(**small, l2=0.5)).l2())
    assert names == {name for name, _ in default.named_parameters() if name.endswith("weight")}


def test_initialisation_and_the_global_generator():
    before = torch.get_rng_state()
    network = VampVAENetwork(900, VampVAEOptions(hidden=100, latent=50, pseudo_inputs=3), seed=1)
    assert torch.equal(before, torch.get_rng_state())
    for module, fan_in in (
        (network.encoder.firsts[0], 900), (network.encoder.inner[0], 100), (network.lower_encoder.inner[0], 200),
        (network.lower_prior.firsts[0], 50), (network.encoder.head, 100), (network.decoder.head, 100),
    ):  # fmt: skip
        # At least 10,000 weights: the deviation's standard error is 0.7 %, and 6 of them 4.3 %.
        assert module.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.043)
        assert fan_in**-0.5 * 0.9 < module.bias.abs().max() <= fan_in**-0.5


def test_what_a_hierarchy_does_not_have():
    hierarchy, single = build(), build(hierarchical=False)
    plain = build(**PLAIN)
    assert [n.has_standard_prior for n in (hierarchy, single, plain)] == [False, False, True]
    assert build(prior="standard").has_standard_prior is False
    z = torch.zeros(2, LATENT)
    assert [tuple(n.prior(batch())(z).shape) for n in (single, plain)] == [(2, 1), (2, LATENT)]
    with pytest.raises(InputError, match="not one Gaussian"):
        hierarchy.posterior(batch())


@pytest.mark.parametrize("options", [{"prior": "standard"}, {"hierarchical": False}, {"gated": False, "layers": 1},
                                     {"likelihood": "bernoulli"}], ids=str)  # fmt: skip
def test_taste_is_learned_by_every_relative(options):
    """Even users like even items: of a new user's items, those of their colour come first."""
    model = recvae.VampVAE(
        hidden=32,
        latent=16,
        pseudo_inputs=10,
        epochs=12,
        batch_size=10,
        learning_rate=0.01,
        dropout=0.3,
        seed=1,
        **options,
    ).fit(checkerboard())
    histories = np.zeros((4, 40), np.float32)
    for user in range(4):
        histories[user, (user % 2) :: 4] = 1
    ids, _ = model.recommend(csr_array(histories), k=10)
    assert [set(row % 2) for row in ids] == [{0}, {1}, {0}, {1}]


def test_bernoulli_of_weights_is_refused():
    with pytest.raises(InputError, match="clicks, not of weights"):
        recvae.VampVAE(likelihood="bernoulli", weighted=True).fit(random_clicks(20, 10, 0.3))
