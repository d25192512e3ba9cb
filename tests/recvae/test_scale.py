"""The bytes that several processes send, and their memory: those of the formulas in docs/scale.md."""

import json

import pytest
from ranked import measured
from ranked.processes import run


@pytest.fixture(scope="module")
def sent(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sent")
    run("ranked.measured", "sent", ranks=2, folder=folder)
    found = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]
    assert found[0] == found[1]
    return found[0]


@pytest.mark.parametrize(
    ("what", "numbers"),  # a user
    [
        ("recvae encoder", measured.HIDDEN + measured.LATENT + 3),
        ("recvae decoder", 3),
        ("mult-vae all", 2 * measured.HIDDEN + 3),  # the decoder has a hidden layer of the encoder's width
    ],
)
def test_an_update_sends_what_the_formula_says_whatever_the_catalogue(what, numbers, sent):
    assert sent[f"{what} 40"] == sent[f"{what} 400"]
    assert sent[f"{what} 40"] == pytest.approx(4 * measured.BATCH * numbers, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_memory_of_a_process_is_its_part_and_what_all_have(ranks, tmp_path):
    sizes = {"items": 400_000, "users": 40_000, "hidden": 600, "latent": 200, "clicks_per_user": 20, "batch": 200}
    (tmp_path / "sizes.json").write_text(json.dumps({**sizes, "steps": 1}))
    run("ranked.measured", "memory", ranks=ranks, folder=tmp_path, seconds=900)
    for rank in range(ranks):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        whole = found["before"] + found["of_all"] + found["table"] + found["clicks"] + found["whole_clicks"]
        assert found["peak"] < 1.15 * (found["of_items"] + whole), found
