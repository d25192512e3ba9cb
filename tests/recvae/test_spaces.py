"""What a search tries: the declared spaces, those of the command line, and where it starts."""

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recvae.config import load_toml, resolve, run_config, shipped
from recvae.defaults import Size, linear_l2
from recvae.errors import ConfigError
from recvae.experiments import proposals
from recvae.experiments import study as studies
from recvae.experiments.space import Plan, parse_search, plan
from recvae.options import Between, OneOf
from recvae.registry import MODELS

ML_1M = {
    "before_split": {"users": 6034, "items": 3533, "clicks": 575_272},
    "counts": {"items": 3497, "users": {"train": 4834}, "clicks": {"train": 462_827}},
}
ML_100K = {
    "before_split": {"users": 938, "items": 1447, "clicks": 55_361},
    "counts": {"items": 1415, "users": {"train": 738}, "clicks": {"train": 43_606}},
}


@pytest.mark.parametrize("name", MODELS)
@given(choice=st.data())
@settings(max_examples=25, deadline=None)
def test_every_declared_space_is_within_its_bounds(name, choice):
    """Any point of it is a configuration, which JSON and Optuna's parameters keep."""
    made = plan(name)
    drawn = {key: choice.draw(values(space), label=key) for key, space in made.space.items()}
    config = made.config(drawn)
    assert made.settings(config) == drawn
    assert Plan.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    params = proposals.params_of(made.space, config)
    for key, distribution in ((key, proposals.distribution(space)) for key, space in made.space.items()):
        assert distribution._contains(distribution.to_internal_repr(params[key]))
    found = proposals.settings_of(made.space, params)
    for key, value in drawn.items():
        assert found[key] == (pytest.approx(value, rel=1e-3) if isinstance(value, int | float) else value)


def values(space):
    """A strategy for the values of a space."""
    if isinstance(space, OneOf):
        return st.sampled_from(space.values)
    if isinstance(space.low, int):
        return st.integers(space.low, space.high)
    return st.floats(space.low, space.high)


def test_every_model_but_popularity_has_something_to_search():
    assert [name for name in MODELS if not plan(name).space] == ["popularity"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model.l2=10:1000:log", ("model.l2", Between(10, 1000, log=True))),
        (" model.gamma = 1e-3 : .5 ", ("model.gamma", Between(0.001, 0.5))),
        ("model.hidden=[],[600],[300,100]", ("model.hidden", OneOf([], [600], [300, 100]))),
        ("model.variant=paper,released", ("model.variant", OneOf("paper", "released"))),
        ("model.weighted=true,false", ("model.weighted", OneOf(True, False))),
        ("train.batch_size=50,100", ("train.batch_size", OneOf(50, 100))),
    ],
)
def test_search_options_are_read(text, expected):
    assert parse_search(text) == expected


@pytest.mark.parametrize(
    ("model", "text", "said"),
    [
        ("ease", "model.l2", "KEY=LOW:HIGH"),
        ("ease", "model.l2=", "KEY=LOW:HIGH"),
        ("ease", "model.l2=1:2:exp", "KEY=LOW:HIGH"),
        ("ease", "model.l2=1:2:log:3", "KEY=LOW:HIGH"),
        ("ease", "model.l2=low:high", "numbers in a range"),
        ("ease", "model.l2=1:inf", "numbers in a range"),
        ("ease", "model.l2=5", "nothing to choose from"),
        ("ease", "model.l2=5,6,5.0", "a choice twice"),
        ("ease", "model.l2=6:5", "lower end first"),
        ("ease", "model.l2=-1:5", "model.l2: must be greater than 0"),
        ("ease", "model.l3=1:5", "Did you mean 'l2'?"),
        ("ease", "l2=1:5", "cannot be searched"),
        ("ease", "seed=1:5", "cannot be searched"),
        ("ease", "train.epochs=1:5", "not trained by epochs"),
        ("recvae", "model.gamma=0:1:log", "Begin above 0"),
        ("recvae", "model.layers=0.5:3", "model.layers: must be integer"),
        ("recvae", "model.weighted=0:1", "model.weighted: must be boolean"),
        ("mult-vae", "model.anneal=paper,share,linear", "model.anneal: must be 'paper'"),
        ("mult-vae", "model.hidden=100:600", "model.hidden is no number, so it has no range"),
    ],
)
def test_mistakes_in_a_space_are_one_sentence(model, text, said):
    with pytest.raises(ConfigError) as error:
        plan(model, space=dict([parse_search(text)]))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_settings_are_fixed_and_not_searched():
    made = plan("recvae", settings=["model.gamma=0.01", "train.epochs=5"])
    assert "model.gamma" not in made.space
    assert "model.latent" in made.space
    with pytest.raises(ConfigError, match=r"model\.gamma is both set and searched"):
        plan("recvae", settings=["model.gamma=0.01"], space={"model.gamma": Between(0.1, 0.2)})


def test_the_shipped_configuration_is_the_second_start(tmp_path, monkeypatch):
    file = tmp_path / "clicks-ease.toml"
    file.write_text('name = "ease"\nfor = { users = 6034, clicks = 575272 }\nmodel = { l2 = 3.0 }\n')
    monkeypatch.setattr("recvae.config.shipped", lambda: {"clicks-ease": file})
    made = plan("ease", manifest=ML_1M, seed=5)
    assert [(source, config.seed) for source, config in made.starts] == [("given", 5), ("shipped clicks-ease", 5)]
    assert [config.model.l2 for _, config in made.starts] == [linear_l2(Size(4834, 3497, 462_827), 40.0), 3.0]
    assert len(plan("ease", config="clicks-ease", manifest=ML_1M).starts) == 1
    assert len(plan("ease", settings=["model.l2=7"], manifest=ML_1M).starts) == 1
    assert len(plan("ease", manifest={**ML_1M, "before_split": {}}).starts) == 1


def test_a_shipped_configuration_of_clicks_is_no_start_of_a_search_by_ratings():
    made = plan(config="ml-100k-vaeac-ratings", manifest=ML_100K)  # there is an ml-100k-vaeac, of clicks
    assert [source for source, _ in made.starts] == ["given"]
    assert len(plan("vaeac", manifest=ML_100K).starts) == 2


@pytest.mark.parametrize("key", ["ratings", "likelihood"])
def test_models_that_are_scored_otherwise_are_not_searched_together(key):
    values = {"ratings": OneOf(False, True), "likelihood": OneOf("multinomial", "gaussian")}
    with pytest.raises(ConfigError, match=f"model\\.{key} cannot be searched: it decides what a model learns from"):
        plan("vaeac", settings=[] if key == "ratings" else ["model.ratings=true"], space={f"model.{key}": values[key]})
    assert "model.likelihood" in plan("mult-vae", space={"model.likelihood": values["likelihood"]}).space


def test_configurations_survive_toml(tmp_path):
    configs = [resolve(name) for name in MODELS] + [resolve(config=name) for name in shipped()]
    configs += [resolve("mult-vae", settings=["model.hidden=[7, 5]", "train.learning_rate=1e-5", "seed=3"])]
    for config in configs:
        file = tmp_path / "a.toml"
        file.write_text(studies.to_toml(config.to_dict()))
        assert run_config(load_toml(file)) == config


def test_a_plan_is_light():
    """The search spaces know nothing of torch: a plan is made before anything heavy is needed."""
    program = "import sys, recvae.experiments.space; print('torch' in sys.modules, 'optuna' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["False", "False"]
