"""A blend of trained models: its scores, its search for weights, and its run folder."""

import copy
import json
import shutil

import numpy as np
import pytest
import torch
from conftest import checkerboard, random_clicks
from scipy.sparse import csr_array
from sealing import reseal

import recvae
from eval import validator
from recvae.errors import FormatError, InputError, WorkError
from recvae.experiments.blend_weights import SCORES_KEPT, Trials, best_weights
from recvae.models.blend import Blend, normalised
from recvae.recommender import Recommender

IDS = [f"i{n}" for n in range(40)]


@pytest.fixture(scope="module")
def models():
    """EASE, item-kNN and popularity of noisy tastes: no model is best for everybody."""
    noisy = csr_array(((checkerboard(users=90).toarray() + random_clicks(90, 40, 0.15, seed=8).toarray()) > 0) * 1.0)
    kinds = (recvae.EASE(l2=20.0), recvae.ItemKNN(neighbours=6), recvae.Popularity())
    return [model.fit(noisy, item_ids=IDS) for model in kinds]


@pytest.fixture(scope="module")
def histories():
    return random_clicks(30, 40, 0.2, seed=5)


@pytest.fixture(scope="module")
def validation(histories):
    """NDCG@5 of random users: a noisy function of the weights, with many steps."""
    held_out = random_clicks(30, 40, 0.3, seed=6)
    held_out = csr_array(held_out - held_out.multiply(histories > 0))
    held_out.eliminate_zeros()
    return validator(histories, held_out, "ndcg@5", batch_size=7)


def component_scores(model, histories):
    with torch.no_grad():
        return model.scores(histories).numpy().astype(np.float64)


def oracle(models, weights, measured_on, histories):
    """The definition, in float64: each user's deviations from their mean, pooled, give a component's spread."""
    total = np.zeros(histories.shape)
    for model, weight in zip(models, np.array(weights) / np.sum(weights), strict=True):
        scores = component_scores(model, measured_on)
        deviations = scores - scores.mean(axis=1, keepdims=True)
        total += weight * component_scores(model, histories) / np.sqrt((deviations**2).mean())
    return total


def shares_of_a_hundredth(step):
    return [(1 - share, share) for share in np.arange(0, 100 + step, step) / 100]


def test_scores_are_the_weighted_sum(models, histories):
    blend = Blend(models, histories, [1, 2, 5])
    others = random_clicks(11, 40, 0.1, seed=1)
    expected = oracle(models, [1, 2, 5], histories, others)
    np.testing.assert_allclose(blend.scores(others).numpy(), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(blend.weights, [0.125, 0.25, 0.625])
    assert Blend(models[:2], histories).weights == (0.5, 0.5)


def test_empty_histories_are_not_measured_and_are_answered_with_popularity(models, histories):
    some_empty = csr_array((np.ones(3), ([1, 1, 3], [4, 7, 9])), shape=(5, 40))
    assert Blend(models, some_empty).spreads == Blend(models, some_empty[[1, 3]]).spreads
    ids, scores = Blend(models, histories).recommend(csr_array((2, 40)), k=40)
    assert np.isfinite(scores).all()
    np.testing.assert_array_equal(ids[0], models[2].recommend(csr_array((1, 40)), k=40).ids[0])


def test_the_whole_weight_gives_the_components_ranking(models, histories):
    for place, model in enumerate(models):
        weights = [float(other == place) for other in range(3)]
        ids, _ = Blend(models, histories, weights).recommend(histories, k=40)
        np.testing.assert_array_equal(ids, model.recommend(histories, k=40).ids)


def test_a_component_without_weight_is_not_asked(models, histories):
    blend = Blend(models[:2], histories, [1, 0])
    blend.scorers = [models[0].scores, None]
    assert blend.scores(histories).shape == (30, 40)


def test_batch_equals_one_by_one(models, histories):
    blend = Blend(models, histories, [0.5, 0.3, 0.2])
    _, scores = blend.recommend(histories, k=40, exclude_seen=False)
    for user in range(histories.shape[0]):
        _, alone = blend.recommend(histories[[user]], k=40, exclude_seen=False)
        np.testing.assert_allclose(alone[0], scores[user], rtol=1e-5, atol=1e-5)


def test_spreads_are_the_same_however_the_users_are_tiled(models, histories, monkeypatch):
    whole = Blend(models, histories).spreads
    monkeypatch.setattr("recvae.models.blend.SCORES_IN_MEMORY", 7 * 40)
    np.testing.assert_allclose(Blend(models, histories).spreads, whole, rtol=1e-12)


def test_two_components_get_the_best_weights_of_the_grid(models, histories, validation):
    blend = Blend(models[:2], histories)
    best = best_weights(trials := Trials(blend, validation))
    found = validation(blend.with_weights(best))
    assert trials(best) == found == max(trials.figures.values())
    grid = {weights: validation(Blend(models[:2], histories, weights)) for weights in shares_of_a_hundredth(5)}
    assert found >= max(grid.values())
    assert max(grid.values()) > max(grid[1, 0], grid[0, 1])  # or nothing was there to be found
    near = [w for w in shares_of_a_hundredth(1) if abs(w[1] - best[1]) < 0.045]
    assert found >= max(validation(blend.with_weights(weights)) for weights in near)
    assert [trials.alone(place) for place in range(2)] == [validation(model) for model in models[:2]]


def test_three_components_are_never_worse_than_any_or_than_equal_weights(models, histories, validation):
    blend = Blend(models, histories)
    best = best_weights(trials := Trials(blend, validation))
    assert trials(best) == validation(blend.with_weights(best))
    assert trials(best) >= max(*(validation(model) for model in models), validation(blend))
    assert trials(best) > validation(blend)
    assert best == best_weights(Trials(blend, validation))
    assert min(best) >= 0
    assert sum(best) == pytest.approx(1, abs=1e-12)


def test_the_search_finds_a_hidden_optimum():
    """Of a smooth function with one hill, the three weights of its top to the search's last step."""

    class Three:
        components = (None, None, None)

    class Hill:
        blend = Three()

        def __call__(self, weights):
            return -sum((a - b) ** 2 for a, b in zip(weights, (0.62, 0.07, 0.31), strict=True))

    np.testing.assert_allclose(best_weights(Hill()), [0.62, 0.07, 0.31], atol=0.0101)


@pytest.mark.parametrize(("keep", "calls"), [(SCORES_KEPT, 1), (0, 8), (7 * 40, 8)])
def test_component_scores_are_computed_once_where_they_fit(models, histories, validation, keep, calls):
    """Five batches of 7, 7, 7, 7 and 2 users, and eight trials; with room for one batch only that is kept."""
    blend = Blend(models[:2], histories)
    asked = [0]

    def counted(rows):
        asked[0] += 1
        return models[0].scores(rows)

    blend.scorers = [counted, models[1].scores]
    trials = Trials(blend, validation, keep=keep)
    plain = [validation(blend.with_weights((1 - share, share))) for share in (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)]
    asked[0] = 0
    assert [trials((1 - share, share)) for share in (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)] == plain
    assert asked[0] == (1 + 4 * 8 if keep == 7 * 40 else 5 * calls)
    assert trials((0.5, 0.5)) == plain[5]


def test_save_and_load_give_the_same_bits(models, histories, tmp_path):
    blend = Blend(models, histories, [0.2, 0.3, 0.5])
    blend.metrics, blend.dataset = {"validation": 0.25}, {"name": "board"}
    blend.save(tmp_path / "run")
    shutil.move(tmp_path / "run", tmp_path / "moved")  # self-contained
    for again in (recvae.load(tmp_path / "moved"), Blend.load(tmp_path / "moved", device="cpu")):
        assert type(again) is Blend
        assert (again.config, again.spreads, again.metrics, again.dataset) == (
            blend.config,
            blend.spreads,
            blend.metrics,
            blend.dataset,
        )
        for one, two in zip(again.recommend(histories, k=12), blend.recommend(histories, k=12), strict=True):
            np.testing.assert_array_equal(one, two)
        assert again.recommend_ids([["i2", "i4"]], k=3) == blend.recommend_ids([["i2", "i4"]], k=3)
    again.save(tmp_path / "moved", overwrite=True)
    assert (tmp_path / "moved/components/1-item-knn/model.safetensors").is_file()


def test_a_blend_of_a_blend(models, histories, tmp_path):
    inner = Blend(models[:2], histories, [0.5, 0.5])
    outer = Blend([inner, models[2]], histories, [0.9, 0.1])
    outer.save(tmp_path / "run")
    again = recvae.load(tmp_path / "run", device="cpu")
    assert torch.equal(again.scores(histories), outer.scores(histories))


@pytest.mark.gpu
def test_models_on_two_devices(models, histories, validation, tmp_path):
    """A network on the GPU and item-kNN on the CPU, searched, saved, and loaded on the CPU."""
    network = recvae.MultDAE(hidden=(), latent=8, epochs=2, device="cuda").fit(checkerboard(), item_ids=IDS)
    blend = Blend([network, models[1]], histories, device="cuda")
    blend = blend.with_weights(best_weights(Trials(blend, validation)))
    blend = blend.with_weights([*np.maximum(blend.weights, 0.1)])  # so that both are asked
    assert blend.scores(histories).device.type == "cuda"
    blend.save(tmp_path / "run")
    again = recvae.load(tmp_path / "run", device="cpu")
    np.testing.assert_allclose(
        again.scores(histories).detach(), blend.scores(histories).detach().cpu(), rtol=1e-3, atol=1e-3
    )
    ours, theirs = (model.similar_items([3]).scores for model in (again, blend))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


def replace_component(run, models):
    shutil.rmtree(run / "components/0-ease")
    recvae.EASE(l2=21.0).fit(checkerboard(), item_ids=IDS).save(run / "components/0-ease")


def change_weights(run, models):
    record = json.loads((run / "run.json").read_text())
    record["config"]["model"]["weights"] = [0.5, 0.5]
    (run / "run.json").write_text(json.dumps(record))


def change_settings(run, models):
    path = run / "components/0-ease/run.json"
    path.write_text(path.read_text().replace("20.0", "30.0"))


def change_settings_and_seal(run, models):
    change_settings(run, models)
    reseal(run / "components/0-ease")


def change_weights_and_seal(run, models):
    change_weights(run, models)
    reseal(run)


def truncate(run, models):
    path = run / "components/0-ease/model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def remove(run, models):
    shutil.rmtree(run / "components/1-item-knn")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (replace_component, "0-ease is not the model that was blended into .*run. Blend again."),
        (change_settings, "0-ease.run.json was altered: .* digest in seal.json"),
        (change_settings_and_seal, "0-ease is not the model that was blended"),
        (change_weights, "run.json was altered: .* digest in seal.json"),
        (change_weights_and_seal, "run.json and model.safetensors of the blend have different weights"),
        (truncate, "0-ease.model.safetensors is missing, truncated"),
        (remove, "1-item-knn is missing. Blend again"),
    ],
)
def test_a_damaged_run_is_refused(models, histories, tmp_path, damage, said):
    Blend(models[:2], histories, [0.25, 0.75]).save(tmp_path / "run")
    damage(tmp_path / "run", models)
    with pytest.raises(FormatError, match=said):
        recvae.load(tmp_path / "run")


def test_similar_items_are_the_weighted_sum(models, histories):
    blend = Blend(models, histories, [0.75, 0.25, 0])
    items = torch.tensor([3, 8])
    parts = [model.similarity(items).numpy().astype(np.float64) for model in models[:2]]
    neighbours = parts[1] > -np.inf
    spreads = []
    for model in models[:2]:
        every = model.similarity(torch.arange(model.n_items)).numpy().astype(np.float64)
        others = [np.delete(np.where(row > -np.inf, row, 0), item) for item, row in enumerate(every)]
        spreads.append(np.sqrt(np.mean([row.var() for row in others])))
    mean = 0.75 * spreads[0] + 0.25 * spreads[1]
    expected = mean * (0.75 * parts[0] / spreads[0] + 0.25 * np.where(neighbours, parts[1], 0) / spreads[1])
    np.testing.assert_allclose(blend.similarity(items).numpy(), expected, rtol=1e-6, atol=1e-7)
    only_neighbours = Blend([models[1], models[1]], histories).similarity(items).numpy()
    np.testing.assert_array_equal(only_neighbours > -np.inf, neighbours)
    with pytest.raises(InputError, match=r"The blend cannot say which items are alike\. Popularity knows"):
        Blend(models, histories).similar_items([0])


def test_similarities_of_another_spread_count_as_much(models, histories):
    """A thousandfold similarity says the same, and its model must not drown the other."""
    one, other = copy.copy(models[0]), models[1]
    before = Blend([one, other], histories).similar_items(range(9), 12)
    one.similarity = lambda items: models[0].similarity(items) * 1000
    after = Blend([one, other], histories).similar_items(range(9), 12)
    np.testing.assert_array_equal(after.ids, before.ids)
    alone = Blend([one, other], histories, [1, 0]).similar_items([3], 12)
    for ours, theirs in zip(alone, one.similar_items([3], 12), strict=True):
        np.testing.assert_array_equal(ours, theirs)


class Scores(Recommender):
    """Scores whatever it is told to."""

    name = "popularity"
    model_defaults = recvae.Popularity.model_defaults

    def __init__(self, value, items):
        super().__init__()
        self.value, self.items = value, items

    def scores(self, histories):
        return torch.full(histories.shape, self.value)

    def similarity(self, items): ...
    def tensors(self): ...
    def expected(self): ...
    def load_tensors(self, tensors): ...


def test_bad_input_is_one_sentence(models, histories):
    with pytest.raises(InputError, match="at least two models, and was given 1"):
        Blend(models[:1], histories)
    with pytest.raises(InputError, match="not fitted yet"):
        Blend([models[0], recvae.EASE()], histories)
    strangers = recvae.Popularity().fit(checkerboard(), item_ids=[f"x{n}" for n in range(40)])
    with pytest.raises(InputError, match=r"Models 1 \(ease\) and 3 \(popularity\) of the blend know different"):
        Blend([*models[:2], strangers], histories)
    board = {"item_ids": IDS, "user_attributes": [{"taste": str(row % 2)} for row in range(60)]}
    people = recvae.ConditionalVAE(hidden=(), epochs=1, item_tags=False, user_attributes=("taste",))
    with pytest.raises(InputError, match=r"Model 2 \(conditional-vae\) of the blend was trained on users' attributes"):
        Blend([models[0], people.fit(checkerboard(), **board)], histories)
    with pytest.raises(InputError, match="39 columns, but the models know 40 items"):
        Blend(models, csr_array((3, 39)))
    with pytest.raises(InputError, match="All histories are empty"):
        Blend(models, csr_array((3, 40)))
    with pytest.raises(InputError, match="has 3 models, and was given 2 weights"):
        Blend(models, histories, [0.5, 0.5])
    with pytest.raises(InputError, match=r"Model 2 \(popularity\) of the blend scores all items alike"):
        Blend([models[0], Scores(0.1, models[0].items)], histories)
    with pytest.raises(WorkError, match=r"Model 2 \(popularity\) of the blend cannot be used. .* not numbers"):
        Blend([models[0], Scores(float("nan"), models[0].items)], histories)
    for wrong in ((0, 0), (-0.1, 1), (float("nan"), 1), (float("inf"), 1)):
        with pytest.raises(InputError, match="Weights must be 0 or more, and one above 0"):
            normalised(wrong, 2)
    with pytest.raises(InputError, match="not trained itself"):
        Blend(models, histories).fit(checkerboard())
