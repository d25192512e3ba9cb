"""The log of training, and the guide's recipes for MLflow and TensorBoard."""

import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from conftest import checkerboard

import recvae
from eval import validator
from recvae.errors import InputError

GUIDE = Path(__file__).resolve().parents[2] / "docs/guide.md"
SMALL = {"epochs": 2, "hidden": (8,), "latent": 4, "seed": 1, "device": "cpu", "dropout": 0.3}


class Kept:
    def __init__(self, fails_at=None):
        self.calls, self.fails_at = [], fails_at

    def begin(self, options):
        self.calls.append(("begin", dict(options)))

    def epoch(self, number, values):
        self.calls.append(("epoch", number, dict(values)))
        if number == self.fails_at:
            raise RuntimeError("the tracking server is away")

    def end(self, finished):
        self.calls.append(("end", finished))


def halves():
    board = checkerboard().tolil()
    shown, wanted = board.copy(), board.copy()
    shown[:, 20:] = 0
    wanted[:, :20] = 0
    return shown.tocsr(), wanted.tocsr()


def test_a_log_has_the_options_and_each_epochs_figures(tmp_path):
    kept, reports = Kept(), []
    model = recvae.MultVAE(**SMALL)
    model.fit(checkerboard(), validation=validator(*halves(), "ndcg@10"), log=kept, on_epoch=reports.append)
    (_, options), first, second, last = kept.calls
    assert last == ("end", True)
    assert options["name"] == "mult-vae"
    assert (options["seed"], options["model.latent"], options["train.epochs"]) == (1, 4, 2)
    assert options["model.hidden"] in ("[8]", "(8,)")
    assert options["train.batch_size"] == model.config.train.batch_size  # which followed the data
    assert all(value is None or isinstance(value, str | int | float | bool) for value in options.values())
    for (_, number, values), report in zip((first, second), reports, strict=True):
        assert number == report.epoch
        assert values["validation"] == report.score
        assert values["seconds"] == report.seconds
        phase, losses = next(iter(report.phases.items()))
        assert values[f"{phase}/loss"] == losses["loss"]
        assert all(isinstance(value, float) for value in values.values())
    plain = recvae.MultVAE(**SMALL).fit(checkerboard(), validation=validator(*halves(), "ndcg@10"))
    assert all((plain.tensors()[name] == tensor).all() for name, tensor in model.tensors().items())

    kept = Kept()
    recvae.MultVAE(**SMALL).fit(checkerboard(), folder=tmp_path / "run", log=kept)
    assert "validation" not in kept.calls[1][2]


def test_an_error_ends_the_training_and_closes_the_log():
    kept = Kept(fails_at=1)
    with pytest.raises(RuntimeError, match="away"):
        recvae.MultDAE(**SMALL).fit(checkerboard(), log=kept)
    assert [call[0] for call in kept.calls] == ["begin", "epoch", "end"]
    assert kept.calls[-1] == ("end", False)
    kept = Kept()

    def stop(report):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recvae.MultDAE(**SMALL).fit(checkerboard(), log=kept, on_epoch=stop)
    assert kept.calls[-1] == ("end", False)


def test_another_object_is_refused_before_any_work():
    for log, missing in ((print, "begin"), (SimpleNamespace(begin=print), "epoch")):
        with pytest.raises(InputError, match=f"begin, epoch and end, and .* has no {missing}"):
            recvae.MultDAE(**SMALL).fit(checkerboard(), log=log)


def recipe(name, monkeypatch, module):
    """Run a recipe of the guide with a stand-in for the module it imports."""
    text = GUIDE.read_text("utf-8").split("### A log of training")[1]
    block = next(b for b in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL) if name in b)
    monkeypatch.setitem(sys.modules, name, module)
    shown, wanted = halves()
    data = SimpleNamespace(train=checkerboard(), validation_in=shown, validation_out=wanted)
    exec(block, {"model": recvae.MultVAE(**SMALL), "data": data, "validator": validator})  # noqa: S102 - the page's code


def test_the_recipe_for_mlflow(monkeypatch):
    calls, mlflow = [], ModuleType("mlflow")
    mlflow.start_run = lambda: calls.append("start")
    mlflow.log_params = lambda options: calls.append(options["model.latent"])
    mlflow.log_metrics = lambda values, step: calls.append((step, sorted(values)[-1]))
    mlflow.end_run = lambda status: calls.append(status)
    recipe("mlflow", monkeypatch, mlflow)
    assert calls == ["start", 4, (1, "validation"), (2, "validation"), "FINISHED"]


def test_the_recipe_for_tensorboard(monkeypatch):
    calls, module = [], ModuleType("torch.utils.tensorboard")

    class SummaryWriter:
        def __init__(self, folder):
            calls.append(folder)

        def add_text(self, tag, text):
            calls.append(text.count("model.latent = 4"))

        def add_scalar(self, tag, value, step):
            calls.extend([step] * (tag == "validation"))

        def close(self):
            calls.append("closed")

    module.SummaryWriter = SummaryWriter
    recipe("torch.utils.tensorboard", monkeypatch, module)
    assert calls == ["runs/board", 1, 1, 2, "closed"]
