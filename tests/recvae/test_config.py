"""Configuration: defaults, TOML, settings, and every mistake at once."""

import json
import re
import tomllib
from dataclasses import fields

import numpy as np
import pytest

import recvae
from recvae import config
from recvae.errors import ConfigError, InputError
from recvae.models.recvae import RecVAEOptions
from recvae.nn.implicit_slim import SlimOptions
from recvae.options import TrainOptions
from recvae.registry import MODELS


def test_the_papers_defaults():
    rec, mult, dae = (config.resolve(name) for name in ("recvae", "mult-vae", "mult-dae"))
    assert (rec.model.hidden, rec.model.latent, rec.model.layers, rec.model.gamma) == (600, 200, 5, 0.005)
    assert (rec.train.epochs, rec.train.batch_size, rec.train.learning_rate) == (50, 500, 5e-4)
    assert (rec.model.encoder_passes, rec.model.decoder_passes, rec.model.dropout) == (3, 1, 0.5)
    assert (mult.model.hidden, mult.model.latent, mult.model.beta_cap) == ((600,), 200, 0.2)
    assert (mult.train.epochs, mult.train.batch_size, mult.train.learning_rate) == (200, 500, 1e-3)
    assert (dae.model.hidden, dae.model.latent, dae.model.l2) == ((), 200, 2e-5)
    assert rec.seed == 98765


@pytest.mark.parametrize("name", MODELS)
def test_every_option_is_documented_and_round_trips(name):
    made = config.resolve(name)
    for options in (made.model, made.train):
        for f in fields(options) if options is not None else ():
            assert f.metadata["meaning"].endswith("."), f.name
    assert config.run_config(json.loads(json.dumps(made.to_dict()))) == made


def test_option_sets_are_found_by_their_class():
    rec, ease = config.resolve("recvae"), config.resolve("ease")
    assert rec.options(RecVAEOptions) is rec.model
    assert rec.options(SlimOptions) is rec.model  # a part of them
    assert rec.options(TrainOptions) is rec.train
    with pytest.raises(TypeError, match="'ease' has no TrainOptions"):
        ease.options(TrainOptions)


def test_settings_win_over_files_and_seed_over_both(tmp_path):
    file = tmp_path / "my.toml"
    file.write_text(
        'name = "mult-vae"\nseed = 3\n[model]\nhidden = [300, 100]\nanneal = "share"\n[train]\nepochs = 7\n'
    )
    made = config.resolve(config=str(file), settings=["train.epochs=9", "model.anneal=constant"], seed=5)
    assert made.model.hidden == (300, 100)
    assert (made.model.anneal, made.train.epochs, made.seed) == ("constant", 9, 5)
    assert made.train.batch_size == 500


def test_all_mistakes_are_reported_at_once():
    wrong = ["train.epochs=0", "train.epoch=3", "model.gama=0.1", "model.latent=true", "model.variant=best", "sead=1"]
    with pytest.raises(ConfigError) as error:
        config.resolve("recvae", settings=[*wrong, "seed=-1"])
    said = str(error.value)
    assert "7 mistakes" in said
    assert "train.epochs: must be greater than or equal to 1, got 0" in said
    assert "train.epoch: unknown option. Did you mean 'epochs'?" in said
    assert "model.gama: unknown option. Did you mean 'gamma'?" in said
    assert "model.latent" in said
    assert "'paper' or 'released', got 'best'" in said
    assert "sead: unknown option. Did you mean 'seed'?" in said
    assert "seed: must be a whole number" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"model": "recvea"}, "Did you mean 'recvae'"),
        ({"model": None}, "--model"),
        ({"model": "ease", "settings": ["train.epochs=3"]}, "not trained by epochs"),
        ({"model": "ease", "settings": ["model.l2=nan"]}, "model.l2"),
        ({"model": "ease", "settings": ["model.l2=inf"]}, "model.l2"),
        ({"model": "ease", "settings": ["model.l2=500x"]}, "model.l2"),
        ({"model": "mult-vae", "settings": ["model.hidden=[600,0]"]}, "model.hidden"),
        ({"model": "recvae", "settings": ["epochs"]}, "section.key=value"),
        ({"model": "recvae", "settings": ["a.b.c=1"]}, "section.key=value"),
        ({"model": "recvae", "settings": ["model=3"]}, "table of options"),
        ({"config": "ml-20m-recvea"}, "Did you mean 'ml-20m-recvae'"),
        ({"config": "nowhere.toml"}, "does not exist"),
        ({"config": "ml-20m-recvae", "model": "ease"}, "is for 'recvae'"),
    ],
)
def test_a_mistake_is_a_sentence(arguments, said):
    with pytest.raises(InputError, match=said) as error:
        config.resolve(**arguments)
    assert str(error.value).endswith((".", "?"))


def test_a_file_that_is_no_toml(tmp_path):
    file = tmp_path / "bad.toml"
    file.write_text("name = ")
    with pytest.raises(ConfigError, match=r"bad\.toml is not a TOML file"):
        config.resolve(config=str(file))


def test_the_constructor_checks_its_arguments_alike():
    with pytest.raises(ConfigError, match=r"model\.latent: .*\n.*train\.epochs"):
        recvae.RecVAE(latent=0, epochs=0)
    with pytest.raises(ConfigError, match="gama"):
        recvae.RecVAE(gama=1)
    with pytest.raises(ConfigError, match="Did you mean 'epochs'"):
        recvae.RecVAE(epoch=3)
    assert recvae.RecVAE(latent=np.int64(3), seed=np.int64(5), gamma=np.float32(0.5)).config.model.latent == 3
    with pytest.raises(InputError, match="device 'meta'"):
        recvae.RecVAE(device="meta")
    with pytest.raises(InputError, match="device 'cuda:99'"):
        recvae.RecVAE(device="cuda:99")
    with pytest.raises(InputError, match="device 'gpu'"):
        recvae.RecVAE(device="gpu")


def test_every_shipped_configuration_is_valid_and_named_after_its_model():
    shipped = config.shipped()
    for dataset in ("ml-20m", "netflix", "msd", "ml-1m", "ml-100k"):
        for model in ("recvae", "mult-vae", "mult-dae"):
            assert f"{dataset}-{model}" in shipped
    for name, path in shipped.items():
        made = config.resolve(config=name)
        assert made.name in name
        assert tomllib.loads(path.read_text())["name"] == made.name


@pytest.mark.parametrize("setting", ["model.hidden=20", "model.hidden=[20]"])
def test_one_value_where_a_list_is_wanted_is_a_list_of_one(setting):
    assert config.resolve("mult-vae", None, [setting]).model.hidden == (20,)
    assert config.resolve("conditional-vae", None, ["model.user_attributes=gender"]).model.user_attributes == (
        "gender",
    )


@pytest.mark.parametrize("setting", ["model.hidden=true", "model.hidden={a=1}", "model.hidden=[0]", "model.hidden=x"])
def test_what_is_no_list_is_answered_with_the_form(setting):
    with pytest.raises(ConfigError, match=r"model.hidden: must be a list such as \[600\]"):
        config.resolve("mult-vae", None, [setting])


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("EASE",), "Did you mean 'ease'?"),
        (("RecVEA",), "Did you mean 'recvae'?"),
        (("multvae",), "Did you mean 'mult-vae'?"),
        ((None, "ML-1M-RECVEA"), "Did you mean 'ml-1m-recvae'?"),
    ],
)
def test_a_slip_in_a_name_is_answered_with_the_nearest_name(arguments, hint):
    with pytest.raises(InputError, match=re.escape(hint)):
        config.resolve(*arguments)


@pytest.mark.parametrize("text", ["", "seed = 3", "name = 'recvae'\ntrain = { batch_size = 1e999 }", "name = 'recvea'"])
def test_a_mistake_in_a_file_names_the_file_and_one_beside_it_does_not(text, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=r"mine\.toml"):
        config.resolve(config=str(file))
    file.write_text("name = 'recvae'")
    with pytest.raises(ConfigError, match=r"^Wrong configuration: train\.epochs"):
        config.resolve(config=str(file), settings=["train.epochs=0"])
