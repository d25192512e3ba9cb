"""What every registered model must do. A new model gets all of this by being registered."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from conftest import checkerboard, random_clicks
from scipy.sparse import csr_array, csr_matrix

import recvae
from recvae.errors import DataError, FormatError, InputError
from recvae.models.neural import NeuralRecommender
from recvae.nn.batches import Batch, Clicks
from recvae.nn.noise import Noise
from recvae.registry import MODELS

# Settings that learn a small matrix in a moment; each model takes those it has.
SMALL = {
    "hidden": 32, "latent": 16, "epochs": 25, "batch_size": 10, "learning_rate": 0.01, "gamma": 0.001,
    "dropout": 0.3, "pseudo_inputs": 10, "factors": 8, "regularization": 0.1, "alpha": 5.0,
}  # fmt: skip
NEURAL = [name for name, entry in MODELS.items() if issubclass(entry.model_class(), NeuralRecommender)]


def make(name, **more):
    kind = MODELS[name].model_class()
    known = {f.name: getattr(d, f.name) for d in (kind.model_defaults, kind.train_defaults) if d for f in fields(d)}
    options = {key: value for key, value in SMALL.items() if key in known}
    if isinstance(known.get("hidden"), tuple):
        options["hidden"] = (options["hidden"],)
    if "encoder_passes" in known:
        options["layers"] = 5  # the paper's, where a board this small would get two
    return kind(seed=1, device="cpu", **{**options, **more})


@pytest.fixture(scope="module")
def fitted():
    """Each model fitted once on the checkerboard."""
    board = checkerboard()
    made = {}

    def get(name):
        if name not in made:
            made[name] = make(name).fit(board, item_ids=[f"i{n}" for n in range(board.shape[1])])
        return made[name]

    return get


@pytest.mark.parametrize("name", [n for n in MODELS if n != "popularity"])
def test_checkerboard_recovery(name, fitted):
    """Even users like even items: of a new user's items, all withheld ones come before any of the other colour."""
    board = checkerboard()
    model = fitted(name)
    items = board.shape[1]
    histories = np.zeros((4, items), np.float32)
    for user in range(4):
        histories[user, (user % 2) :: 4] = 1  # half of their colour
    ids, _ = model.recommend(csr_array(histories), k=items // 4)
    for user in range(4):
        assert set(ids[user] % 2) == {user % 2}, f"user {user} got {ids[user]}"


@pytest.mark.parametrize("name", MODELS)
def test_batch_equals_one_by_one(name, fitted):
    model, histories = fitted(name), random_clicks(23, 40, 0.2, seed=5)
    _, scores = model.recommend(histories, k=40, exclude_seen=False)
    for user in range(23):
        _, alone = model.recommend(histories[[user]], k=40, exclude_seen=False)
        np.testing.assert_allclose(alone[0], scores[user], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_an_empty_history_is_a_legal_user(name, fitted):
    model = fitted(name)
    ids, scores = model.recommend(csr_array((2, 40), dtype=np.float32), k=10)
    assert (ids >= 0).all()
    assert np.isfinite(scores).all()
    np.testing.assert_array_equal(ids[0], ids[1])
    if name not in NEURAL:
        popular = recvae.Popularity().fit(checkerboard())
        np.testing.assert_array_equal(ids, popular.recommend(csr_array((2, 40)), k=10).ids)


@pytest.mark.parametrize("name", MODELS)
def test_seen_items_and_padding(name, fitted):
    model, histories = fitted(name), random_clicks(9, 40, 0.3, seed=6)
    ids, scores = model.recommend(histories, k=60)
    for user in range(9):
        seen = set(histories[[user]].indices.tolist())
        kept = ids[user][ids[user] >= 0]
        assert set(kept.tolist()) == set(range(40)) - seen
        assert (ids[user][len(kept) :] == -1).all()
        assert (scores[user][len(kept) :] == -np.inf).all()
        assert (np.diff(scores[user][: len(kept)]) <= 0).all()
    everything, _ = model.recommend(histories, k=40, exclude_seen=False)
    assert (np.sort(everything, axis=1) == np.arange(40)).all()


@pytest.mark.parametrize("name", MODELS)
def test_the_same_seed_gives_the_same_bits(name):
    one, two = (make(name).fit(checkerboard()).tensors() for _ in range(2))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("name", MODELS)
def test_save_and_load(name, fitted, tmp_path):
    model, histories = fitted(name), random_clicks(9, 40, 0.2, seed=7)
    model.save(tmp_path / "run")
    for again in (recvae.load(tmp_path / "run"), type(model).load(tmp_path / "run", device="cpu")):
        assert type(again) is type(model)
        assert again.config == model.config
        assert list(again.items.ids) == list(model.items.ids)
        for one, two in zip(again.recommend(histories, k=12), model.recommend(histories, k=12), strict=True):
            np.testing.assert_array_equal(one, two)
    with pytest.raises(InputError, match="exists already"):
        model.save(tmp_path / "run")
    model.save(tmp_path / "run", overwrite=True)


@pytest.mark.parametrize("name", MODELS)
def test_raw_ids(name, fitted):
    model = fitted(name)
    ids, scores = model.recommend_ids([["i2", "i4"], []], k=5)
    assert [len(row) for row in ids] == [5, 5]
    assert not {"i2", "i4"} & set(ids[0])
    matrix, unknown = model.encode([["i2", "i4", "i2", "nope"], []])
    assert unknown == ["nope"]
    columns, values = model.recommend(matrix, k=5)
    assert [[f"i{c}" for c in row] for row in columns] == ids
    np.testing.assert_array_equal(values, np.array(scores, np.float32))
    with pytest.raises(InputError, match="'i400'"):
        model.recommend_ids([["i400"]])
    assert model.recommend_ids([["i400"]], skip_unknown=True)[0] == model.recommend_ids([[]])[0]


def test_raw_ids_with_masks_and_slips(fitted):
    model = fitted("ease")
    every = [f"i{n}" for n in range(40)]
    assert set(model.recommend_ids([["i2"]], k=9, allow=every[:6])[0][0]) == {"i0", "i1", "i3", "i4", "i5"}
    assert set(model.recommend_ids([["i2"]], k=40, deny=every[6:])[0][0]) == {"i0", "i1", "i3", "i4", "i5"}
    with pytest.raises(InputError, match="'i77'"):
        model.recommend_ids([["i2"]], deny=["i77"])
    with pytest.raises(InputError, match="not one text"):
        model.recommend_ids(["i2", "i4"])
    with pytest.raises(InputError, match="Did you mean"):
        model.recommend_ids([["i222"]])


@pytest.mark.parametrize("text", ["cr\rhere", "line\nbreak", 'say "hi", twice', " spaced ", "é", "007"])
def test_any_id_and_title_survives_a_run_folder(text, tmp_path):
    model = recvae.Popularity().fit(csr_array(np.ones((2, 2))), item_ids=[text, "other"], titles=["", text])
    model.save(tmp_path / "run")
    again = recvae.load(tmp_path / "run")
    assert (again.items.ids, again.items.titles) == ([text, "other"], ["", text])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("form", ["int64 indices", "csr_matrix", "boolean", "integer", "coo", "dense", "read-only"])
def test_any_form_of_matrix(name, form, fitted):
    board = checkerboard()
    made = {
        "int64 indices": lambda: csr_array((board.data, board.indices.astype("i8"), board.indptr.astype("i8"))),
        "csr_matrix": lambda: csr_matrix(board),
        "boolean": lambda: board.astype(bool),
        "integer": lambda: board.astype(np.int8),
        "coo": board.tocoo,
        "dense": board.toarray,
        "read-only": board.copy,
    }[form]()
    if form == "read-only":
        made.data.flags.writeable = made.indices.flags.writeable = made.indptr.flags.writeable = False
    for one, two in zip(fitted(name).recommend(made, k=5), fitted(name).recommend(board, k=5), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", MODELS)
def test_similar_items(name, fitted):
    model = fitted(name)
    if name == "popularity":
        with pytest.raises(InputError, match="alike"):
            model.similar_items([0])
        return
    ids, scores = model.similar_items([6, 7], k=10)
    assert ids.shape == (2, 10)
    assert (np.diff(scores, axis=1) <= 0).all()
    for item, row in zip((6, 7), ids, strict=True):
        assert item not in row
        assert set(row % 2) == {item % 2}
    with pytest.raises(InputError, match=r"0 \.\. 39"):
        model.similar_items([40])


@pytest.mark.parametrize("name", MODELS)
def test_matrices_that_do_not_fit(name, fitted):
    model = fitted(name)
    with pytest.raises(InputError, match="39 columns"):
        model.recommend(csr_array((1, 39)))
    with pytest.raises(InputError, match="not fitted"):
        make(name).recommend(csr_array((1, 40)))
    with pytest.raises(DataError, match="no clicks"):
        make(name).fit(csr_array((5, 4)))
    with pytest.raises(DataError, match="3 item ids for 40 columns"):
        make(name).fit(checkerboard(), item_ids=["a", "b", "c"])
    with pytest.raises(DataError, match="not distinct"):
        make(name).fit(checkerboard(), item_ids=["a"] * 40)
    with pytest.raises(DataError, match="weight -1"):
        make(name).fit(csr_array(np.array([[1, -1.0]])))


@pytest.mark.parametrize("name", MODELS)
def test_a_run_folder_of_another_model_is_refused(name, fitted, tmp_path):
    fitted(name).save(tmp_path / "run")
    other = recvae.EASE if name != "ease" else recvae.Popularity
    with pytest.raises(FormatError, match=f"'{name}' model"):
        other.load(tmp_path / "run")


@pytest.mark.parametrize("name", NEURAL)
def test_gradients_reach_every_parameter_of_a_phase_and_no_frozen_one(name):
    model = make(name)
    clicks = Clicks(checkerboard())
    network = type(model).build(40, model.config.model, 1)
    for phase in network.phases():
        network.zero_grad(set_to_none=True)
        network.requires_grad_(False)
        for parameter in phase.parameters:
            parameter.requires_grad_(True)
        network.begin_phase(phase.name, 0, clicks, 10)
        network.loss(phase.name, next(clicks.in_order(len(clicks))), 0.1, Noise(1)).total.backward()
        trained = {id(p) for p in phase.parameters}
        for label, parameter in network.named_parameters():
            if id(parameter) in trained:
                assert parameter.grad is not None, label
                assert parameter.grad.abs().max() > 0, label
            else:
                assert parameter.grad is None, label
    assert {id(p) for phase in network.phases() for p in phase.parameters} == {id(p) for p in network.parameters()}


@pytest.mark.parametrize("name", NEURAL)
def test_predicting_is_deterministic_whatever_the_module_mode(name, fitted):
    """Neither dropout nor sampling is left on."""
    model = fitted(name)
    batch = Batch.of(checkerboard())
    with torch.no_grad():
        first = model.network.train().logits(batch)
        assert torch.equal(first, model.network.eval().logits(batch))
        assert torch.equal(first, model.network.logits(batch))


@pytest.mark.parametrize("name", NEURAL)
def test_click_weights_matter_only_when_asked_for(name):
    board = checkerboard()
    counts = board.copy()
    counts.data = 1 + np.arange(len(counts.data), dtype=np.float32) % 4
    plain, ignored, used = (
        make(name, epochs=2, weighted=weighted).fit(matrix).tensors()
        for matrix, weighted in ((board, False), (counts, False), (counts, True))
    )
    assert all(torch.equal(plain[key], ignored[key]) for key in plain)
    assert not all(torch.equal(plain[key], used[key]) for key in plain)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_says_what_it_is(name, fitted):
    kind = MODELS[name].model_class()
    assert repr(kind(device="cpu")) == f"{kind.__name__}(default options; not fitted)"
    said = repr(fitted(name))
    assert said.startswith(f"{kind.__name__}(")
    assert "; fitted: 40 items" in said
    assert "seed=1" in said
    assert ("best epoch 25" in said) == (name in NEURAL)
    assert "\n" not in said


def test_a_blend_says_what_it_is_made_of(fitted):
    blend = recvae.Blend([fitted("ease"), fitted("recvae")], checkerboard(), [1, 3])
    assert repr(blend) == "Blend(0.25 EASE + 0.75 RecVAE; fitted: 40 items)"
