"""The instruments: parts of the loss, what the code carries, collapse, recall by groups, and the map."""

import re

import numpy as np
import oracles
import pytest
import torch
from conftest import checkerboard
from scipy.sparse import csr_array
from small_diagnoses import QUICK, diagnosed, trained, whole
from small_models import model as small_model

import recvae
from data_prep import sample
from recvae.errors import InputError, WorkError
from recvae.experiments import diagnose as diagnostics
from recvae.nn.densities import gaussian_draws
from recvae.reports.collapse import thresholds, verdict
from recvae.reports.diagnosis_page import page, reliability

# --- collapse ---------------------------------------------------------------------------------------------------------


def test_a_collapsed_run_is_named_and_a_healthy_one_is_not(data, healthy):
    found = diagnosed(*healthy, data)
    assert found["latent"]["verdict"]["state"] == "healthy"
    assert found["latent"]["active"] == 16
    assert found["recall"]["overall"]["mean"] > 0.5
    forced = trained(recvae.MultVAE, data, epochs=6, beta_cap=50, learning_rate=5e-3, **QUICK)
    found = diagnosed(*forced, data)
    assert found["latent"]["verdict"]["state"] == "collapsed"
    assert found["latent"]["active"] == 0
    assert found["latent"]["kl"]["mean"] < 0.1
    assert found["recall"]["overall"]["mean"] < 0.3  # everybody gets what is popular
    assert "fewer than 5%" in page(whole(found))


@pytest.mark.parametrize(
    ("active", "information", "state"),
    [
        (200, 40.0, "healthy"),
        (100, 40.0, "healthy"),
        (99, 40.0, "partly collapsed"),
        (10, 40.0, "partly collapsed"),
        (9, 40.0, "collapsed"),
        (200, 0.1, "healthy"),
        (200, 0.099, "collapsed"),
    ],
)
def test_the_borders_of_the_verdict(active, information, state):
    said = verdict(active, 200, information)
    assert said["state"] == state
    assert said["sentence"].startswith(state.capitalize())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"epochs": 12, "beta_cap": 1e-4, "learning_rate": 1e-5}, "its weight was never above 0.0001"),
        ({"epochs": 6, "beta_cap": 0.2, "learning_rate": 2e-4}, "the KL grew from"),
        ({"epochs": 1, "beta_cap": 0.2}, "it had a single epoch"),
    ],
)
def test_a_run_that_ended_too_soon_is_not_called_collapsed(data, options, reason):
    """Its code is as empty as a collapsed one, and a smaller weight of the KL would not fill it."""
    model, rows = trained(recvae.MultVAE, data, **QUICK, **options)
    said = diagnosed(model, rows, data)["latent"]["verdict"]
    assert said["state"] == "undertrained", said["sentence"]
    assert reason in said["sentence"]
    assert "more epochs" in said["sentence"]
    assert "Undertrained" in page(whole(diagnosed(model, rows, data)))
    unknown = diagnosed(model, [], data)["latent"]["verdict"]
    assert unknown["state"] == "collapsed"  # nothing is known of how it came about


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (recvae.MultVAE, {"beta_cap": 50, "learning_rate": 5e-3}),
        (recvae.MultVAE, {"beta_cap": 50, "learning_rate": 5e-3, "anneal": "share", "anneal_share": 0.3}),
        (recvae.RecVAE, {"gamma": 1.0, "hidden": 50}),
    ],
)
def test_a_code_that_the_kl_term_emptied_is_called_collapsed_whatever_the_epochs_say(data, kind, options):
    known = {key: value for key, value in QUICK.items() if kind is recvae.MultVAE or key != "anneal"}
    model, rows = trained(kind, data, **{**known, "epochs": 12, **options})
    assert diagnosed(model, rows, data)["latent"]["verdict"]["state"] == "collapsed"


def curve(kls, beta=0.2, best=None):
    """Rows of a run whose KL goes like that, its reconstruction getting better."""
    best = len(kls) if best is None else best
    return [
        {
            "epoch": n,
            "phase": "all",
            "nll": 200.0 - n,
            "kl": kl,
            "weighted_kl": beta * kl,
            "beta": beta,
            "best": n == best,
        }
        for n, kl in enumerate(kls, start=1)
    ]


@pytest.mark.parametrize(
    ("active", "information", "rows", "state"),
    [
        (0, 0.01, curve([0.10, 0.10, 0.105, 0.11, 0.115, 0.12]), "undertrained"),  # growing
        (0, 0.01, curve([0.10, 0.11, 0.1, 0.1, 0.1, 0.1]), "collapsed"),  # level
        (0, 0.01, curve([5.0, 2.0, 0.5, 0.2, 0.1, 0.05]), "collapsed"),  # falling
        (0, 0.01, curve([5.0, 2.0, 0.5, 0.2, 0.1, 0.05], beta=0.009), "undertrained"),  # a weight that is nothing
        (0, 0.01, curve([0.1, 0.2, 0.4, 0.2, 0.1, 0.05], best=3), "undertrained"),  # the kept epoch was an early one
        (20, 9.0, curve([1.0, 2.0, 4.0, 6.0, 8.0, 9.0]), "undertrained"),  # some dimensions, and more to come
        (20, 9.0, curve([9.0, 9.0, 9.0, 9.0, 9.0, 9.0], beta=0.001), "partly collapsed"),  # to the end, and not in use
        (150, 9.0, curve([1.0, 2.0, 4.0, 6.0, 8.0, 9.0]), "healthy"),
    ],
)
def test_how_a_code_came_about_decides(active, information, rows, state):
    said = verdict(active, 200, information, rows)
    assert said["state"] == state, said["sentence"]
    assert "Undertrained instead" in thresholds(said)


# --- what a dimension carries -----------------------------------------------------------------------------------------


def test_dimensions_against_the_equations():
    mu, logvar = oracles.fixed(50, 4, scale=0.7), oracles.fixed(50, 4, phase=1) - 1
    mu[:, 2], logvar[:, 2] = 0.05 * mu[:, 2], 0.0  # all but the prior: not active
    found = diagnostics.latent_dimensions(mu, logvar)
    of = {key: np.array([d[key] for d in found["dimensions"]]) for key in ("kl", "information", "activity")}
    kl = 0.5 * (np.exp(logvar) + mu**2 - 1 - logvar)
    np.testing.assert_allclose(of["kl"], kl.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found["kl"]["mean"], oracles.kl_to_standard_normal(mu, logvar).mean(), rtol=1e-12)
    np.testing.assert_allclose(found["kl"]["se"], kl.sum(1).std(ddof=1) / 50**0.5, rtol=1e-12)
    np.testing.assert_allclose(of["activity"], [np.var(mu[:, k]) for k in range(4)], rtol=1e-12)
    assert [d["active"] for d in found["dimensions"]] == [True, True, False, True]
    # KL = information + KL(N(m, s^2) || N(0, 1)), m and s^2 the moments of z over all users.
    mean, spread = mu.mean(0), np.exp(logvar).mean(0) + mu.var(0)
    of_all = 0.5 * (spread + mean**2 - 1 - np.log(spread))
    np.testing.assert_allclose(of["kl"], of["information"] + of_all, rtol=1e-12)


def test_information_bounds_what_a_dimension_tells():
    """Two users far apart: exactly log 2 is to be known, and the bound of a Gaussian lies above."""
    mu, logvar = np.array([[-5.0], [5.0]]), np.zeros((2, 1))
    assert np.log(2) < diagnostics.latent_dimensions(mu, logvar)["information"] < 2
    assert diagnostics.latent_dimensions(np.zeros((2, 1)), logvar)["information"] == pytest.approx(0, abs=1e-12)


def test_recvae_has_its_own_prior_and_says_so(data):
    found = diagnosed(*trained(recvae.RecVAE, data, epochs=1, hidden=20, latent=6, device="cpu", seed=1), data)
    assert found["latent"]["kl_is"] == "sampled"
    # A mixture with 3/4 of q itself: no dimension can be further from it than log 4/3, up to the draws.
    assert all(d["kl"] < np.log(4 / 3) + 0.05 for d in found["latent"]["dimensions"])
    total = sum(d["kl"] for d in found["latent"]["dimensions"])
    assert total == pytest.approx(found["latent"]["kl"]["mean"], rel=1e-6)
    assert "depends on the user" in found["likelihood"]["prior"]
    encoder = next(row for row in found["training"] if row["phase"] == "encoder")
    assert encoder["beta"] == pytest.approx(encoder["weighted_kl"] / encoder["kl"])
    decoder = next(row for row in found["training"] if row["phase"] == "decoder")
    assert (decoder["kl"], decoder["weighted_kl"], decoder["beta"]) == (None, None, None)


# --- log p(x) ---------------------------------------------------------------------------------------------------------


def test_the_bounds_of_a_diagnosis(data, healthy):
    found = diagnosed(*healthy, data, samples=100)["likelihood"]
    means = [bound["mean"] for bound in found["bounds"]]
    assert [bound["samples"] for bound in found["bounds"]] == [1, 10, 100]
    assert means == sorted(means)
    assert found["elbo"] == found["bounds"][0]
    assert found["log_p"] == found["bounds"][-1]
    assert found["elbo"]["mean"] == pytest.approx(found["reconstruction"]["mean"] - found["kl"]["mean"])
    assert found["gap"]["mean"] == pytest.approx(means[-1] - means[0])
    assert found["users"] == 60
    assert all(0 < bound["monte_carlo_se"] < bound["se"] for bound in found["bounds"])
    assert 1 <= found["effective_samples"]["least"] <= found["effective_samples"]["median"] <= 100


def test_the_same_seed_gives_the_same_diagnosis_and_training_can_go_on(data, healthy):
    model, rows = healthy
    one, two, other = (diagnosed(model, rows, data, seed=seed) for seed in (3, 3, 4))
    assert one == two
    assert one["likelihood"] != other["likelihood"]
    assert all(parameter.requires_grad for parameter in model.network.parameters())


def test_few_effective_samples_are_said():
    few = {"effective_samples": {"median": 1.3}, "samples": 1000}
    assert "Take it for a lower bound." in reliability(few)
    assert "lower bound" not in reliability({"effective_samples": {"median": 50.0}, "samples": 1000})


def test_numbers_that_are_not_finite_are_refused(data, healthy):
    model, rows = healthy
    bias = model.network.first.bias
    kept = bias.detach().clone()
    try:
        with torch.no_grad():
            bias[0] = torch.nan
        with pytest.raises(WorkError, match="not finite"):
            diagnosed(model, rows, data)
    finally:
        with torch.no_grad():
            bias.copy_(kept)


# --- training ---------------------------------------------------------------------------------------------------------


def test_training_rows():
    """Mult-VAE records its beta; weighted KL is what the loss has beside the likelihood."""
    model = small_model("mult-vae", epochs=3)
    rows = []
    model.fit(checkerboard(), on_epoch=lambda report: rows.append(report.to_dict()))
    found = diagnostics.training(rows)
    assert [row["epoch"] for row in found] == [1, 2, 3]
    for row, epoch in zip(found, rows, strict=True):
        values = epoch["phases"]["all"]
        assert row["weighted_kl"] == values["loss"] - values["nll"]
        assert row["beta"] == values["beta"]
        assert row["kl"] == values["kl"]
    assert [row["best"] for row in found] == [False, False, True]
    assert diagnostics.training([]) == []


def test_the_weighted_kl_is_without_the_loss_s_other_terms():
    """VAEAC's loss has its hyperprior too; its weight of the KL is the same throughout."""
    model = small_model("vaeac", epochs=3)
    rows = []
    model.fit(checkerboard(), on_epoch=lambda report: rows.append(report.to_dict()))
    for row, epoch in zip(diagnostics.training(rows), rows, strict=True):
        values = epoch["phases"]["all"]
        assert row["weighted_kl"] == values["beta"] * values["kl"]
        assert abs(values["loss"] - values["nll"] - row["weighted_kl"]) > 1e-4  # the hyperprior


# --- what cannot be said ----------------------------------------------------------------------------------------------


def test_a_model_without_a_posterior_is_diagnosed_as_far_as_that_goes(data):
    found = diagnosed(*trained(recvae.MultDAE, data, epochs=1, latent=8, device="cpu"), data)
    assert found["latent"] is found["likelihood"] is None
    assert any("has no posterior" in note and "no KL and no log p(x)" in note for note in found["notes"])
    assert found["items"]["points"]
    assert found["training"][0]["kl"] is None
    found = diagnosed(*trained(recvae.Popularity, data), data)
    assert found["latent"] is found["items"] is None
    assert found["training"] == []
    assert len(found["notes"]) == 3
    assert found["recall"]["overall"]["users"] == 200
    text = page(whole(found))
    assert "Popularity is no variational model" in text
    assert 'id="recall"' in text
    assert 'id="code"' not in text


def test_a_posterior_that_is_not_one_gaussian_has_log_p_and_no_verdict(data, healthy, monkeypatch):
    model, rows = healthy
    posterior = model.network.posterior

    def refuse(batch, noise=None):
        raise InputError("The posterior is of several parts.")

    monkeypatch.setattr(model.network, "draws", lambda batch, noise: gaussian_draws(*posterior(batch), noise))
    monkeypatch.setattr(model.network, "posterior", refuse)
    found = diagnosed(model, rows, data, split="train")  # to rank, Mult-VAE asks for its posterior too
    assert found["latent"] is None
    assert found["likelihood"]["users"] == 60
    assert found["notes"][0] == "The posterior is of several parts. So there is no verdict on its collapse."


def test_training_users_have_no_recall(data, healthy):
    found = diagnosed(*healthy, data, split="train")
    assert found["recall"] is None
    assert any("no held-out clicks" in note for note in found["notes"])
    assert found["likelihood"]["users"] == 60


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"split": "tset"}, "There is no split 'tset'"),
        ({"samples": 1}, "--samples and --users must be at least 2, and are 1 and 60."),
        ({"users": 1}, "must be at least 2"),
    ],
)
def test_arguments_out_of_range(data, healthy, options, said):
    with pytest.raises(InputError, match=re.escape(said)):
        diagnosed(*healthy, data, **options)


def test_another_catalogue_and_no_held_out_users(data, healthy):
    model, rows = healthy
    stranger, _ = trained(recvae.Popularity, sample(seed=5).dataset())
    with pytest.raises(InputError, match="another catalogue"):
        diagnosed(stranger, [], data)
    without = sample().dataset()
    without._matrices["test_out"] = csr_array(without.test_out.shape, dtype=np.float32)
    with pytest.raises(InputError, match="sample has no test users with held-out clicks"):
        diagnosed(model, rows, without)
    without._matrices["test_in"] = without._matrices["test_out"]
    without._matrices["test_out"] = data.test_out
    with pytest.raises(InputError, match="Fewer than two users"):
        diagnosed(model, rows, without)
