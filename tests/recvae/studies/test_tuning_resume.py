"""Studies that were interrupted, killed or damaged: each goes on as if nothing had been, or is refused."""

import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from small_studies import TINY, TRIALS, facts, small_plan

from data_prep.dataset import Dataset
from recvae.errors import FormatError, InputError
from recvae.experiments import study as studies
from recvae.experiments import tune as tuning
from recvae.experiments.space import changed, plan
from recvae.experiments.tune import Events, read_study, tune
from recvae.options import Between, OneOf
from recvae.training import seals


@pytest.mark.parametrize("moment", ["trial", "epoch"])
def test_interrupted_and_resumed_is_as_if_nothing_had_been(data, whole, tmp_path, moment):
    """Ctrl-C at the beginning of trial 3, and within trial 12."""
    epochs = sum(len(trial.scores) for trial in whole.trials[:11])
    count = {"trial": 3, "epoch": epochs + 1}[moment]

    def stop(*_):
        nonlocal count
        count -= 1
        if not count:
            raise KeyboardInterrupt

    folder = tmp_path / "study"
    with pytest.raises(KeyboardInterrupt):
        tune(small_plan(), data, folder, trials=TRIALS, events=Events(**{f"on_{moment}": stop}))
    assert len(read_study(folder).trials) == {"trial": 2, "epoch": 11}[moment]
    study = tune(small_plan(), data, folder, resume=True)  # by its own budget
    assert facts(study) == facts(whole)
    assert facts(read_study(folder)) == facts(whole)
    assert (folder / "trials.csv").read_text().count("\n") == TRIALS + 1


def test_a_finished_study_goes_on_with_more_trials(data, whole, tmp_path):
    folder = tmp_path / "study"
    assert len(tune(small_plan(), data, folder, trials=3, resume=True).trials) == 3  # nothing to resume: it begins
    again = tune(small_plan(), data, folder, trials=3, resume=True)
    assert facts(again) == facts(whole)[:3]
    more = tune(small_plan(), data, folder, trials=5, resume=True)
    assert facts(more) == facts(whole)[:5]
    assert read_study(folder).trials_wanted == 5


KILLED = """
import sys
from data_prep.dataset import Dataset
import torch
from recvae.options import Between
from recvae.experiments.space import plan
from recvae.experiments.tune import Events, tune
torch.set_num_threads(1)
settings = {settings}
space = {{"train.learning_rate": Between(1e-5, 0.1, log=True)}}
made = plan("mult-dae", settings=settings, space=space, metric="ndcg@10")
tune(made, Dataset.load(sys.argv[1]), sys.argv[2], trials={trials},
     events=Events(on_epoch=lambda row: print(row["epoch"], flush=True)))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_and_resumed_is_as_if_nothing_had_been(data, dataset, whole, tmp_path):
    folder = tmp_path / "study"
    command = [sys.executable, "-c", KILLED.format(settings=TINY, trials=TRIALS), str(dataset), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(10):  # in the third trial
            process.stdout.readline()
        process.kill()
    (folder / ".trials.json.cut.part").write_text('{"trials": [')
    kept = len(read_study(folder).trials)
    assert 2 <= kept < TRIALS
    assert facts(tune(small_plan(), data, folder, trials=kept + 2, resume=True)) == facts(whole)[: kept + 2]
    assert not list(folder.glob("*.part")) + list(folder.glob(".*"))


def test_what_is_resumed_must_be_the_same(data, whole):
    folder = whole.folder
    other = Dataset.load(data.path)
    other.manifest = {**other.manifest, "files": {**other.manifest["files"], "train.indices.npy": "0" * 64}}
    for made, clicks, said in (
        (plan("ease"), data, "holds a study of 'mult-dae'"),
        (small_plan(), other, "another dataset"),
        (replace(small_plan(), metric="recall@5"), data, "--metric ndcg@10"),
        (plan("mult-dae", settings=TINY, metric="ndcg@10"), data, r"searched train\.learning_rate otherwise"),
        (small_plan(seed=3), data, "another seed"),
    ):
        with pytest.raises(InputError, match=said) as error:
            tune(made, clicks, folder, resume=True)
        assert str(folder) in str(error.value)
    with pytest.raises(InputError, match="exists already"):
        tune(small_plan(), data, folder, trials=1)


@pytest.mark.parametrize(
    ("model", "settings", "file"),
    [
        ("vaeac", ["model.ratings=true"], "validation_in_ratings.data.npy"),
        ("conditional-vae", [], "item_tags.csv"),
        ("conditional-vae", ['model.user_attributes=["age"]'], "user_tags.csv"),
        ("conditional-vae", ['model.user_attributes=["age"]'], "users.csv"),  # which row has which attributes
    ],
)
def test_a_study_is_of_all_files_that_its_models_read(data, model, settings, file):
    """Other ratings, tags or attributes beside the same clicks are another dataset, but not to a model of clicks."""
    told = Dataset.load(data.path)
    files = {**told.manifest["files"], file: "0" * 64}
    told.manifest = {**told.manifest, "files": files}
    assert tuning._hashes(told, plan(model, settings=settings))[file] == "0" * 64
    assert tuning._hashes(told, plan("ease")) == tuning._hashes(data, plan("ease"))
    if file == "item_tags.csv":
        searched = plan(model, settings=["model.item_tags=false"])
        assert file not in tuning._hashes(told, searched)
        searched = plan(model, space={"model.item_tags": OneOf(False, True)})
        assert file in tuning._hashes(told, searched)


def test_an_earlier_study_stays_until_the_new_one_has_a_trial(data, tmp_path):
    folder = tmp_path / "study"
    tune(plan("ease"), data, folder, trials=2)

    def stop(number, config):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(plan("popularity"), data, folder, overwrite=True, events=Events(on_trial=stop))
    assert read_study(folder).plan.model == "ease"
    tune(plan("popularity"), data, folder, overwrite=True)
    assert read_study(folder).plan.model == "popularity"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="so it is not replaced"):
        tune(plan("popularity"), data, tmp_path / "mine", overwrite=True)


DAMAGE = [
    ("study.json", lambda text: text[:50]),
    ("study.json", lambda text: text.replace("recvae-study", "recvae-run")),
    ("study.json", lambda text: text.replace('"low"', '"lower"')),
    ("study.json", lambda text: text.replace('"low": 1.0', '"low": 5.0')),  # above the other end
    ("study.json", lambda text: text.replace('"low": 1.0', '"low": 0.0')),  # no place by magnitude
    ("study.json", lambda text: text.replace('"name": "ease"', '"name": "eas"')),
    ("study.json", lambda text: text.replace('"trials": 2', '"trials": "two"')),
    ("study.json", lambda text: text.replace('"starts": [', '"starts": [], "more": [')),
    ("trials.json", lambda text: text[:50]),
    ("trials.json", lambda text: text.replace('"complete"', '"won"')),
    ("trials.json", lambda text: text.replace('"complete"', '"pruned"')),
    ("trials.json", lambda text: text.replace('"value"', '"values"')),
    ("trials.json", lambda text: text.replace('"value": ', '"value": "high", "was": ')),
    ("trials.json", lambda text: text.replace('"l2": 500.0', '"l2": 1.5')),  # another than among the settings
    ("trials.json", lambda text: text.replace('"scores": []', '"scores": [[1]]')),
    ("trials.json", lambda text: text.replace('"scores": []', '"scores": [[0.5, 0.5]]')),
    ("trials.json", lambda text: text.replace('"same_as": null', '"same_as": 9')),
    ("trials.json", lambda text: text.replace('"error": null', '"error": "none"')),
    ("trials.json", lambda text: text.replace('"number": 2', '"number": 3')),
    ("trials.json", lambda text: text.replace('"seconds": ', '"seconds": -')),
    ("trials.json", lambda text: "[]"),
    ("trials.json", lambda text: "[" * 100_000),
]


@pytest.fixture(scope="module")
def small_study(data, tmp_path_factory):
    """The folder of a study of two trials; not to be changed."""
    folder = tmp_path_factory.mktemp("small") / "study"
    made = plan("ease", space={"model.l2": Between(1.0, 2.0, log=True)})
    made = replace(made, starts=(("given", changed(made.start, {"model.l2": 500.0})),))
    tune(made, data, folder, trials=2)
    return folder


@pytest.mark.parametrize(("file", "change"), DAMAGE)
def test_damaged_studies_are_refused(small_study, tmp_path, file, change):
    """Where the change shows against the seal, and where it was sealed."""
    folder = shutil.copytree(small_study, tmp_path / "study")
    path = folder / file
    changed = change(path.read_text())
    assert changed != path.read_text()
    path.write_text(changed)
    with pytest.raises(FormatError, match="study"):
        read_study(folder)
    seals.seal(folder, (studies.STUDY, studies.TRIALS))
    with pytest.raises(FormatError, match="study") as error:
        read_study(folder)
    assert "digest" not in str(error.value)
    assert "\n" not in str(error.value)


def test_resuming_makes_the_files_that_a_kill_left_behind(tmp_path, data):
    """trials.json comes first; the table and the best configuration are made from it."""
    made = tune(plan("ease", metric="ndcg@5"), data, tmp_path / "study", trials=2)
    for name in ("trials.csv", "best.toml"):
        (tmp_path / "study" / name).unlink()
    tune(made.plan, data, tmp_path / "study", trials=2, resume=True)
    assert (tmp_path / "study" / "best.toml").is_file()
    assert len((tmp_path / "study" / "trials.csv").read_text().splitlines()) == 3
