"""The loop: phases, validation, early stopping, divergence, interruption, exact resume."""

import json
from pathlib import Path

import numpy as np
import oracles
import pytest
import torch
from conftest import checkerboard, random_clicks

import recvae
from recvae import checkpoint
from recvae.batches import Clicks
from recvae.errors import FormatError, InputError, WorkError
from recvae.models.base import ClickLinear
from recvae.models.mult import MultDAENetwork, MultDAEOptions
from recvae.models.recvae import RecVAENetwork, RecVAEOptions
from recvae.training import Hooks, TrainOptions, _Loop, train

BOARD = checkerboard()
SETTINGS = {
    "recvae": {"hidden": 12, "latent": 6, "batch_size": 16, "learning_rate": 0.01},
    "mult-vae": {"hidden": (12,), "latent": 6, "batch_size": 16, "anneal_updates": 60},
    "mult-dae": {"latent": 6, "batch_size": 16, "l2": 0.01},
}
KINDS = {"recvae": recvae.RecVAE, "mult-vae": recvae.MultVAE, "mult-dae": recvae.MultDAE}


def model(name, **more):
    return KINDS[name](**{**SETTINGS[name], "epochs": 6, "seed": 4, "device": "cpu", **more})


def bits(tensors):
    return {name: value.clone() for name, value in tensors.items()}


def equal(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


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
        loss = plain.loss("all", clicks.all(), 0.0, None).total
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
                model.network.first.weight.fill_(torch.inf)
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


class StoppedError(Exception):
    """An end of the process, as far as a test without one can have it."""


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("stop_at", [1, 3, 5])
def test_resume_is_exact(name, stop_at, tmp_path):
    """Stopped in the middle of an epoch and resumed, a run ends with the weights and metrics of an unbroken one."""
    held_out = random_clicks(60, 40, 0.2, seed=9)

    def validation(model):
        return float(model.recommend(held_out, k=5)[1].mean())

    def stop(done, total):
        if len(reports) == stop_at and done == total // 2:
            raise StoppedError

    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    unbroken = model(name).fit(BOARD, validation=validation, folder=whole)
    reports = []
    with pytest.raises(StoppedError):
        model(name).fit(BOARD, validation=validation, folder=resumed, on_step=stop, on_epoch=reports.append)
    continued = model(name).fit(BOARD, validation=validation, folder=resumed, resume=True)
    assert equal(unbroken.tensors(), continued.tensors())
    assert continued.best_epoch == unbroken.best_epoch
    for file in (checkpoint.WEIGHTS, checkpoint.RUN, checkpoint.ITEMS):
        assert (whole / file).read_bytes() == (resumed / file).read_bytes(), file
    states = [checkpoint.read_state(folder)[0].tensors for folder in (whole, resumed)]
    assert equal(*states)
    rows = [[{**row, "seconds": 0} for row in checkpoint.read_metrics(folder)] for folder in (whole, resumed)]
    assert rows[0] == rows[1]
    assert [row["epoch"] for row in rows[0]] == [1, 2, 3, 4, 5, 6]


def test_resume_starts_where_there_is_nothing_and_stops_where_all_is_done(tmp_path):
    one = model("mult-dae").fit(BOARD, folder=tmp_path / "run", resume=True)
    reports = []
    two = model("mult-dae").fit(BOARD, folder=tmp_path / "run", resume=True, on_epoch=reports.append)
    assert reports == []
    assert equal(one.tensors(), two.tensors())


def test_a_finished_run_can_go_on_for_more_epochs(tmp_path):
    longer = model("recvae", epochs=9).fit(BOARD)
    model("recvae", epochs=6).fit(BOARD, folder=tmp_path / "run")
    continued = model("recvae", epochs=9).fit(BOARD, folder=tmp_path / "run", resume=True)
    assert equal(longer.tensors(), continued.tensors())


@pytest.mark.parametrize("name", KINDS)
def test_an_interrupted_extension_is_exact_too(name, tmp_path):
    """Six epochs, extended to twelve, stopped in the eighth, resumed: as twelve in one go."""
    scores = {n: (n * 7 % 5) / 10 for n in range(1, 13)}

    def validation_of(count):
        def validation(_):
            count.append(1)
            return scores[len(count) + done]

        return validation

    def fit(folder, epochs, stop_after=None):
        def check(report):
            if report.epoch == stop_after:
                raise StoppedError

        return model(name, epochs=epochs, patience=9).fit(
            BOARD, validation=validation_of([]), folder=tmp_path / folder, resume=True, on_epoch=check
        )

    done = 0
    whole = fit("whole", 12)
    fit("run", 6)
    done = 6
    with pytest.raises(StoppedError):
        fit("run", 12, stop_after=8)
    assert checkpoint.read_run(tmp_path / "run").config["train"]["epochs"] == 12
    done = 8
    continued = fit("run", 12)
    assert equal(whole.tensors(), continued.tensors())
    for file in (checkpoint.WEIGHTS, checkpoint.RUN):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "run" / file).read_bytes()


def test_annealing_over_a_share_of_the_run_cannot_be_extended(tmp_path):
    model("mult-vae", anneal="share").fit(BOARD, folder=tmp_path / "run")
    with pytest.raises(InputError, match="share of its 6 epochs"):
        model("mult-vae", anneal="share", epochs=9).fit(BOARD, folder=tmp_path / "run", resume=True)


class KilledError(BaseException):
    """The end of the process at a rename: nothing may tidy up, so what the code does on the way out is undone."""


@pytest.mark.slow
@pytest.mark.parametrize("begin", ["empty", "overwrite"])
def test_every_crash_point(begin, tmp_path, monkeypatch):
    """Cut off at the n-th rename, for every n, a run resumes to the same bits and leaves nothing unfinished behind."""
    import shutil

    def fit(folder, **more):
        return model("mult-dae", epochs=2).fit(BOARD, folder=folder, **more)

    whole = fit(tmp_path / "whole").tensors()
    rename, rmtree = Path.replace, shutil.rmtree
    for n in range(1, 40):
        folder = tmp_path / f"run{n}"
        if begin == "overwrite":
            model("mult-dae", epochs=1, seed=9).fit(BOARD, folder=folder)
        left = n

        def killed(*arguments):
            nonlocal left
            left -= 1
            if left <= 0:
                raise KilledError
            return rename(*arguments)

        def removed(*arguments, **options):
            if left > 0:  # noqa: B023 - called in this round only
                rmtree(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", killed)
            patch.setattr(Path, "rename", killed)
            patch.setattr(Path, "unlink", lambda *_, **__: None)  # a dead process deletes nothing
            patch.setattr(shutil, "rmtree", removed)
            try:
                fit(folder, overwrite=begin == "overwrite")
                ended = True
            except KilledError:
                ended = False
        if ended:
            break
        if begin == "overwrite" and (folder / checkpoint.WEIGHTS).is_file() and recvae.load(folder).config.seed == 9:
            continue  # killed before the old run was set aside: it is whole
        again = fit(folder, resume=True).tensors()
        assert equal(whole, again), n
        assert equal(whole, recvae.load(folder, "cpu").tensors())
        assert not list(folder.rglob("*.part")), n
    assert n > 8


def test_a_failed_overwrite_gives_the_earlier_run_its_place_again(tmp_path):
    before = model("mult-dae").fit(BOARD, folder=tmp_path / "run").tensors()
    with pytest.raises(WorkError, match="inf"):
        model("mult-dae", seed=8).fit(BOARD, folder=tmp_path / "run", overwrite=True, validation=lambda _: float("inf"))
    assert equal(before, recvae.load(tmp_path / "run", "cpu").tensors())
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_resume_names_weights_that_are_gone(tmp_path):
    model("mult-dae", epochs=2).fit(BOARD, folder=tmp_path / "run")
    (tmp_path / "run" / checkpoint.WEIGHTS).unlink()
    with pytest.raises(FormatError, match="missing"):
        model("mult-dae", epochs=4).fit(BOARD, folder=tmp_path / "run", resume=True)


def test_resume_refuses_another_device_and_another_matrix(tmp_path):
    model("mult-dae", epochs=2).fit(BOARD, folder=tmp_path / "run")
    with pytest.raises(InputError, match="other clicks"):
        model("mult-dae", epochs=2).fit(checkerboard(seed=8), folder=tmp_path / "run", resume=True)
    state, facts = checkpoint.read_state(tmp_path / "run")
    state.values["device"] = "cuda"
    checkpoint.write_state(tmp_path / "run", state, facts)
    with pytest.raises(InputError, match="--device cuda"):
        model("mult-dae", epochs=2).fit(BOARD, folder=tmp_path / "run", resume=True)


@pytest.mark.parametrize("name", ["recvae", "mult-vae"])
def test_a_whole_run_with_dense_batches_equals_the_sparse_one(name, tmp_path, monkeypatch):
    """The path of other devices, on the CPU: buffers reused between steps and across validations, and exact resume."""
    held_out = random_clicks(90, 40, 0.2, seed=9)  # larger than a training batch: the buffer grows in between

    def fit(**more):
        return model(name, **more).fit(
            BOARD, validation=lambda m: float(m.recommend(held_out, k=5)[0].mean()), folder=tmp_path / str(len(runs))
        )

    runs = []
    runs.append(fit(epochs=3).tensors())
    monkeypatch.setattr(ClickLinear, "forward", ClickLinear.multiplied)
    runs.append(fit(epochs=3).tensors())
    runs.append(fit(epochs=3).tensors())
    for key, value in runs[0].items():
        torch.testing.assert_close(value, runs[1][key], rtol=1e-3, atol=1e-5)
    assert equal(runs[1], runs[2])


def test_no_gradient_outlives_training():
    fitted = model("recvae", epochs=1).fit(BOARD)
    assert all(parameter.grad is None for parameter in fitted.network.parameters())


def test_resume_refuses_other_settings_and_other_items(tmp_path):
    model("mult-dae").fit(BOARD, folder=tmp_path / "run")
    with pytest.raises(InputError, match=r"train\.learning_rate=0\.001"):
        model("mult-dae", learning_rate=0.5).fit(BOARD, folder=tmp_path / "run", resume=True)
    with pytest.raises(InputError, match="another dataset"):
        model("mult-dae").fit(BOARD[:, :39], folder=tmp_path / "run", resume=True)
    with pytest.raises(InputError, match="mult-dae"):
        model("recvae").fit(BOARD, folder=tmp_path / "run", resume=True)


def test_an_existing_folder_is_refused_or_replaced_if_it_is_a_run(tmp_path):
    folder = tmp_path / "run"
    model("mult-dae").fit(BOARD, folder=folder)
    with pytest.raises(InputError, match="exists already"):
        model("mult-dae").fit(BOARD, folder=folder)
    model("mult-dae", epochs=1).fit(BOARD, folder=folder, overwrite=True)
    assert len(checkpoint.read_metrics(folder)) == 1
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "letter.txt").write_text("do not lose me")
    with pytest.raises(InputError, match="not replaced"):
        model("mult-dae").fit(BOARD, folder=precious, overwrite=True)
    assert (precious / "letter.txt").exists()


def test_a_damaged_run_folder_is_named(tmp_path):
    folder = tmp_path / "run"
    model("mult-dae", epochs=1).fit(BOARD, folder=folder)
    whole = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def damaged(file, data, said):
        (folder / file).write_bytes(data)
        with pytest.raises(FormatError, match=said) as error:
            recvae.load(folder)
        assert Path(file).name in str(error.value)
        assert "\n" not in str(error.value)
        (folder / file).write_bytes(whole[folder / file])

    weights = whole[folder / checkpoint.WEIGHTS]
    damaged(checkpoint.WEIGHTS, weights[:-10], "truncated")
    damaged(checkpoint.WEIGHTS, weights[:-10] + b"0123456789", "altered")
    damaged(checkpoint.WEIGHTS, b"", "truncated")
    run = json.loads(whole[folder / checkpoint.RUN])
    damaged(checkpoint.RUN, whole[folder / checkpoint.RUN][:40], "damaged")
    damaged(checkpoint.RUN, json.dumps({**run, "format": 99}).encode(), "version 99")
    damaged(checkpoint.RUN, json.dumps({**run, "kind": "cake"}).encode(), "does not describe")
    damaged(checkpoint.RUN, json.dumps({**run, "more": 1}).encode(), "altered")
    damaged(checkpoint.RUN, json.dumps({**run, "config": None}).encode(), "altered")
    damaged(checkpoint.RUN, json.dumps({**run, "config": {**run["config"], "seed": "x"}}).encode(), "seed")
    damaged(checkpoint.ITEMS, b"index,item_id,title\n0,x,\n", "altered")
    damaged(checkpoint.ITEMS, whole[folder / checkpoint.ITEMS].replace(b"\n7,7,", b"\n7,7,A Title"), "altered")
    damaged(checkpoint.ITEMS, b"\xff\xfe", "cannot be read")
    (folder / checkpoint.WEIGHTS).unlink()
    with pytest.raises(FormatError, match="missing"):
        recvae.load(folder)
    with pytest.raises(FormatError, match="not a run folder"):
        recvae.load(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        recvae.load(tmp_path / "nowhere")
