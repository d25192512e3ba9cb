"""ImplicitSLIM: its closed form against dense float64 NumPy, when it is applied, and exact resume with it."""

import numpy as np
import oracles_slim
import pytest
import torch
from conftest import LargestTensor, random_clicks
from small_models import BOARD, equal, model

from recvae.cli.train import settings_line
from recvae.errors import InputError, WorkError
from recvae.models.mult import MultVAENetwork, MultVAEOptions
from recvae.models.recvae import RecVAENetwork, RecVAEOptions
from recvae.nn import implicit_slim as slim
from recvae.nn.batches import Batch, Clicks
from recvae.nn.kernels import precision
from recvae.training.loop import Hooks, TrainOptions, _Loop

SLIM = {"slim_every": 2, "slim_l2": 5.0, "slim_threshold": 15}
NETWORKS = {
    "recvae": lambda **more: RecVAENetwork(40, RecVAEOptions(hidden=12, latent=6, **SLIM, **more), seed=1),
    "mult-vae": lambda **more: MultVAENetwork(40, MultVAEOptions(hidden=(12,), latent=6, **SLIM, **more), seed=1),
    "mult-vae, no hidden layer": lambda: MultVAENetwork(40, MultVAEOptions(hidden=(), latent=6, **SLIM), seed=1),
}


def popular_clicks(users=300, items=60, seed=2, weighted=False):
    """Clicks with popular and rare items, one never clicked, and a user without clicks."""
    rng = np.random.default_rng(seed)
    chance = 0.9 / (1 + np.arange(items)) ** 0.7
    x = (rng.random((users, items)) < chance).astype(float)
    x[:, -1] = 0
    x[7] = 0
    return x * rng.integers(1, 4, x.shape) if weighted else x


def embeddings(items, width, seed=5):
    """Embeddings as training makes them: one direction much longer than the others."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(items, width)) * 0.1 + 2.0 * rng.normal(size=width)


def relative(value, expected):
    return np.linalg.norm(value - expected) / np.linalg.norm(expected)


def tables_of(network):
    first = network.encoder.first if isinstance(network, RecVAENetwork) else network.first
    return {"first": first.weight.detach().clone(), "last": network.output.weight.detach().clone()}


CASES = [(20.0, 1.0, 0), (3.0, 0.01, 20), (500.0, 1.0, 60), (0.5, 50.0, 10)]


@pytest.mark.parametrize(("l2", "alpha", "threshold"), CASES)
def test_the_papers_formula_is_the_minimiser_of_its_objective(l2, alpha, threshold):
    """The two oracles, one with the width's inverse and one with the catalogue's; every step away costs."""
    x, w = popular_clicks(), embeddings(60, 7).T
    best = oracles_slim.minimiser(w, x, l2, alpha, threshold)
    # The formula as printed takes the difference of nearly equal numbers: of 16 digits it loses up to 12 here.
    assert relative(oracles_slim.closed_form(w, x, l2, alpha, threshold), best) < 1e-4
    least = oracles_slim.objective(best, w, x, l2, alpha, threshold)
    rng = np.random.default_rng(1)
    for _ in range(5):
        away = best + 1e-2 * rng.normal(size=best.shape)
        assert oracles_slim.objective(away, w, x, l2, alpha, threshold) > least


@pytest.mark.parametrize("tile", [1 << 14, 64])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("l2", "alpha", "threshold"), CASES)
def test_against_the_dense_formula(l2, alpha, threshold, weighted, tile, monkeypatch):
    monkeypatch.setattr(slim, "USERS_AT_ONCE", tile)
    x = popular_clicks(weighted=weighted)
    clicks = Clicks(x, weighted=weighted)
    for width in (1, 7, 60, 80):
        table = torch.from_numpy(embeddings(60, width))
        expected = oracles_slim.minimiser(table.numpy().T, x, l2, alpha, threshold).T
        options = {"l2": l2, "alpha": alpha, "threshold": threshold}
        assert relative(slim.implicit_slim(table, clicks, **options).numpy(), expected) < 1e-8
        rounded = table.float()
        new = slim.implicit_slim(rounded, clicks, **options)
        expected = oracles_slim.minimiser(rounded.double().numpy().T, x, l2, alpha, threshold).T
        assert new.dtype == torch.float32
        assert relative(new.numpy(), expected) < 1e-6
        assert torch.equal(rounded, table.float())  # what it was given is as it was


def test_turning_and_scaling_the_embeddings():
    """V(WQ) = V(W) Q for a rotation Q, and V(cW) with alpha / c^2 is c V(W)."""
    clicks, table = Clicks(popular_clicks()), torch.from_numpy(embeddings(60, 7))
    turn = torch.linalg.qr(torch.from_numpy(embeddings(7, 7, seed=3)))[0]
    new = slim.implicit_slim(table, clicks, l2=20.0, alpha=2.0, threshold=10)
    turned = slim.implicit_slim(table @ turn, clicks, l2=20.0, alpha=2.0, threshold=10)
    torch.testing.assert_close(turned, new @ turn, rtol=1e-7, atol=1e-9)
    scaled = slim.implicit_slim(3 * table, clicks, l2=20.0, alpha=2.0 / 9, threshold=10)
    torch.testing.assert_close(scaled, 3 * new, rtol=1e-7, atol=1e-9)


def test_nothing_of_size_items_by_items_or_users_by_items_is_made(monkeypatch):
    monkeypatch.setattr(slim, "USERS_AT_ONCE", 100)
    clicks = Clicks(random_clicks(1000, 800, 0.01))
    with LargestTensor() as largest:
        slim.implicit_slim(torch.ones(800, 4).cumsum(0), clicks, l2=20.0, alpha=1.0, threshold=0)
    assert largest.elements <= 800 * 4, (largest.shape, largest.operation)


@pytest.mark.parametrize("name", ["bf16", "tf32"])
def test_the_precision_of_training_is_not_its_own(name):
    clicks, table = Clicks(popular_clicks()), torch.from_numpy(embeddings(60, 7)).float()
    plain = slim.implicit_slim(table, clicks, l2=20.0, alpha=1.0, threshold=10)
    with precision(name):
        assert torch.equal(slim.implicit_slim(table, clicks, l2=20.0, alpha=1.0, threshold=10), plain)


def test_a_threshold_that_no_item_reaches_is_refused_before_the_first_epoch():
    most = int(BOARD.sum(0).max())
    reports = []
    for name in ("recvae", "mult-vae"):
        wrong = model(name, slim_every=3, slim_threshold=most + 1)
        with pytest.raises(InputError, match=rf"slim_threshold={most + 1} clicks; the most clicked has {most}\."):
            wrong.fit(BOARD, on_epoch=reports.append)
        model(name, slim_every=1, slim_threshold=most, epochs=1).fit(BOARD)
    assert reports == []


def test_embeddings_that_are_not_finite_are_named():
    table = torch.full((60, 3), torch.nan)
    with pytest.raises(WorkError, match=r"learning_rate"):
        slim.implicit_slim(table, Clicks(popular_clicks()), l2=1.0, alpha=1.0, threshold=0)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_schedule(name, monkeypatch):
    """Before the first updates of the epochs that (epoch + 1) % every == 0 names, from 0, and at no other time."""
    network = NETWORKS[name]()
    clicks = Clicks(BOARD)
    loop = _Loop(network, clicks, TrainOptions(epochs=5, batch_size=16), 1, Hooks())
    begin, seen = network.begin_phase, []

    def watched(phase, epoch, *arguments):
        before, moments = tables_of(network), {k: v.clone() for k, v in loop.state().tensors.items() if "adam" in k}
        others = {k: v.clone() for k, v in network.state_dict().items()}
        begin(phase, epoch, *arguments)
        changed = {k for k, v in network.state_dict().items() if not torch.equal(v, others[k])}
        seen.append((phase, epoch, len(changed)))
        for key, new in tables_of(network).items() if changed else ():
            expected = oracles_slim.minimiser(before[key].double().numpy().T, BOARD.toarray(), 5.0, 1.0, 15).T
            assert relative(new.numpy(), expected) < 1e-6
        assert equal(moments, {k: v for k, v in loop.state().tensors.items() if "adam" in k})

    monkeypatch.setattr(network, "begin_phase", watched)
    while not loop.finished:
        loop.epoch()
    phases = [phase.name for phase in network.phases()]
    assert seen == [(phase, e, 2 if e in (1, 3) and phase == phases[0] else 0) for e in range(5) for phase in phases]


def test_its_settings_are_shown_where_it_is_on():
    off, on = (settings_line(model("recvae", **more).config.to_dict()["model"]) for more in ({}, SLIM))
    assert "slim" not in off
    assert on.startswith("slim_every=2 slim_l2=5.0 slim_alpha=1.0 slim_threshold=15 ")


def test_it_is_off_unless_asked_for():
    for name in ("recvae", "mult-vae"):
        plain = model(name, epochs=3).fit(BOARD).tensors()
        assert equal(plain, model(name, epochs=3, slim_l2=3.0, slim_alpha=9.0, slim_threshold=99).fit(BOARD).tensors())
        assert not equal(plain, model(name, epochs=3, slim_every=3).fit(BOARD).tensors())


@pytest.mark.parametrize("room", [True, False])
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_the_old_posterior_is_that_of_the_encoder_before_the_replacement(variant, room, monkeypatch):
    if not room:
        monkeypatch.setattr("recvae.nn.priors.TABLE_VALUES", 0)
    batch, clicks = Batch.of(BOARD), Clicks(BOARD)
    network = NETWORKS["recvae"](variant=variant)
    network.begin_phase("decoder", 0, clicks, 16)
    before = torch.cat(network.posterior(batch), 1)
    network.begin_phase("encoder", 1, clicks, 16)
    assert not torch.allclose(torch.cat(network.posterior(batch), 1), before, rtol=1e-3)
    torch.testing.assert_close(torch.cat(network.latent_prior.kept_posterior(batch), 1), before)


class StoppedError(Exception):
    """An end of the process, as far as a test without one can have it."""


@pytest.mark.parametrize(
    ("name", "room", "stop_at"),
    [("recvae", True, 1), ("recvae", True, 2), ("recvae", False, 1), ("mult-vae", True, 1)],
    ids=["table", "table, an epoch later", "encoder", "mult-vae"],
)
def test_resume_is_exact(name, room, stop_at, tmp_path, monkeypatch):
    """Stopped in the epoch that began with a replacement, or in the next, a run ends as an unbroken one does."""
    if not room:
        monkeypatch.setattr("recvae.nn.priors.TABLE_VALUES", 0)

    def stop(done, total):
        if len(reports) == stop_at and done == total // 2:
            raise StoppedError

    reports = []
    whole = model(name, epochs=3, **SLIM).fit(BOARD).tensors()
    with pytest.raises(StoppedError):
        model(name, epochs=3, **SLIM).fit(BOARD, folder=tmp_path / "run", on_step=stop, on_epoch=reports.append)
    resumed = model(name, epochs=3, **SLIM).fit(BOARD, folder=tmp_path / "run", resume=True)
    assert equal(whole, resumed.tensors())


@pytest.mark.gpu
def test_the_device_gives_what_the_cpu_gives_and_the_same_bits_again():
    x, table = popular_clicks(users=5000), torch.from_numpy(embeddings(60, 7)).float()
    here = slim.implicit_slim(table, Clicks(x), l2=20.0, alpha=1.0, threshold=10)
    clicks = Clicks(x, "cuda")
    there, again = (slim.implicit_slim(table.cuda(), clicks, l2=20.0, alpha=1.0, threshold=10) for _ in range(2))
    torch.testing.assert_close(there.cpu(), here, rtol=1e-5, atol=1e-6)
    assert torch.equal(there, again)
