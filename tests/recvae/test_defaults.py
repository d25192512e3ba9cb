"""Defaults that follow the data: the rules, who wins over them, and that a run keeps what it was trained with."""

import json
from dataclasses import replace

import pytest
from conftest import checkerboard
from hypothesis import given
from hypothesis import strategies as st

import recvae
from data_prep.dataset import Dataset
from recvae import defaults
from recvae.config import resolve, run_config, shipped, shipped_for, value_of
from recvae.defaults import Size
from recvae.experiments.benchmark import contestants
from recvae.experiments.space import plan
from recvae.recommender import load
from recvae.registry import MODELS
from recvae.training.run_folder import read_run

ML_20M = Size(116_677, 20_108, 8_530_000)
ML_100K = Size(738, 1_415, 43_606)
FOUND_ON = {"source": {"kind": "file"}, "before_split": {"users": 6034, "items": 3533, "clicks": 575_272}}
FOUND_ON["counts"] = {"items": 3497, "users": {"train": 4834}, "clicks": {"train": 462_827}}

counts = st.integers(1, 10**9)
sizes = st.builds(Size, users=counts, items=counts, clicks=counts)


def resolved(name, size, *settings):
    return resolve(name, None, settings).for_data(size)


def test_at_movielens_20m_the_defaults_are_the_papers():
    for name in ("recvae", "mult-vae", "mult-dae", "vamp-vae"):
        assert resolved(name, ML_20M) == replace(resolve(name), open=frozenset())


def test_small_data_are_gone_through_in_many_updates():
    train, model = (resolved("recvae", ML_100K).train, resolved("recvae", ML_100K).model)
    assert (train.batch_size, train.epochs, train.learning_rate) == (40, 53, 0.0019)
    assert (model.gamma, model.hidden, model.layers) == (0.018, 300, 2)
    assert resolved("recvae-edlae", ML_100K).model.path_weight == 6.3
    assert resolved("recvae-edlae", ML_100K).model.path_l2 == resolved("edlae", ML_100K).model.l2 == 110.0


@given(size=sizes)
def test_the_rules_stay_within_bounds(size):
    """Whatever the counts, what follows from them is a valid configuration with a sensible number of updates."""
    for name in MODELS:
        made = resolved(name, size)
        assert run_config(made.to_dict()) == made
        assert not made.open
    train = resolved("recvae", size).train
    assert 20 <= train.batch_size <= 500
    assert 50 <= train.epochs <= 200
    assert 5e-4 <= train.learning_rate <= 3e-3
    assert 4 <= resolved("recvae-edlae", size).model.path_weight <= 100


@given(size=sizes, more=st.integers(1, 1000))
def test_the_rules_are_monotone(size, more):
    users, clicks = replace(size, users=size.users * more), replace(size, clicks=size.clicks * more)
    assert defaults.batch_size(users) >= defaults.batch_size(size)
    assert defaults.epochs(users, 50, 1000) <= defaults.epochs(size, 50, 1000)
    assert defaults.gamma(clicks) <= defaults.gamma(size)
    assert defaults.learning_rate(clicks) <= defaults.learning_rate(size)
    assert (defaults.hidden(clicks), defaults.layers(clicks)) >= (defaults.hidden(size), defaults.layers(size))
    assert defaults.path_weight(clicks) <= defaults.path_weight(size)
    assert defaults.linear_l2(clicks, 20.0) >= defaults.linear_l2(size, 20.0)
    assert defaults.als_regularization(clicks) >= defaults.als_regularization(size)


@pytest.mark.parametrize("name", MODELS)
def test_what_follows_is_an_option_and_what_is_set_never_follows(name):
    kind = MODELS[name].model_class()
    asked = resolve(name)
    assert asked.open == set(kind.follows)
    for key in kind.follows:
        fixed = resolve(name, None, [f"{key}={value_of(asked, key)}"])
        assert key not in fixed.open
        assert value_of(fixed.for_data(Size(50, 40, 300)), key) == value_of(asked, key)
        assert run_config(fixed.to_dict()) == fixed


def test_arguments_win_over_the_data():
    model = recvae.RecVAE(batch_size=500, hidden=8, layers=1, latent=4, epochs=1, device="cpu")
    model.fit(checkerboard())
    assert model.config.train.batch_size == 500
    assert model.config.model.gamma == defaults.gamma(Size.of(checkerboard()))
    assert not model.config.open


def test_a_second_fit_follows_its_own_data():
    model = recvae.EASE(device="cpu")
    for users in (60, 600):
        model.fit(checkerboard(users))
        assert model.config.model.l2 == defaults.linear_l2(Size.of(checkerboard(users)), 40.0)


def test_a_run_says_and_keeps_what_followed(cli, dataset, tmp_path):
    """run.json has every value, so that a run that is loaded, resumed or refitted has those it was trained with."""
    out, again, size = tmp_path / "run", tmp_path / "again", Size.of_training(Dataset.load(dataset).manifest)
    small = ("--set", "model.hidden=8", "--set", "model.layers=1", "--set", "model.latent=4", "--set", "train.epochs=1")
    answer = cli("train", dataset, "--model", "recvae", *small, "--out", out)
    assert answer.status == 0, answer.err
    expected = resolve("recvae", None, [s for s in small if s != "--set"]).for_data(size)
    assert (expected.train.batch_size, expected.model.gamma) == (20, 0.16)
    assert "  follow batch_size=20 learning_rate=0.0015 gamma=0.16: for 160 users, 40 items, 1,938 clicks" in answer.out
    assert run_config(read_run(out).config) == expected == load(out).config
    more = cli("train", dataset, "--out", out, "--resume", "--set", "train.epochs=2", "--json")
    assert run_config(more.json["config"]) == replace(expected, train=replace(expected.train, epochs=2))
    refitted = cli("train", dataset, "--refit", out, "--out", again, "--json")
    assert refitted.json["config"]["train"]["batch_size"] == 20
    assert refitted.json["config"]["model"]["gamma"] == 0.16


def test_benchmark_and_tune_begin_where_train_does(dataset):
    manifest = Dataset.load(dataset).manifest
    size = Size.of_training(manifest)
    for name in MODELS:
        expected = resolve(name).for_data(size)
        assert contestants(manifest, [name])[0].config == expected
        assert plan(name, manifest=manifest).start == expected
        assert plan(name).for_data(size).start == expected


def test_shipped_configurations_leave_nothing_open():
    for name in shipped():
        assert not resolve(config=name).open, name


def test_shipped_settings_go_by_what_was_read_and_not_by_the_name():
    assert shipped_for({**FOUND_ON, "name": "renamed"}, "recvae") == "ml-1m-recvae"
    release = {**FOUND_ON, "source": {"kind": "release", "name": "ml-1m"}}
    assert shipped_for(release, "mult-vae") == "ml-1m-mult-vae"
    assert shipped_for({**release, "source": {"kind": "release", "name": "ml-10m"}}, "recvae") is None
    others = {**FOUND_ON, "name": "ml-1m", "before_split": {"users": 6034, "items": 3533, "clicks": 575_271}}
    assert shipped_for(others, "recvae") is None
    assert shipped_for({"name": "ml-1m", "counts": FOUND_ON["counts"]}, "recvae") is None
    assert contestants({**FOUND_ON, "name": "renamed"}, ["ease"])[0].source == "shipped ml-1m-ease"
    assert contestants(others, ["ease"])[0].source == "defaults"
    assert [source for source, _ in plan("ease", manifest=FOUND_ON).starts] == ["given", "shipped ml-1m-ease"]


def test_a_run_whose_last_epoch_was_best_says_how_to_go_on(cli, dataset, small, tmp_path):
    common = ("train", dataset, "--model", "recvae", *small, "--set", "train.epochs=1")
    answer = cli(*common, "--out", tmp_path / "a")
    assert "The best epoch was the last one, so more may be better" in answer.out
    assert f"--out {tmp_path / 'a'} --resume --set train.epochs=2" in answer.out
    answer = cli(*common, "--set", "train.decay=cosine", "--out", tmp_path / "b")
    assert "train.decay goes over all epochs, so train again as now with --set train.epochs=2 --overwrite" in answer.out
    answer = cli("train", dataset, "--model", "ease", "--out", tmp_path / "c")
    assert "The best epoch" not in answer.out


def test_prepare_names_the_model_for_data_of_this_size(cli, clicks, tmp_path):
    named = ("--user-column", "user", "--item-column", "item")
    answer = cli("prepare", clicks, *named, "--out", tmp_path / "d", "--held-out-users", 20)
    assert answer.status == 0, answer.err
    assert f"recvae train {tmp_path / 'd'} --model recvae-edlae --out runs/clicks-recvae-edlae" in answer.out
    assert defaults.recommended(ML_20M) == "recvae-edlae"
    assert defaults.recommended(replace(ML_20M, items=100_000)) == "recvae"


def test_an_unresolved_configuration_stays_open_in_json():
    asked = resolve("recvae-edlae", None, ["train.epochs=3"])
    kept = json.loads(json.dumps(asked.to_dict()))
    assert "batch_size" not in kept["train"]
    assert run_config(kept).open == asked.open == set(recvae.RecVAEEDLAE.follows) - {"train.epochs"}
