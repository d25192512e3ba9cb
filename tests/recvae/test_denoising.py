"""Corrupted inputs: what becomes of a history, how often, and the bound that a denoising VAE maximises."""

import numpy as np
import oracles
import oracles_family
import pytest
import torch
from conftest import checkerboard, random_clicks
from oracles_family import NODES, WEIGHTS
from scipy.sparse import csr_array
from tiny_models import layers, tiny

import recvae
from recvae.models.mult import MultDAENetwork, MultDAEOptions, MultVAENetwork, MultVAEOptions
from recvae.nn.batches import Batch
from recvae.nn.corruption import corrupted
from recvae.nn.noise import Noise

KINDS = ("dropout", "subset", "flips")


class GivenNoise(Noise):
    """What is kept, what is thrown and the latent noise, as given; ``thrown`` lists the items of each user."""

    def __init__(self, kept, thrown=(), eps=0.0):
        super().__init__(0)
        self.given, self.thrown, self.eps = kept, thrown, eps

    def kept(self, values, rate):
        return torch.tensor(self.given, dtype=torch.bool)

    def counts(self, means):
        return torch.tensor([len(items) for items in self.thrown], dtype=means.dtype)

    def integers(self, n, below):
        items = [item for of_user in self.thrown for item in of_user]
        return torch.tensor(items + [(7 * k) % below for k in range(n - len(items))])  # the rest is too many

    def normal(self, like):
        return torch.full_like(like, self.eps)


def dense(batch, values):
    """The input as a matrix: entries with value 0 count for nothing, and no two others are in one cell."""
    out = np.zeros((len(batch), batch.n_items))
    used = values.numpy() != 0
    np.add.at(out, (batch.rows.numpy()[used], batch.columns.numpy()[used]), values.numpy()[used])
    assert len(set(batch.cells.numpy()[used])) == used.sum()
    assert torch.equal(batch.rows, torch.repeat_interleave(torch.arange(len(batch)), batch.lengths))
    return out


X = np.array(
    [[1, 1, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1], [0, 0, 1, 0, 0, 0]], float
)
KEPT = [1, 0, 1, 0, 0, 1, 1, 0, 1, 1, 1, 1]  # one for each click
CLEAN = X.copy()
CLEAN[X.nonzero()] = KEPT


def test_dropout_is_inverted():
    batch, values = corrupted(Batch.of(csr_array(X)), "dropout", 0.4, GivenNoise(KEPT))
    np.testing.assert_allclose(dense(batch, values), oracles.normalise(X) * CLEAN / 0.6, rtol=1e-6)


def test_a_subset_is_just_what_a_shorter_history_looks_like():
    batch, values = corrupted(Batch.of(csr_array(X)), "subset", 0.4, GivenNoise(KEPT))
    np.testing.assert_allclose(dense(batch, values), oracles.normalise(CLEAN), rtol=1e-6)
    network = MultVAENetwork(6, MultVAEOptions(hidden=(5,), latent=3, corruption="subset", dropout=0.4), seed=2)
    with torch.no_grad():
        noisy = torch.cat(network.posterior(Batch.of(csr_array(X)), GivenNoise(KEPT)), 1)
        shorter = torch.cat(network.posterior(Batch.of(csr_array(CLEAN))), 1)
    torch.testing.assert_close(noisy, shorter)


# Thrown at: a click that stays, one that was dropped, an item twice; and the rest, too many, are the last user's.
THROWN = [[3, 0, 1, 3], [], [5], [2, 2], [0, 5, 0]]
FLIPPED = CLEAN.copy()
FLIPPED[[0, 2, 4, 4], [3, 5, 0, 5]] = 1


@pytest.mark.parametrize("weighted", [False, True])
def test_flips(weighted):
    counts = csr_array(X * (1 + np.arange(6) % 3))
    batch = Batch.of(counts, weighted=weighted)
    clicked = counts.toarray() if weighted else X
    mean = clicked.sum(1) / X.sum(1).clip(1)
    expected = np.where(X > 0, clicked * CLEAN, FLIPPED * mean[:, None])
    flipped, values = corrupted(batch, "flips", 0.4, GivenNoise(KEPT, THROWN))
    np.testing.assert_allclose(dense(flipped, values), oracles.normalise(expected), rtol=1e-6)
    assert values.isfinite().all()


@pytest.mark.parametrize("kind", [MultVAENetwork, MultDAENetwork])
def test_both_ways_through_the_first_layer_agree(kind):
    """On a CPU the entries are gathered; elsewhere they are scattered, repeats and all."""
    options = {MultVAENetwork: MultVAEOptions, MultDAENetwork: MultDAEOptions}[kind]
    network = kind(6, options(latent=3, corruption="flips"), seed=2)
    batch, values = corrupted(Batch.of(csr_array(X)), "flips", 0.4, GivenNoise(KEPT, THROWN))
    results = []
    for way in (network.first.gathered, network.first.multiplied):
        network.zero_grad()
        out = way(batch, values)
        out.square().sum().backward()
        results.append((out, network.first.weight.grad.clone()))
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(results[0][0], network.first(Batch.of(csr_array(FLIPPED)), torch.tensor(
        oracles.normalise(FLIPPED)[FLIPPED.nonzero()], dtype=torch.float32)))  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_no_rate_no_corruption(kind):
    batch, noise = Batch.of(csr_array(X)), Noise(1)
    same, values = corrupted(batch, kind, 0.0, noise)
    assert same is batch
    assert torch.equal(values, batch.normalised())
    assert torch.equal(noise.state(), Noise(1).state())


# --- how often -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("clicks", "rate"), [(3, 0.5), (12, 0.5), (1, 0.9)])
def test_flips_are_independent_and_have_their_rates(clicks, rate):
    """20,000 users with the same history: each item's share, and the number's mean and variance, within five s.e."""
    users, items = 20_000, 24
    x = np.zeros((users, items))
    x[:, :clicks] = 1
    batch, values = corrupted(Batch.of(csr_array(x)), "flips", rate, Noise(5))
    on = dense(batch, values) > 0
    hit = rate * clicks / (items - clicks)
    chance = np.where(np.arange(items) < clicks, 1 - rate, hit)
    deviation = np.sqrt(chance * (1 - chance))
    assert (np.abs(on.mean(0) - chance) < 5 * deviation / users**0.5).all()
    total, variance = on.sum(1), (deviation**2).sum()
    assert abs(total.mean() - clicks) < 5 * (variance / users) ** 0.5  # as many as it drops
    # The variance of a sum of Bernoullis, so they are independent; s.e. of a variance is about sqrt(2 / n) of it, and
    # less than sqrt(6 / n) for draws as far from normal as these.
    assert abs(total.var() / variance - 1) < 5 * (6 / users) ** 0.5
    pairs = np.corrcoef(on.T)
    assert np.abs(pairs[np.triu_indices(items, 1)]).max() < 6 / users**0.5


def test_flips_of_users_with_most_of_the_catalogue():
    """There the rate would pass 1, or nearly: fewer are added, nothing breaks, and nobody else is touched."""
    users = np.repeat([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]], 2000, axis=0).astype(float)
    batch, values = corrupted(Batch.of(csr_array(users)), "flips", 0.5, Noise(6))
    on = (dense(batch, values) > 0).reshape(4, 2000, 5).mean(1)
    assert on[0, 4] == pytest.approx(1 - np.exp(-1.5 * 4 / 5), abs=0.06)
    np.testing.assert_allclose(on[1], 0.5, atol=0.06)
    assert (on[2] == 0).all()
    np.testing.assert_allclose(on[3], [0.5, 0.125, 0.125, 0.125, 0.125], atol=0.06)
    assert values.isfinite().all()


def test_there_is_room_for_what_is_thrown(monkeypatch):
    """More room gives the same corruption: no throw was too many."""
    matrix = random_clicks(300, 50, 0.3, seed=4)
    inputs = []
    for room in (2, 20):
        monkeypatch.setattr("recvae.nn.corruption.ROOM", room)
        inputs.append(dense(*corrupted(Batch.of(matrix), "flips", 0.7, Noise(8))))
    np.testing.assert_array_equal(*inputs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", [recvae.MultVAE, recvae.MultDAE])
def test_taste_is_learned_through_any_corruption(kind, model):
    board = csr_array(np.vstack([checkerboard().toarray(), np.ones((1, 40)), np.eye(1, 40)]).astype(np.float32))
    made = model(hidden=(32,), latent=16, epochs=30, batch_size=10, learning_rate=0.01, corruption=kind, seed=1)
    made.fit(board)
    histories = np.zeros((2, 40), np.float32)
    histories[0, ::4], histories[1, 1::4] = 1, 1
    ids, _ = made.recommend(csr_array(histories), k=10)
    assert [set(row % 2) for row in ids] == [{0}, {1}]


# --- the bound -------------------------------------------------------------------------------------------------------


def denoising_bound(network, x, kind, rate):
    """L_dvae of one user, from the losses of all corruptions and all z: the means of minus the network's loss.

    Also the corrupted inputs and their chances.
    """
    batch, clicked, items = Batch.of(csr_array(x[None])), x > 0, len(x)
    bound, inputs, chances = 0.0, [], []
    for row, chance in oracles_family.corruptions(x, kind, rate):
        kept, thrown = row[clicked], [[i for i in range(items) if row[i] and not x[i]]]
        with torch.no_grad():
            losses = [network.loss("all", batch, 1.0, GivenNoise(kept, thrown, eps)).total.item() for eps in NODES]
        bound -= chance * (WEIGHTS @ losses)
        inputs.append(
            oracles.normalise(x[None])[0] * row / (1 - rate) if kind == "dropout" else oracles.normalise(row[None])[0]
        )
        chances.append(chance)
    return bound, inputs, np.array(chances)


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", ["multinomial", "bernoulli"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_denoising_bound(kind, likelihood):
    """L_dvae <= the ELBO of the mixture <= log p(x); the first is below the last by the mean of KL(q(z|x~) || p(z|x)).

    Everything over all corruptions and by quadrature over z, so that nothing is left to chance.
    """
    rate, nll = 0.4, oracles_family.NLL[likelihood]
    network = tiny(4, likelihood=likelihood, corruption=kind, dropout=rate)
    encoder, decoder = layers(network)
    slack = []
    for x in (np.array(row, float) for row in ([1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 1, 1])):
        if kind == "flips" and x.sum() > 2:
            continue  # the rate would be above 1
        bound, inputs, chances = denoising_bound(network, x, kind, rate)
        bound += oracles_family.log_coefficient(x[None])[0] if likelihood == "multinomial" else 0.0
        assert chances.sum() == pytest.approx(1)
        densities = np.array([oracles_family.log_posterior(x_tilde, encoder) for x_tilde in inputs])
        mixture, _ = oracles_family.bound_and_gap(x, densities, chances, decoder, nll)
        gaps = [oracles_family.bound_and_gap(x, q[None], np.ones(1), decoder, nll)[1] for q in densities]
        evidence = oracles_family.log_evidence(x, decoder, nll)
        assert evidence - bound == pytest.approx(chances @ gaps, abs=2e-6)
        assert bound <= mixture <= evidence
        slack.append(mixture - bound)
    assert max(slack) > 1e-3  # strictly below: the corruptions do move the posterior


@pytest.mark.parametrize("kind", KINDS)
def test_without_corruption_the_bound_is_the_plain_elbo(kind):
    x = np.array([1, 1, 0, 0], float)
    network = tiny(4, corruption=kind, dropout=0.0)
    encoder, decoder = layers(network)
    bound, inputs, chances = denoising_bound(network, x, kind, 0.0)
    assert chances.tolist() == [1.0]
    log_q = oracles_family.log_posterior(inputs[0], encoder)
    elbo, _ = oracles_family.bound_and_gap(x, log_q[None], np.ones(1), decoder, oracles.multinomial_nll)
    assert bound + oracles_family.log_coefficient(x[None])[0] == pytest.approx(elbo, abs=2e-6)
