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


@pytest.fixture(scope="module")
def sent_by_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sent-by-two")
    run("ranked.measured", "sent_by_two", ranks=4, folder=folder)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(4)]


NUMBERS = [  # of a user
    ("recvae encoder", measured.HIDDEN + measured.LATENT + 3),
    ("recvae decoder", 3),
    ("mult-vae all", 2 * measured.HIDDEN + 3),  # the decoder has a hidden layer of the encoder's width
]


@pytest.mark.parametrize(("what", "numbers"), NUMBERS)
def test_an_update_sends_what_the_formula_says_whatever_the_catalogue(what, numbers, sent):
    assert sent[f"{what} 40"] == sent[f"{what} 400"]
    assert sent[f"{what} 40"] == pytest.approx(4 * measured.BATCH * numbers, rel=0.1)
    assert sent[f"{what} 40 gradients"][0] == 0


@pytest.mark.slow
@pytest.mark.parametrize(("what", "numbers"), NUMBERS)
def test_two_processes_with_the_same_items_send_half_of_it_and_their_gradients(what, numbers, sent_by_two):
    for of_rank in sent_by_two:
        for n_items in (40, 400):
            assert of_rank[f"{what} {n_items}"] == pytest.approx(4 * measured.BATCH / 2 * numbers, rel=0.1)
            added, gradients = of_rank[f"{what} {n_items} gradients"]
            assert added == gradients + 4 * 3  # and three losses


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
