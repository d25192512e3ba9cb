"""info: a model's options in words and as JSON, and narrow terminals."""

import json
import re
from dataclasses import fields

import pytest

from recvae.cli.terminal import wrapped
from recvae.registry import MODELS, entry


@pytest.mark.parametrize("name", MODELS)
def test_every_option_of_a_model_is_printed_with_its_meaning_values_default_and_search(cli, name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    answer = cli("info", name)
    assert answer.status == 0
    assert answer.out.startswith(f"{entry(name).title}: {entry(name).paper}\n")
    kind = entry(name).model_class()
    document = cli("info", name, "--json").json
    assert document["kind"] == "model"
    for section, defaults in (("model", kind.model_defaults), ("train", kind.train_defaults)):
        if defaults is None:
            assert section not in document["options"]
            continue
        told = document["options"][section]
        assert list(told) == [f.name for f in fields(defaults)]
        for f in fields(defaults):
            default = getattr(defaults, f.name)
            assert told[f.name]["default"] == json.loads(json.dumps(default))
            assert told[f.name]["meaning"] == f.metadata["meaning"]
            assert (told[f.name]["search"] is None) == (f.metadata["search"] is None)
            assert f"\n  {f.name} = " in answer.out
            assert f.metadata["meaning"] in answer.out


def test_values_and_ranges_are_in_words(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    said = cli("info", "recvae").out
    for line in (
        "  latent = 200\n      Number of latent dimensions. Whole number from 1 to 65536. Searched: 50,100,200,400.\n",
        "Searched: 150,300,600. Where nobody sets it, it follows the size of the data; the value here is the paper",
        "Number from 0 to below 1. Searched: 0.2:0.7.\n",
        "Searched: 0.002:0.03:log. Where",
        "  beta = not set\n",
        "Number from 0, or left out.\n",
        "'paper' or 'released'.\n",
        "True or false.\n",
        "--set train.OPTION=VALUE",
    ):
        assert line in said
    assert "  hidden = [600]\n" in cli("info", "mult-vae").out
    assert "List, each value a whole number from 1 to 65536." in cli("info", "mult-vae").out
    assert "It has no options." in cli("info", "popularity").out


def test_a_folder_goes_before_a_model_of_its_name(cli, dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recvae").mkdir()
    assert "RecVAE" in cli("info", "recvae").out  # such as a checkout of this program
    (tmp_path / "ease").symlink_to(dataset)
    assert cli("info", "ease", "--json").json["kind"] == "dataset"


@pytest.mark.parametrize(("asked", "hint"), [("recvea", "recvae"), ("EASE", "ease"), ("multvae", "mult-vae")])
def test_a_misspelt_model_is_answered_with_the_nearest(cli, asked, hint):
    answer = cli("info", asked)
    assert answer.status == 2
    assert answer.err == f"Error: {asked} does not exist, and no model is called so. Did you mean '{hint}'?\n"


def test_a_model_cannot_be_verified(cli):
    answer = cli("info", "ease", "--verify")
    assert answer.status == 2
    assert "--verify needs a folder to check" in answer.err


def words(text):
    return re.findall(r"\S+", text)


@pytest.mark.parametrize("what", ["dataset", "run", "recvae", "vaeac", "catalogue"])
def test_forty_columns_hold_every_word_whole(cli, dataset, recvae_run, what, monkeypatch):
    place = {"dataset": [dataset], "run": [recvae_run], "catalogue": []}.get(what, [what])
    monkeypatch.setenv("COLUMNS", "400")
    wide = cli("info", *place).out
    monkeypatch.setenv("COLUMNS", "40")
    narrow = cli("info", *place).out
    longest = max((word for word in words(wide)), key=len)
    for line in narrow.splitlines():
        assert len(line) <= 40 or len(words(line)) == 1, line  # an address may be longer than the terminal is wide
    assert len(longest) <= 40 or "://" in longest
    if what != "dataset":  # whose table of quantiles is turned round
        assert words(narrow) == words(wide)
    else:
        assert set(words(narrow)) >= set(words(wide)) - {"/", "user", "item"}


def test_a_pipe_gets_whole_lines(cli, dataset, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert any(len(line) > 80 for line in cli("info", "recvae").out.splitlines())


def test_lines_are_broken_under_their_text():
    assert wrapped("short", 40) == "short"
    assert wrapped("  kept        one two three", 20) == "  kept        one\n          two three"
    assert wrapped("  kept        one two three", 24) == "  kept        one two\n            three"
    assert wrapped("one two three", 8) == "one two\n    three"
    assert wrapped("      one two three", 12) == "      one\n      two\n      three"
    assert wrapped("a-very-long-word-indeed", 8) == "a-very-long-word-indeed"
