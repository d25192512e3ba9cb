"""Runs that stop and go on: exact resume, every crash point, and run folders that are refused."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import checkerboard, random_clicks
from sealing import reseal
from small_models import BOARD, KINDS, equal, model

import recvae
from recvae.errors import FormatError, InputError, OtherMachineWarning
from recvae.files import swap
from recvae.training import run_folder, versions


class StoppedError(Exception):
    """An end of the process, as far as a test without one can have it."""


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("stop_at", [1, 3, 5])
@pytest.mark.parametrize("more", [{}, {"average": 0.7, "decay": "cosine"}], ids=["plain", "averaged"])
def test_resume_is_exact(name, stop_at, more, tmp_path):
    """Stopped in the middle of an epoch and resumed, a run ends with the weights and metrics of an unbroken one."""
    held_out = random_clicks(60, 40, 0.2, seed=9)

    def validation(model):
        return float(model.recommend(held_out, k=5).scores.mean())

    def stop(done, total):
        if len(reports) == stop_at and done == total // 2:
            raise StoppedError

    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    unbroken = model(name, **more).fit(BOARD, validation=validation, folder=whole)
    reports = []
    with pytest.raises(StoppedError):
        model(name, **more).fit(BOARD, validation=validation, folder=resumed, on_step=stop, on_epoch=reports.append)
    continued = model(name, **more).fit(BOARD, validation=validation, folder=resumed, resume=True)
    assert equal(unbroken.tensors(), continued.tensors())
    assert continued.best_epoch == unbroken.best_epoch
    for file in (run_folder.WEIGHTS, run_folder.RUN, run_folder.ITEMS):
        assert (whole / file).read_bytes() == (resumed / file).read_bytes(), file
    states = [run_folder.read_state(folder)[0].tensors for folder in (whole, resumed)]
    assert equal(*states)
    rows = [[{**row, "seconds": 0} for row in run_folder.read_metrics(folder)] for folder in (whole, resumed)]
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
    assert run_folder.read_run(tmp_path / "run").config["train"]["epochs"] == 12
    done = 8
    continued = fit("run", 12)
    assert equal(whole.tensors(), continued.tensors())
    for file in (run_folder.WEIGHTS, run_folder.RUN):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "run" / file).read_bytes()


def by_epoch(values):
    """A validation whose figure is that of the epoch in which it is asked, and a hook that counts the epochs."""
    done = [0]

    def count(report):
        done[0] = report.epoch

    return {"validation": lambda _: values[done[0]], "on_epoch": count}


def contents(folder):
    """All that a run folder says, but for the seconds that its epochs took."""
    state, facts = run_folder.read_state(folder)
    rows = [{**row, "seconds": 0} for row in run_folder.read_metrics(folder)]
    assert rows == [{**row, "seconds": 0} for row in facts["rows"]]
    return rows, state.values, {**facts, "rows": rows}, (folder / run_folder.RUN).read_bytes()


# Figures of epochs 1 to 14, validated every 4: what the extra validation of epoch 6 is beside those of 4, 8 and 12.
EXTRA = {
    "the extra one is best of all": [0, 0, 0, 0.5, 0, 0.9, 0, 0.4, 0, 0, 0, 0.3, 0, 0.2],
    "the extra one is best, then beaten": [0, 0, 0, 0.5, 0, 0.6, 0, 0.7, 0, 0, 0, 0.3, 0, 0.2],
    "the extra one is in between": [0, 0, 0, 0.5, 0, 0.7, 0, 0.6, 0, 0, 0, 0.55, 0, 0.1],
    "the extra one is worse": [0, 0, 0, 0.5, 0, 0.1, 0, 0.4, 0, 0, 0, 0.6, 0, 0.2],
    "both extra ones are best": [0, 0, 0, 0.5, 0, 0.8, 0, 0.4, 0, 0, 0, 0.3, 0, 0.7],
    "no epoch is better than the first": [0, 0, 0, 0.5, 0, 0.5, 0, 0.5, 0, 0, 0, 0.5, 0, 0.5],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "more"),
    [*((case, {}) for case in EXTRA), *((case, {"patience": 2, "average": 0.7}) for case in list(EXTRA)[::3])],
    ids=[*EXTRA, *(f"{case}, with patience" for case in list(EXTRA)[::3])],
)
def test_a_shorter_runs_extra_validation_is_forgotten(case, more, tmp_path):
    """Six epochs validated every four, so 4 and 6; extended to ten and to fourteen, as fourteen in one go."""

    def fit(folder, epochs, **by):
        made = model("mult-dae", epochs=epochs, validate_every=4, **more)
        return made.fit(BOARD, folder=tmp_path / folder, resume=True, **(by or by_epoch(EXTRA[case])))

    whole = fit("whole", 14)
    shorter = fit("run", 6)
    assert shorter.best_epoch == (6 if EXTRA[case][5] > 0.5 else 4)
    assert recvae.load(tmp_path / "run", "cpu").best_epoch == shorter.best_epoch
    assert equal(recvae.load(tmp_path / "run", "cpu").tensors(), shorter.tensors())
    done = by_epoch(EXTRA[case])
    done["on_epoch"](checkpoint_at(6))
    fit("run", 10, **done)
    done["on_epoch"](checkpoint_at(10))
    continued = fit("run", 14, **done)
    assert continued.best_epoch == whole.best_epoch
    assert equal(whole.tensors(), continued.tensors())
    assert contents(tmp_path / "whole") == contents(tmp_path / "run")
    weights = [(tmp_path / name / run_folder.WEIGHTS).read_bytes() for name in ("whole", "run")]
    assert weights[0] == weights[1]
    assert run_folder.verify(tmp_path / "run")


def checkpoint_at(epoch):
    """What a hook gets after an epoch, as far as these tests look."""
    return SimpleNamespace(epoch=epoch)


def test_a_run_that_stopped_within_its_schedule_goes_on_exactly(tmp_path):
    whole = model("mult-vae", decay="cosine").fit(BOARD)
    model("mult-vae", decay="cosine", stop_after=4).fit(BOARD, folder=tmp_path / "run")
    continued = model("mult-vae", decay="cosine").fit(BOARD, folder=tmp_path / "run", resume=True)
    assert equal(whole.tensors(), continued.tensors())


@pytest.mark.parametrize("schedule", [{"anneal": "share"}, {"decay": "cosine"}])
def test_a_schedule_over_the_whole_run_cannot_be_extended(schedule, tmp_path):
    model("mult-vae", **schedule).fit(BOARD, folder=tmp_path / "run")
    with pytest.raises(InputError, match=f"schedule over its 6 epochs .*{next(iter(schedule))}"):
        model("mult-vae", **schedule, epochs=9).fit(BOARD, folder=tmp_path / "run", resume=True)


class KilledError(BaseException):
    """The end of the process at a rename: nothing may tidy up, so what the code does on the way out is undone."""


CANNOT = "overwrite where names cannot be exchanged"


@pytest.mark.parametrize(
    "begin", ["overwrite", *(pytest.param(begin, marks=pytest.mark.slow) for begin in ("empty", CANNOT))]
)
def test_every_crash_point(begin, tmp_path, monkeypatch):
    """Cut off at the n-th rename, for every n, a run resumes to the same bits and leaves nothing unfinished behind.

    What it was to replace loads at every such moment, until the new one does.
    """

    def fit(folder, **more):
        return model("mult-dae", epochs=2).fit(BOARD, folder=folder, **more)

    whole = fit(tmp_path / "whole").tensors()
    rename, rmtree, exchange = Path.replace, shutil.rmtree, swap.exchange
    for n in range(1, 40):
        folder = tmp_path / f"run{n}"
        if begin != "empty":
            model("mult-dae", epochs=1, seed=9).fit(BOARD, folder=folder)
        left = n

        def killed_in(operation):
            def killed(*arguments):
                nonlocal left
                left -= 1
                if left <= 0:
                    raise KilledError
                return operation(*arguments)

            return killed

        def removed(*arguments, **options):
            if left > 0:  # noqa: B023 - called in this round only
                rmtree(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", killed_in(rename))
            patch.setattr(Path, "rename", killed_in(rename))
            patch.setattr(swap, "exchange", killed_in(exchange) if "cannot" not in begin else lambda *_: False)
            patch.setattr(Path, "unlink", lambda *_, **__: None)  # a dead process deletes nothing
            patch.setattr(shutil, "rmtree", removed)
            try:
                fit(folder, overwrite=begin != "empty")
                ended = True
            except KilledError:
                ended = False
        if ended:
            break
        if begin != "empty":
            seed = recvae.load(folder).config.seed
            if not (swap.next_of(folder) / run_folder.RUN).is_file() and seed == 9:
                continue  # killed before the new run was begun
        again = fit(folder, resume=True).tensors()
        assert equal(whole, again), n
        assert equal(whole, recvae.load(folder, "cpu").tensors())
        assert not list(folder.rglob("*.part")), n
        assert not list(tmp_path.glob(f".run{n}.*")), n
    assert n > 5


def test_resume_repairs_metrics_and_refuses_fewer_epochs(tmp_path):
    model("mult-dae").fit(BOARD, folder=tmp_path / "run")
    whole = (tmp_path / "run" / run_folder.METRICS).read_text()
    (tmp_path / "run" / run_folder.METRICS).write_text(whole[: whole.rindex("{")])
    model("mult-dae").fit(BOARD, folder=tmp_path / "run", resume=True)
    assert (tmp_path / "run" / run_folder.METRICS).read_text() == whole
    with pytest.raises(InputError, match="has done 6 epochs"):
        model("mult-dae", epochs=4).fit(BOARD, folder=tmp_path / "run", resume=True)


def test_resume_warns_where_the_arithmetic_is_another(tmp_path, monkeypatch):
    model("mult-dae", epochs=2).fit(BOARD, folder=tmp_path / "run")
    values = run_folder.read_state(tmp_path / "run")[0].values
    assert values["arithmetic"] == {
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }
    model("mult-dae", epochs=3).fit(BOARD, folder=tmp_path / "run", resume=True)  # warnings are errors here
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "ABACUS")
    with pytest.warns(
        OtherMachineWarning, match=r"state.safetensors was made with .*here .*instructions=ABACUS"
    ) as said:
        model("mult-dae", epochs=4).fit(BOARD, folder=tmp_path / "run", resume=True)
    assert len(said) == 1
    model("mult-dae", epochs=5).fit(BOARD, folder=tmp_path / "run", resume=True)  # from here on it is as it was


def test_resume_keeps_the_versions_that_trained_and_adds_the_new_ones(tmp_path, monkeypatch):
    def said():
        run = run_folder.read_run(tmp_path / "run")
        return run.versions, [(later.epoch, later.versions["torch"]) for later in run.resumed]

    first = versions.versions()
    for epochs, torch_version, expected in (
        (2, first["torch"], []),
        (3, "99.0", [(3, "99.0")]),
        (3, "99.1", [(3, "99.0")]),  # nothing was left to do
        (5, "99.0", [(3, "99.0")]),
        (6, first["torch"], [(3, "99.0"), (6, first["torch"])]),
    ):
        monkeypatch.setattr(versions, "versions", lambda: {**first, "torch": torch_version})  # noqa: B023 - at once
        model("mult-dae", epochs=epochs).fit(BOARD, folder=tmp_path / "run", resume=True)
        assert said() == (first, expected)
    again = recvae.load(tmp_path / "run", "cpu")
    again.save(tmp_path / "copy")
    assert run_folder.read_run(tmp_path / "copy").resumed == run_folder.read_run(tmp_path / "run").resumed
    assert run_folder.read_run(tmp_path / "copy").versions == first


def test_resume_names_weights_that_are_gone(tmp_path):
    model("mult-dae", epochs=2).fit(BOARD, folder=tmp_path / "run")
    (tmp_path / "run" / run_folder.WEIGHTS).unlink()
    with pytest.raises(FormatError, match="missing"):
        model("mult-dae", epochs=4).fit(BOARD, folder=tmp_path / "run", resume=True)


def test_resume_refuses_another_device_and_another_matrix(tmp_path):
    model("mult-dae", epochs=2).fit(BOARD, folder=tmp_path / "run")
    with pytest.raises(InputError, match="other clicks"):
        model("mult-dae", epochs=2).fit(checkerboard(seed=8), folder=tmp_path / "run", resume=True)
    state, facts = run_folder.read_state(tmp_path / "run")
    state.values["device"] = "cuda"
    run_folder.write_state(tmp_path / "run", state, facts)
    with pytest.raises(InputError, match="device='cuda'"):
        model("mult-dae", epochs=2).fit(BOARD, folder=tmp_path / "run", resume=True)


def test_resume_refuses_other_settings_and_other_items(tmp_path):
    model("mult-dae").fit(BOARD, folder=tmp_path / "run")
    with pytest.raises(InputError, match=r"train\.learning_rate=0\.001"):
        model("mult-dae", learning_rate=0.5).fit(BOARD, folder=tmp_path / "run", resume=True)
    with pytest.raises(InputError, match="another dataset"):
        model("mult-dae").fit(BOARD[:, :39], folder=tmp_path / "run", resume=True)
    with pytest.raises(InputError, match="mult-dae"):
        model("recvae").fit(BOARD, folder=tmp_path / "run", resume=True)


def test_resume_with_more_epochs_names_the_metric_that_differs(tmp_path):
    def run(epochs, metric):
        made = model("mult-dae", epochs=epochs)
        made.dataset = {"name": "board", "validation_metric": metric}
        return made

    run(2, "ndcg@100").fit(BOARD, folder=tmp_path / "run")
    with pytest.raises(InputError, match="was validated by ndcg@100; resume=True needs --metric ndcg@100"):
        run(3, "recall@20").fit(BOARD, folder=tmp_path / "run", resume=True)


def test_a_damaged_run_folder_is_named(tmp_path):
    folder = tmp_path / "run"
    model("mult-dae", epochs=1).fit(BOARD, folder=folder)
    whole = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def damaged(file, data, said):
        (folder / file).write_bytes(data)
        with pytest.raises(FormatError) as error:  # whatever else is wrong, it is not what was sealed
            recvae.load(folder)
        reseal(folder)
        with pytest.raises(FormatError, match=said) as error:
            recvae.load(folder)
        assert Path(file).name in str(error.value)
        assert "\n" not in str(error.value)
        for path in (folder / file, folder / "seal.json"):
            path.write_bytes(whole[path])

    weights = whole[folder / run_folder.WEIGHTS]
    damaged(run_folder.WEIGHTS, weights[:-10], "truncated")
    damaged(run_folder.WEIGHTS, weights[:-10] + b"0123456789", "altered")
    damaged(run_folder.WEIGHTS, b"", "truncated")
    run = json.loads(whole[folder / run_folder.RUN])
    damaged(run_folder.RUN, whole[folder / run_folder.RUN][:40], "damaged")
    damaged(run_folder.RUN, json.dumps({**run, "format": 99}).encode(), "version 99")
    damaged(run_folder.RUN, json.dumps({**run, "kind": "cake"}).encode(), "does not describe")
    damaged(run_folder.RUN, json.dumps({**run, "more": 1}).encode(), "altered")
    damaged(run_folder.RUN, json.dumps({**run, "config": None}).encode(), "altered")
    damaged(run_folder.RUN, json.dumps({**run, "config": {**run["config"], "seed": "x"}}).encode(), "seed")
    damaged(run_folder.ITEMS, b"index,item_id,title\n0,x,\n", "altered")
    damaged(run_folder.ITEMS, whole[folder / run_folder.ITEMS].replace(b"\n7,7,", b"\n7,7,A Title"), "altered")
    damaged(run_folder.ITEMS, b"\xff\xfe", "cannot be read")
    (folder / run_folder.WEIGHTS).unlink()
    with pytest.raises(FormatError, match="missing"):
        recvae.load(folder)
    with pytest.raises(FormatError, match="not a run folder"):
        recvae.load(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        recvae.load(tmp_path / "nowhere")
