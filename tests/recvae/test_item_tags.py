"""The tags of a model's items: how they are given, and that a run folder keeps them."""

from dataclasses import replace

import pytest
from conftest import checkerboard, random_clicks

import recvae
from recvae.errors import InputError
from recvae.training.vocabulary import Vocabulary

TAGS = {str(i): ["abcde"[i % 5], *(["x"] if i % 3 == 0 else [])] for i in range(36)}
SOME = random_clicks(8, 40, 0.2, seed=4)


def test_odd_tags_come_back_as_they_were(tmp_path):
    tags = {"0": ["a,b", 'say "x"', "two\nlines", " ", "", "x\r"], "3": ("ü", "a,b", "ü"), "77": ["nobody's"]}
    model = recvae.Popularity().fit(checkerboard(), item_tags=tags)
    model.save(tmp_path / "run")
    again = recvae.load(tmp_path / "run")
    assert again.items.tags[0] == tuple(tags["0"])
    assert again.items.tags[3] == ("ü", "a,b")
    assert "nobody's" not in again.items.tag_names


def test_a_blend_takes_the_tags_of_a_component_that_has_some(tmp_path):
    plain, tagged = recvae.EASE().fit(checkerboard()), recvae.ItemKNN().fit(checkerboard(), item_tags=TAGS)
    blend = recvae.Blend([plain, tagged], SOME)
    assert list(blend.items.tags) == list(tagged.items.tags)
    blend.save(tmp_path / "run")
    assert recvae.load(tmp_path / "run").recommend(SOME, 3, allow_tags=["a"]).ids.shape == (8, 3)


def test_a_run_that_goes_on_has_the_tags_of_the_last_call(tmp_path):
    options = {"hidden": (8,), "latent": 4, "seed": 1, "device": "cpu"}
    recvae.MultVAE(**options, epochs=1).fit(checkerboard(), item_tags=TAGS, folder=tmp_path / "run")
    assert recvae.load(tmp_path / "run").items.tag_names
    recvae.MultVAE(**options, epochs=2).fit(checkerboard(), folder=tmp_path / "run", resume=True)
    assert not recvae.load(tmp_path / "run").items.tag_names
    assert not (tmp_path / "run" / "item_tags.csv").exists()
    recvae.MultVAE(**options, epochs=3).fit(checkerboard(), folder=tmp_path / "run", resume=True, item_tags=TAGS)
    assert recvae.load(tmp_path / "run").items.tags[0] == ("a", "x")


def test_damaged_tags_are_named(tmp_path):
    run = tmp_path / "run"
    recvae.Popularity().fit(checkerboard(), item_tags=TAGS).save(run)
    whole = (run / "item_tags.csv").read_bytes()
    for content in (whole.replace(b"0,a\n", b"0,b\n", 1), whole[:-4], b"", b"\xff", None):
        (run / "item_tags.csv").unlink()
        if content is not None:
            (run / "item_tags.csv").write_bytes(content)
        with pytest.raises(recvae.errors.FormatError, match=r"item_tags\.csv"):
            recvae.load(run)
        (run / "item_tags.csv").write_bytes(whole)
    (run / "seal.json").unlink()
    record = (run / "run.json").read_text()
    (run / "run.json").write_text(record.replace('"sealed": true', '"sealed": false'))
    (run / "item_tags.csv").write_bytes(whole.replace(b"0,a\n", b"0,b\n", 1))
    with pytest.raises(recvae.errors.FormatError, match=r"item_tags\.csv was altered: its tags are not the ones"):
        recvae.load(run)


@pytest.mark.parametrize("tags", [["a"], {"1": "Comedy"}, {"1": [3]}, {"1": 3}, {None: ["a"]}, 3])
def test_tags_that_are_none_are_refused(tags):
    with pytest.raises(InputError):
        recvae.Popularity().fit(checkerboard(), item_tags=tags)


def test_other_tags_for_the_same_items():
    items = Vocabulary.of(3, None, None, {"1": ["a"]})
    assert items.tag_names == ("a",)
    again = items.tagged({"0": ["b", "b"], "2": ["c"]})
    assert (again.tag_names, again.tags) == (("b", "c"), [("b",), (), ("c",)])
    assert replace(items, tags=()).tags == [(), (), ()]
    assert replace(items, tags=()).tags_hash() is None
