"""The loop: phases, validation, early stopping, divergence, interruption."""

import numpy as np
import oracles
import pytest
import torch
from conftest import random_clicks
from small_models import BOARD, KINDS, bits, equal, model

import recvae
from recvae.errors import WorkError
from recvae.models.mult import MultDAENetwork, MultDAEOptions
from recvae.models.recvae import RecVAENetwork, RecVAEOptions
from recvae.nn.batches import Clicks
from recvae.nn.layers import ClickLinear
from recvae.training.loop import Hooks, TrainOptions, _Loop, train


def test_recvae_phases_leave_the_other_half_bit_identical():
    network = RecVAENetwork(40, RecVAEOptions(hidden=12, latent=6), seed=1)
    clicks = Clicks(BOARD)
    loop = _Loop(network, clicks, TrainOptions(epochs=1, batch_size=16), 1, Hooks())
    for name, trained, frozen in (
        ("encoder", network.encoder, network.decoder),
        ("decoder", network.decoder, network.encoder),
    ):
        before = bits(trained.state_dict()), bits(frozen.state_dict())
        loop.phases = tuple(phase for phase in network.phases() if phase.name == name)
        loop.epoch()
        assert equal(before[1], frozen.state_dict())
        assert not any(torch.equal(before[0][key], value) for key, value in trained.state_dict().items())


def test_an_epoch_has_the_papers_passes():
    network = RecVAENetwork(40, RecVAEOptions(hidden=12, latent=6), seed=1)
    steps = []
    hooks = Hooks(on_step=lambda done, total: steps.append((done, total)))
    report = train(network, Clicks(BOARD), TrainOptions(epochs=2, batch_size=16), seed=1, hooks=hooks)
    assert steps[:16] == [(n, 16) for n in range(1, 17)]  # 4 batches x (3 encoder passes + 1 decoder pass)
    assert report.step == 32
    assert report.phases.keys() == {"encoder", "decoder"}
    assert "kl" not in report.phases["decoder"]


def test_the_reported_loss_is_the_mean_over_users_whatever_the_batches():
    network = MultDAENetwork(40, MultDAEOptions(latent=6, dropout=0.0, l2=0.0), seed=1)
    layers = [(network.first.weight.T, network.first.bias), (network.decoder[0].weight, network.decoder[0].bias)]
    layers = [tuple(p.detach().double().numpy().copy() for p in layer) for layer in layers]
    options = TrainOptions(epochs=1, batch_size=17, learning_rate=1e-12)  # weights as good as fixed
    report = train(network, Clicks(BOARD), options, seed=1)
    x = BOARD.toarray().astype(float)
    logits = oracles.mult_dae_logits(x, np.ones_like(x), layers)
    assert report.phases["all"]["nll"] == pytest.approx(oracles.multinomial_nll(logits, x).mean(), rel=1e-5)


def test_l2_is_the_gradient_of_lambda_times_the_sum_of_squares():
    """One Adam update from equal weights: through weight decay as we do it, and through the loss as the paper does."""

    def network():
        return MultDAENetwork(40, MultDAEOptions(latent=6, dropout=0.0, l2=0.03), seed=1)

    ours, plain = network(), network()
    clicks, options = Clicks(BOARD), TrainOptions(epochs=3, batch_size=60)
    train(ours, clicks, options, seed=1)
    adam = torch.optim.Adam(plain.parameters(), lr=options.learning_rate)
    for _ in range(3):
        adam.zero_grad()
        loss = plain.loss("all", next(clicks.in_order(len(clicks))), 0.0, None).total
        loss = loss + 0.03 * sum(p.square().sum() for name, p in plain.named_parameters() if name.endswith("weight"))
        loss.backward()
        adam.step()
    for one, two in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)
    unregularised = MultDAENetwork(40, MultDAEOptions(latent=6, dropout=0.0, l2=0.0), seed=1)
    train(unregularised, clicks, options, seed=1)
    assert not torch.allclose(unregularised.first.weight, ours.first.weight, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", KINDS)
def test_the_best_epochs_weights_are_kept(name, tmp_path):
    scores = iter([0.1, 0.5, 0.3, 0.5, 0.2, 0.4])  # a later equal score is no new best
    kept = []

    def validation(model):
        kept.append(bits(model.tensors()))
        return next(scores)

    for folder in (None, tmp_path / "run"):
        scores, kept = iter([0.1, 0.5, 0.3, 0.5, 0.2, 0.4]), []
        fitted = model(name).fit(BOARD, validation=validation, folder=folder)
        assert fitted.best_epoch == 2
        assert fitted.metrics == {"validation": 0.5}
        assert equal(fitted.tensors(), kept[1])
    assert equal(recvae.load(tmp_path / "run", "cpu").tensors(), kept[1])


def test_without_validation_the_last_epochs_weights_are_kept(tmp_path):
    fitted = model("mult-vae").fit(BOARD, folder=tmp_path / "run")
    assert fitted.best_epoch == 6
    assert equal(recvae.load(tmp_path / "run", "cpu").tensors(), fitted.tensors())


def test_early_stopping():
    reports = []
    scores = iter([0.1, 0.5, 0.3, 0.5, 0.2, 0.4])
    model("mult-dae", patience=2).fit(BOARD, validation=lambda _: next(scores), on_epoch=reports.append)
    assert [r.epoch for r in reports] == [1, 2, 3, 4]
    assert [r.best for r in reports] == [True, True, False, False]


def test_stopping_after_some_epochs_leaves_the_schedules_alone(tmp_path):
    """Four epochs of a run of six are the first four, also where beta and the learning rate depend on the six."""
    schedules = {"anneal": "share", "decay": "cosine"}
    trajectory = []
    model("mult-vae", **schedules).fit(BOARD, validation=lambda m: trajectory.append(bits(m.tensors())) or 0.5)
    for folder in (None, tmp_path / "run"):
        stopped = model("mult-vae", **schedules, stop_after=4).fit(BOARD, folder=folder)
        assert stopped.best_epoch == 4
        assert equal(stopped.tensors(), trajectory[3])
    shorter = model("mult-vae", **schedules, epochs=4).fit(BOARD)
    assert not equal(shorter.tensors(), trajectory[3])


@pytest.mark.parametrize("name", KINDS)
def test_the_average_is_the_running_mean_of_the_epochs_weights(name, tmp_path):
    """It is what is validated and kept, and the weights that are trained do not feel it."""
    plain, averaged = [], []
    model(name).fit(BOARD, validation=lambda m: plain.append(bits(m.tensors())) or len(plain))
    fitted = model(name, average=0.6).fit(
        BOARD, validation=lambda m: averaged.append(bits(m.tensors())) or len(averaged), folder=tmp_path / "run"
    )
    for key in plain[0]:
        mean = np.zeros(plain[0][key].shape)
        for epoch, weights in enumerate(plain, start=1):
            share = max(0.4, 1 / epoch)
            mean += share * (weights[key].double().numpy() - mean)
            np.testing.assert_allclose(averaged[epoch - 1][key], mean, rtol=1e-5, atol=1e-7)
    assert equal(fitted.tensors(), averaged[-1])
    assert equal(recvae.load(tmp_path / "run", "cpu").tensors(), averaged[-1])
    assert equal(model(name, average=0.6).fit(BOARD).tensors(), averaged[-1])  # in memory, without validation


def test_an_average_is_kept_where_the_last_epochs_report_is_interrupted():
    validated = []

    def stop(report):
        if report.epoch == 6:
            raise KeyboardInterrupt

    stopped = model("mult-dae", average=0.6)
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(BOARD, validation=lambda m: validated.append(bits(m.tensors())) or len(validated), on_epoch=stop)
    assert stopped.best_epoch == 6
    assert equal(stopped.tensors(), validated[5])


def test_the_learning_rate_falls_along_half_a_cosine():
    network = MultDAENetwork(40, MultDAEOptions(latent=6), seed=1)
    options = TrainOptions(epochs=5, batch_size=16, learning_rate=0.02, decay="cosine")
    rates = []
    hooks = Hooks(on_step=lambda done, total: rates.append(loop.optimisers["all"].param_groups[0]["lr"]))
    loop = _Loop(network, Clicks(BOARD), options, 1, hooks)
    while not loop.finished:
        loop.epoch()
    expected = 0.01 * (1 + np.cos(np.pi * np.arange(20) / 20))  # 4 batches an epoch
    np.testing.assert_allclose(rates, expected, rtol=1e-12)


def test_validate_every():
    reports = []
    model("mult-dae", validate_every=4).fit(BOARD, validation=lambda _: 1.0, on_epoch=reports.append)
    assert [r.score for r in reports] == [None, None, None, 1.0, None, 1.0]


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_best(tmp_path):
    steady = model("mult-vae").fit(BOARD, validation=lambda _: 0.5)
    wild = model("mult-vae")

    def validation(model):
        if wild.epoch == 3:
            with torch.no_grad():
                model.network.first.weight.fill_(torch.nan)
        return 0.5

    def count(report):
        wild.epoch = report.epoch + 1

    wild.epoch = 1
    with pytest.raises(WorkError, match=r"epoch 4 .*learning_rate"):
        wild.fit(BOARD, validation=validation, on_epoch=count, folder=tmp_path / "run")
    assert equal(recvae.load(tmp_path / "run", "cpu").tensors(), steady.tensors())  # epoch 1 of both
    assert wild.best_epoch == 1


def test_ctrl_c_keeps_the_best_model(tmp_path):
    scores = iter([0.1, 0.9, 0.2])

    def validation(_):
        try:
            return next(scores)
        except StopIteration:
            raise KeyboardInterrupt from None

    stopped = model("recvae")
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(BOARD, validation=validation, folder=tmp_path / "run")
    kept = recvae.load(tmp_path / "run", "cpu")
    assert kept.best_epoch == stopped.best_epoch == 2
    assert equal(kept.tensors(), stopped.tensors())
    ids, _ = stopped.recommend(BOARD, k=3)
    assert (ids >= 0).all()


@pytest.mark.parametrize("name", ["recvae", "mult-vae"])
def test_a_whole_run_with_dense_batches_equals_the_sparse_one(name, tmp_path, monkeypatch):
    """The path of other devices, on the CPU: buffers reused between steps and across validations, and exact resume."""
    held_out = random_clicks(90, 40, 0.2, seed=9)  # larger than a training batch: the buffer grows in between

    def fit(**more):
        return model(name, **more).fit(
            BOARD, validation=lambda m: float(m.recommend(held_out, k=5).ids.mean()), folder=tmp_path / str(len(runs))
        )

    runs = []
    runs.append(fit(epochs=3).tensors())
    monkeypatch.setattr(ClickLinear, "forward", ClickLinear.multiplied)
    runs.append(fit(epochs=3).tensors())
    runs.append(fit(epochs=3).tensors())
    for key, value in runs[0].items():
        torch.testing.assert_close(value, runs[1][key], rtol=1e-3, atol=1e-5)
    assert equal(runs[1], runs[2])


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_without_room_for_a_table_the_old_encoder_runs_and_nothing_else_changes(variant, tmp_path, monkeypatch):
    """More users than the table of old posteriors has room for, and resumed in between."""
    with_table = model("recvae", variant=variant).fit(BOARD).tensors()
    monkeypatch.setattr("recvae.nn.priors.TABLE_VALUES", 0)
    whole = model("recvae", variant=variant).fit(BOARD)
    assert whole.tensors().keys() == with_table.keys()
    for name, value in whole.tensors().items():
        torch.testing.assert_close(value, with_table[name], rtol=1e-3, atol=1e-5)

    def stop(report):
        if report.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model("recvae", variant=variant).fit(BOARD, folder=tmp_path / "run", on_epoch=stop)
    resumed = model("recvae", variant=variant).fit(BOARD, folder=tmp_path / "run", resume=True)
    assert equal(whole.tensors(), resumed.tensors())


@pytest.mark.parametrize("name", ["recvae", "mult-vae", "mult-dae"])
def test_bf16_products_train_to_nearly_the_same_weights(name):
    exact, rounded = (model(name, precision=p, epochs=3).fit(BOARD) for p in ("float32", "bf16"))
    assert not equal(exact.tensors(), rounded.tensors())
    scores = [m.recommend(BOARD, k=5).scores for m in (exact, rounded)]
    np.testing.assert_allclose(scores[0], scores[1], atol=0.2)


def test_nothing_of_an_interrupted_step_is_left(monkeypatch):
    fitted = model("mult-vae", epochs=1).fit(BOARD)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.optim.Adam, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(fitted.network, Clicks(BOARD), TrainOptions(epochs=1, batch_size=16), seed=1)
    assert all(parameter.grad is None for parameter in fitted.network.parameters())


def test_no_gradient_outlives_training():
    fitted = model("recvae", epochs=1).fit(BOARD)
    network = fitted.network
    assert all(parameter.grad is None for parameter in network.parameters())
    # Nor the memory that gradients and old posteriors had.
    assert network.encoder.first.memory._buffer is None
    assert network.output.memory._buffer is None
    assert network.latent_prior.table is None
