"""The VAE with arbitrary conditioning: its bound against the oracle, what it sees and does not see, and imputation."""

import numpy as np
import oracles
import oracles_vaeac as oracle
import pytest
import torch
from conftest import LargestTensor, WrittenNoise, random_clicks
from scipy.sparse import csr_array

import recvae
from recvae.errors import InputError
from recvae.experiments.bounds import evidence
from recvae.models.vaeac import VAEAC, VAEACNetwork, VAEACOptions
from recvae.nn import likelihoods
from recvae.nn.batches import Batch, Clicks
from recvae.nn.densities import kl_gaussians, log_hyperprior
from recvae.nn.noise import Noise
from recvae.training.vocabulary import Naming

KNOWN = oracles.fixed_clicks()
USERS, ITEMS = KNOWN.shape
GRADES = KNOWN * (1 + np.add.outer(3 * np.arange(USERS), np.arange(ITEMS)) % 5)
BETA, LATENT = 0.7, 3

KINDS = {
    "clicks": {},
    "weights": {"weighted": True},
    "liked": {"ratings": True, "liked_from": 3.0, "damping": 2.0},
    "ratings": {"ratings": True, "likelihood": "gaussian", "damping": 2.0},
}


class MaskNoise(WrittenNoise):
    """The first even draw, of a user, gives shares of hidden entries; the second what is drawn for each entry."""

    def uniform(self, like):
        return torch.from_numpy(0.5 + 0.5 * oracles.fixed(*like.shape, phase=0.2)).to(like)


def matrix(kind):
    return KNOWN if kind == "clicks" else GRADES


def batch(kind, x=None):
    return Batch.of(csr_array(matrix(kind) if x is None else x), weighted=kind != "clicks")


def build(kind, items=ITEMS, **more):
    """A small network with written weights, and offsets of its own ratings."""
    options = VAEACOptions(**{"hidden": 5, "latent": LATENT, **KINDS[kind], **more})
    network = VAEACNetwork(items, options)
    if options.ratings:
        network.set_offsets(batch(kind))
    with torch.no_grad():
        for n, parameter in enumerate(network.parameters()):
            parameter.copy_(torch.from_numpy(oracles.fixed(*parameter.shape, scale=0.4, phase=n + 1)))
    return network


def array(tensor):
    return tensor.detach().double().numpy()


def parameters(network):
    """What the oracle takes."""
    found = {
        name: [(array(layer.weight), array(layer.bias)) for layer in getattr(network, name)]
        for name in ("prior_inputs", "proposal_inputs")
    }
    for name in ("prior_head", "proposal_head", "of_code", "of_observed", "last"):
        found[name] = (array(getattr(network, name).weight), array(getattr(network, name).bias))
    for name in ("mean", "item_offset", "log_noise"):
        if hasattr(network, name):
            found[name] = array(getattr(network, name))
    return found


def mask(kind, least=0.0, most=1.0):
    """b of the oracle under MaskNoise."""
    noise, x = MaskNoise(), matrix(kind)
    shares = least + (most - least) * noise.uniform(torch.zeros(USERS)).numpy()
    rows, columns = x.nonzero()
    drawn = noise.uniform(torch.zeros(len(rows))).numpy()
    b = np.ones_like(x)
    b[rows, columns] = drawn < shares[rows]
    assert 0 < b[rows, columns].sum() < len(rows)
    return b


def expected(kind, network, **masks):
    o = network.options
    eps = MaskNoise().draws(USERS, LATENT)
    more = {"likelihood": o.likelihood, "ratings": o.ratings, "weighted": kind == "weights"}
    return oracle.bound(
        matrix(kind), mask(kind, **masks), eps, parameters(network),
        liked_from=o.liked_from, damping=o.damping, **more,
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_paper_s_bound(kind):
    network = build(kind)
    loss = network.loss("all", batch(kind), BETA, MaskNoise())
    nll, kl, hyperprior = (part.mean() for part in expected(kind, network))
    found = [value.item() for value in (loss.total, loss.nll, loss.kl)]
    np.testing.assert_allclose(found, [nll + BETA * kl - hyperprior, nll, kl], rtol=1e-5)
    assert nll > 0
    assert kl > 0
    assert network.beta(0, 10) == 1.0  # the bound's own weight


def test_the_share_that_is_hidden_lies_between_its_ends():
    network = build("clicks", mask_least=0.3, mask_most=0.6)
    loss = network.loss("all", batch("clicks"), BETA, MaskNoise())
    assert loss.nll.item() == pytest.approx(expected("clicks", network, least=0.3, most=0.6)[0].mean(), rel=1e-5)
    seen = []

    class Spy(VAEACNetwork):
        def observed(self, batch, seen_of):
            seen.append(seen_of)
            return super().observed(batch, seen_of)

    full = Batch.of(csr_array(np.ones((400, 50))))
    Spy(50, VAEACOptions(hidden=2, latent=2, mask_least=0.3, mask_most=0.6)).loss("all", full, 1.0, Noise(0))
    hidden = 1 - seen[0].view(400, 50).mean(1)
    assert hidden.mean().item() == pytest.approx(0.45, abs=0.01)
    assert hidden.std().item() == pytest.approx(np.sqrt(0.3**2 / 12 + (0.45 * 0.55 - 0.3**2 / 12) / 50), abs=0.01)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("term", ["nll", "kl", "hyperprior"])
def test_gradients_of_every_term(kind, term):
    """Along one direction for each parameter, against central differences."""
    network = build(kind).double()
    rows = batch(kind)

    def value():
        seen = (MaskNoise().uniform(rows.values) >= 0.5).double()
        observed = network.observed(rows, seen)
        prior, (mu, logvar) = network.prior_of(observed), network.proposal(rows, seen)
        if term == "kl":
            return kl_gaussians(mu, logvar, *prior).sum()
        if term == "hyperprior":
            return 1e4 * log_hyperprior(*prior).sum()
        z = mu + MaskNoise().normal(mu) * torch.exp(0.5 * logvar)
        return network.hidden_log_likelihood(network.decoded(z, observed), rows, seen).sum()

    value().backward()
    reached = set()
    for n, (name, parameter) in enumerate(network.named_parameters()):
        direction = torch.from_numpy(oracles.fixed(*parameter.shape, phase=n + 0.7))
        found = 0.0 if parameter.grad is None else (parameter.grad * direction).sum().item()
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(direction, alpha=sign * 1e-6)
                ends.append(value().item())
                parameter.sub_(direction, alpha=sign * 1e-6)
        assert found == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-6), name
        if found:
            reached.add(name.split(".")[0])
    every = {name.split(".")[0] for name, _ in network.named_parameters()}
    prior_only = {"prior_inputs", "prior_head"}
    assert reached == {"nll": every - {"prior_head"}, "hyperprior": prior_only,
                       "kl": prior_only | {"proposal_inputs", "proposal_head"}}[term]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_with_nothing_observed_the_prior_knows_nobody(kind):
    network, rows = build(kind), batch(kind)
    observed = network.observed(rows, torch.zeros_like(rows.values))
    torch.testing.assert_close(observed, network._nothing().expand(USERS, -1))
    mu, _ = network.prior_of(observed)
    torch.testing.assert_close(mu, mu[:1].expand(USERS, -1))


@pytest.mark.parametrize("kind", ["clicks", "ratings"])
def test_a_hidden_entry_does_not_reach_the_prior_or_the_decoder(kind):
    """What is hidden changes only the proposal network and the likelihood."""
    network, x = build(kind), matrix(kind)
    rows = batch(kind)
    seen = torch.ones_like(rows.values)
    seen[1::2] = 0
    kept = np.zeros_like(x)
    kept[x.nonzero()] = seen.numpy()
    alone = batch(kind, x * kept)
    torch.testing.assert_close(network.observed(rows, seen), network.observed(alone, torch.ones_like(alone.values)))


@pytest.mark.parametrize("kind", KINDS)
def test_predicting_never_asks_the_proposal_network(kind):
    network, rows = build(kind), batch(kind)
    p = parameters(network)
    before = network.logits(rows)
    values = None
    if kind == "weights":
        values = GRADES
    elif kind != "clicks":
        base = oracle.bias_model(GRADES, KNOWN, p["mean"], p["item_offset"], network.options.damping)
        values = KNOWN * (GRADES - base)
    h, mu, _ = oracle.prior(values, KNOWN, p)
    logits = oracle.decode(mu, h, p) + (base if kind == "ratings" else 0)
    np.testing.assert_allclose(array(before), logits, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        for parameter in (*network.proposal_inputs.parameters(), *network.proposal_head.parameters()):
            parameter.fill_(torch.nan)
    torch.testing.assert_close(network.logits(rows), before, rtol=0, atol=0)


def test_what_nobody_entered_is_not_in_the_likelihood():
    """A Gaussian's gradient reaches the hidden entries' items alone."""
    network = build("ratings")
    rows = batch("ratings")
    network.loss("all", rows, BETA, MaskNoise()).total.backward()
    hidden = ((mask("ratings") == 1) & (GRADES > 0)).any(0)
    assert hidden.any()
    assert not hidden.all()
    moved = array(network.last.weight.grad).any(1)
    np.testing.assert_array_equal(moved, hidden)


def test_no_users_by_items_tensor_in_a_step_of_ratings():
    x = random_clicks(60, 3000, 0.01)
    network = VAEACNetwork(3000, VAEACOptions(hidden=6, latent=4, ratings=True, likelihood="gaussian"))
    rows = Batch.of(x, weighted=True)
    network.set_offsets(rows)
    with LargestTensor() as largest:
        network.loss("all", rows, 1.0, Noise(0)).total.backward()
    assert largest.elements <= 3000 * 6, (largest.shape, largest.operation)


def test_the_instruments_see_the_model_with_nothing_observed():
    network, rows = build("clicks").double(), batch("clicks")
    assert not network.has_standard_prior
    found = evidence(network, rows, Noise(3), 600)
    mu, logvar = network.posterior(rows)
    prior = network.prior_of(network._nothing())
    np.testing.assert_allclose(found.kl, array(kl_gaussians(mu, logvar, *prior)), rtol=0.2, atol=0.2)
    p = parameters(network)
    h, mu_p, logvar_p = oracle.prior(None, np.zeros_like(KNOWN), p)
    np.testing.assert_allclose(array(prior[0]), mu_p[:1])
    z = oracles.fixed(USERS, LATENT)
    log_p = oracles.normal_log_density(z, mu_p, np.exp(logvar_p))
    np.testing.assert_allclose(array(network.prior(rows)(torch.from_numpy(z))), log_p)
    nll = oracles.multinomial_nll(oracle.decode(z, h, p), KNOWN)
    code = network.decode(torch.from_numpy(z))
    np.testing.assert_allclose(array(network.log_likelihood(code, rows)), -nll)
    assert (found.bounds[600] >= found.bounds[1] - 1e-9).all()


# --- imputation ------------------------------------------------------------------------------------------------------


def ratings(users=240, items=40, seed=2):
    """Known and hidden ratings of users with one of two tastes, and what a damped-bias model could know of them."""
    rng = np.random.default_rng(seed)
    taste, kind = rng.choice([-1, 1], users), rng.choice([-1, 1], items)
    clean = 3 + 0.4 * rng.normal(size=items) + 0.4 * rng.normal(size=(users, 1)) + 1.2 * np.outer(taste, kind)
    x = np.clip(clean + 0.3 * rng.normal(size=clean.shape), 0.5, 5.5).round(2)
    known = rng.random(x.shape) < 0.5
    hidden = known & (rng.random(x.shape) < 0.2)
    return csr_array((x * (known & ~hidden)).astype(np.float32)), csr_array((x * hidden).astype(np.float32))


GAUSSIAN = {
    "ratings": True, "likelihood": "gaussian", "hidden": 16, "latent": 4, "batch_size": 30, "learning_rate": 0.01,
    "device": "cpu", "seed": 1,
}  # fmt: skip


def rmse(predicted, held_out):
    return np.sqrt(((predicted.data - held_out.data) ** 2).mean())


@pytest.fixture(scope="module")
def fitted():
    shown, _ = ratings()
    return VAEAC(**GAUSSIAN, epochs=30).fit(shown[:200])


def test_a_fresh_network_is_the_damped_bias_model():
    shown, hidden = ratings()
    model = VAEAC(**GAUSSIAN, epochs=1, damping=4.0)
    model._begin_fit(shown, Naming())
    model.network = model._network()
    model._prepare(shown)
    mean, item_offset = oracle.damped_offsets(shown.toarray().astype(float), 4.0)
    known = shown.toarray() > 0
    base = oracle.bias_model(shown.toarray().astype(float), known, mean, item_offset, 4.0)
    np.testing.assert_allclose(model.predict_ratings(shown, hidden).data, base[hidden.toarray() > 0], rtol=1e-4)
    np.testing.assert_allclose(model.scores(shown).detach().numpy(), base, rtol=1e-4)
    left = (shown.toarray() - base)[known]
    assert model.network.log_noise.exp().item() == pytest.approx((left**2).mean(), rel=1e-3)


def test_imputation_finds_what_biases_cannot(fitted):
    shown, hidden = (matrix[200:] for matrix in ratings())
    mean, item_offset = oracle.damped_offsets(ratings()[0][:200].toarray().astype(float), 1.0)
    x = shown.toarray().astype(float)
    base = oracle.bias_model(x, x > 0, mean, item_offset, 1.0)
    biased = np.sqrt(((base - hidden.toarray())[hidden.toarray() > 0] ** 2).mean())
    found = rmse(fitted.predict_ratings(shown, hidden), hidden)
    assert biased > 1.0
    assert found < 0.6 * biased
    assert rmse(fitted.predict_ratings(shown, hidden, samples=8), hidden) < 0.6 * biased


def test_predicted_ratings_are_the_scores(fitted):
    shown, hidden = (matrix[200:] for matrix in ratings())
    predicted = fitted.predict_ratings(shown, hidden)
    assert predicted.dtype == np.float32
    np.testing.assert_array_equal(predicted.indices, hidden.indices)
    scores = fitted.scores(shown).detach().numpy()
    np.testing.assert_allclose(predicted.data, scores[hidden.toarray() > 0], rtol=1e-5)
    for user in (0, 7):
        alone = fitted.predict_ratings(shown[[user]], hidden[[user]])
        np.testing.assert_allclose(alone.data, predicted[[user]].data, rtol=1e-5)
    several = fitted.predict_ratings(shown, hidden, samples=3)
    np.testing.assert_array_equal(several.data, fitted.predict_ratings(shown, hidden, samples=3).data)
    assert np.abs(several.data - predicted.data).max() > 0
    nobody = csr_array(shown.shape, dtype=np.float32)
    assert np.isfinite(fitted.predict_ratings(nobody, hidden).data).all()
    assert fitted.predict_ratings(shown, nobody).nnz == 0


@pytest.mark.parametrize("value", [0.0, np.nan, -1.0, 7.0])
def test_of_the_entries_to_predict_only_the_places_count(fitted, value):
    shown, hidden = (matrix[200:] for matrix in ratings())
    expected = fitted.predict_ratings(shown, hidden)
    asked = csr_array((np.full(hidden.nnz, value), hidden.indices, hidden.indptr), shape=hidden.shape)
    for where in (asked, asked.tocoo()):
        found = fitted.predict_ratings(shown, where)
        np.testing.assert_array_equal(found.indices, expected.indices)
        np.testing.assert_array_equal(found.data, expected.data)
    np.testing.assert_array_equal(asked.data, np.full(hidden.nnz, value))  # the caller's own stays as it is
    twice = csr_array((np.full(3, value), np.array([5, 2, 5]), np.array([0, 3])), shape=(1, 40))
    found = fitted.predict_ratings(shown[[0]], twice)
    assert found.indices.tolist() == [2, 5]
    assert twice.indices.tolist() == [5, 2, 5]
    np.testing.assert_allclose(found.data, fitted.scores(shown[[0]]).detach().numpy()[0, [2, 5]], rtol=1e-5)


@pytest.mark.parametrize("samples", [0, 2])
def test_predicting_in_one_tile_and_in_many(fitted, monkeypatch, samples):
    shown, _ = (matrix[200:] for matrix in ratings())
    every = csr_array(np.ones(shown.shape, np.float32))
    expected = fitted.predict_ratings(shown, every, samples=samples)
    monkeypatch.setitem(likelihoods.TILE_SCORES, "cpu", 16 * 50)  # 50 pairs
    with LargestTensor() as largest:
        found = fitted.predict_ratings(shown, every, samples=samples)
    np.testing.assert_allclose(found.data, expected.data, rtol=1e-6)
    assert largest.elements <= every.nnz * max(1, samples), (largest.shape, largest.operation)  # the width is 16


def test_a_run_folder_keeps_the_offsets_and_resumes(tmp_path, fitted):
    shown, hidden = ratings()
    fitted.save(tmp_path / "run")
    again = recvae.load(tmp_path / "run")
    np.testing.assert_array_equal(again.predict_ratings(shown, hidden).data, fitted.predict_ratings(shown, hidden).data)
    whole = VAEAC(**GAUSSIAN, epochs=4).fit(shown)
    VAEAC(**GAUSSIAN, epochs=4, stop_after=2).fit(shown, folder=tmp_path / "part")
    rest = VAEAC(**GAUSSIAN, epochs=4).fit(shown, folder=tmp_path / "part", resume=True)
    assert all(torch.equal(value, rest.tensors()[name]) for name, value in whole.tensors().items())


def test_an_item_that_is_named_counts_as_liked(fitted):
    matrix, _ = fitted.encode([["3", "5"]])
    assert matrix.data.tolist() == [4.0, 4.0]
    assert fitted.named_value == 4.0
    assert VAEAC(latent=2).named_value == 1.0


def test_refusals(fitted):
    shown, _ = ratings()
    with pytest.raises(InputError, match="Set ratings = true"):
        VAEAC(likelihood="gaussian")
    with pytest.raises(InputError, match="mask_least"):
        VAEAC(mask_least=0.8, mask_most=0.2)
    with pytest.raises(InputError, match="predicts no ratings"):
        VAEAC(epochs=1, hidden=2, latent=2, device="cpu").fit(shown).predict_ratings(shown, shown)
    with pytest.raises(InputError, match=r"must be \(users, 40\)"):
        fitted.predict_ratings(shown, shown[:3])
    with pytest.raises(InputError, match=r"none of the training ratings is 6\.0 or more"):
        VAEAC(ratings=True, liked_from=6.0, epochs=1, hidden=2, latent=2, device="cpu").fit(shown)
    with pytest.raises(InputError, match="trained on ratings"):
        recvae.Blend([recvae.Popularity().fit(shown), fitted], shown)


def test_plain_clicks_need_no_second_reading():
    """Without values there is nothing but which entries are observed, and which are hidden."""
    network = VAEACNetwork(8, VAEACOptions(hidden=2, latent=2))
    assert (len(network.prior_inputs), len(network.proposal_inputs)) == (1, 2)
    clicks = Clicks(csr_array(np.full((3, 8), 2.0)))  # not weighted: values count as 1
    assert network.loss("all", next(clicks.in_order(3)), 1.0, Noise(0)).nll.item() == pytest.approx(
        network.loss("all", Batch.of(csr_array(np.ones((3, 8)))), 1.0, Noise(0)).nll.item()
    )
