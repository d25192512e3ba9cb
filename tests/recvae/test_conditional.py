"""The conditional VAE: its equations, what it is shown in training, what it answers, and what it refuses."""

from dataclasses import replace

import numpy as np
import oracles
import oracles_conditional
import pytest
import torch
from conftest import LargestTensor, checkerboard, random_clicks
from scipy.sparse import csr_array
from tiny_models import array, fix_weights, layers

import recvae
from recvae.errors import DataError, FormatError, InputError
from recvae.models.conditional import STEP, ConditionalVAENetwork, ConditionalVAEOptions
from recvae.nn.batches import Batch
from recvae.nn.noise import Noise

X = oracles.fixed_clicks()
USERS, ITEMS = X.shape
TAGS = (oracles.fixed(ITEMS, 3, phase=4) > 0.1).astype(float)  # (I, T)
TAGS[2] = 0  # an item without tags
ATTRIBUTES = np.array([[3, 5], [4, 6], [3, 7], [7, 5], [4, 7], [7, 7], [3, 6]])  # two of each user; 7: not known
C = 7
ROWS, COLUMNS = X.nonzero()

BOARD = checkerboard()  # even users like even items
HALVES = {f"i{n}": (["low", "all"] if n < 20 else ["high", "all"]) for n in range(40)}
TASTES = [{"taste": "even" if n % 2 == 0 else "odd", "age": "30"} for n in range(60)]
IDS = [f"i{n}" for n in range(40)]


def table(tags):
    """Offsets, and the columns of each row's ones."""
    return torch.from_numpy(np.cumsum([0, *tags.sum(axis=1)]).astype(np.int64)), torch.from_numpy(tags.nonzero()[1])


def network(hidden=(6,), **options):
    options = {"hidden": hidden, "latent": 4, "unconditioned": 0.4, "attribute_dropout": 0.3, **options}
    made = ConditionalVAENetwork(ITEMS, ConditionalVAEOptions(**options), n_conditions=C).double()
    made.learn_from(table(TAGS), torch.from_numpy(ATTRIBUTES))
    return fix_weights(made)


def batch(**more):
    return replace(Batch.of(csr_array(X)), **more)


def drawn(noise):
    """Conditions (B, C) and tag (B,), -1 for none, as the written noise draws them."""
    has = np.concatenate(((X @ TAGS > 0), np.zeros((USERS, C + 1 - 3), bool)), axis=1)
    chosen = np.where(has, noise.draws(USERS, C + 1), -np.inf).argmax(1)
    kept = noise.mask(USERS, 0.0) > 0
    chosen = np.where(kept & has.any(1), chosen, -1)
    c = np.zeros((USERS, C + 1))
    for user, tag in enumerate(chosen):
        if tag >= 0:
            c[user, tag] = 1
        if kept[user]:
            c[user, ATTRIBUTES[user]] = 1
    return c[:, :C], chosen


def parameters(made):
    encoder, decoder = layers(made)
    return encoder, array(made.of_input), decoder, STEP * array(made.of_items)


@pytest.mark.parametrize("hidden", [(), (6,), (7, 5)])
def test_loss_equals_the_papers_equations(hidden, written_noise):
    made = network(hidden)
    encoder, e, decoder, v = parameters(made)
    c, chosen = drawn(written_noise)
    assert {-1, 0, 1, 2} >= set(chosen)
    assert (chosen < 0).any()
    assert len(set(chosen)) > 2
    mask = np.zeros_like(X)
    mask[ROWS, COLUMNS] = written_noise.mask(len(ROWS), 0.5)
    target = oracles_conditional.wanted(X, TAGS, chosen)
    expected = oracles_conditional.loss(
        X, mask, c, target, written_noise.draws(USERS, 4), encoder, e, decoder, v, beta=0.17
    )
    loss = made.loss("all", batch(), 0.17, written_noise)
    np.testing.assert_allclose([loss.total.item(), loss.nll.item(), loss.kl.item()], expected, rtol=1e-5)


def test_gamma_counts_the_clicks_that_are_to_come_out(written_noise):
    made = network(gamma=0.01)
    mu, logvar = (array(part) for part in made.posterior(made.asked_for(batch(), written_noise)[0], written_noise))
    target = oracles_conditional.wanted(X, TAGS, drawn(written_noise)[1])
    loss = made.loss("all", batch(), 0.0, written_noise)
    weighted = (0.01 * target.sum(1) * oracles.kl_to_standard_normal(mu, logvar)).mean()
    np.testing.assert_allclose((loss.total - loss.nll).item(), weighted, rtol=1e-5)


@pytest.mark.parametrize("samples", [1, 3])
def test_gradients_of_every_parameter_by_finite_differences(samples, written_noise):
    made = network(samples=samples)

    def total():
        return made.loss("all", batch(), 0.3, written_noise).total

    total().backward()
    for name, parameter in made.named_parameters():
        flat, gradient = parameter.data.view(-1), parameter.grad.reshape(-1)
        assert gradient.abs().max() > 0, name
        for place in gradient.abs().argsort(descending=True)[:: max(1, len(flat) // 6)]:
            step, value = 1e-6, flat[place].item()
            ends = []
            for end in (value + step, value - step):
                flat[place] = end
                ends.append(total().item())
            flat[place] = value
            slope = (ends[0] - ends[1]) / (2 * step)
            np.testing.assert_allclose(gradient[place].item(), slope, rtol=1e-5, atol=1e-8, err_msg=name)


@pytest.mark.parametrize("hidden", [(), (6,)])
def test_posterior_logits_and_likelihood_under_conditions(hidden):
    made = network(hidden)
    encoder, e, decoder, v = parameters(made)
    c = (oracles.fixed(USERS, C, phase=2) > 0).astype(float)  # several at once
    asked = batch(conditions=torch.from_numpy(c))
    mu, logvar = oracles_conditional.posterior(X, np.ones_like(X), c, encoder, e)
    for ours, theirs in zip(made.posterior(asked), (mu, logvar), strict=True):
        np.testing.assert_allclose(array(ours), theirs, rtol=1e-6)
    logits = oracles_conditional.logits(mu, c, decoder, v)
    np.testing.assert_allclose(array(made.logits(asked)), logits, rtol=1e-6)
    np.testing.assert_allclose(
        -array(made.log_likelihood(made.code(asked), asked)), oracles.multinomial_nll(logits, X), rtol=1e-6
    )
    nothing = batch(conditions=torch.zeros(USERS, C, dtype=torch.float64))
    np.testing.assert_allclose(array(made.logits(nothing)), array(made.logits(batch())), rtol=1e-12)


def test_what_is_asked_for_is_drawn_evenly_from_the_users_own_tags():
    made = network(unconditioned=0.25, attribute_dropout=0.4)
    times = 4000
    many = batch().repeated(times)
    given, target = made.asked_for(many, Noise(3))
    assert given.values is many.values
    c = given.conditions.numpy().reshape(times, USERS, C)
    values = target.values.numpy().reshape(times, -1)
    has = X @ TAGS > 0  # (B, T)
    assert (c.sum(axis=2) <= 3).all()
    for user in range(USERS):
        of_tags = c[:, user, :3].mean(axis=0)
        np.testing.assert_allclose(of_tags, has[user] * 0.75 / max(1, has[user].sum()), atol=0.035)
        known = [name for name in ATTRIBUTES[user] if name != C]
        np.testing.assert_allclose(c[:, user, known].mean(axis=0), 0.6, atol=0.035)
        assert not c[:, user, [n for n in range(3, C) if n not in known]].any()
        if len(known) == 2:  # told together or not at all
            np.testing.assert_array_equal(c[:, user, known[0]], c[:, user, known[1]])
        tag = np.where(c[:, user, :3].any(axis=1), c[:, user, :3].argmax(axis=1), -1)
        expected = np.array([oracles_conditional.wanted(X[[user]], TAGS, [t])[0] for t in (-1, 0, 1, 2)])
        np.testing.assert_array_equal(values[:, user == ROWS], expected[tag + 1][:, COLUMNS[user == ROWS]])


def test_a_user_without_tagged_clicks_asks_for_nothing():
    made = network(unconditioned=0.0)
    only = np.zeros((2, ITEMS))
    only[0, 2] = only[1, 2] = 1  # the item without tags
    given, target = made.asked_for(Batch.of(csr_array(only)), Noise(1))
    assert not given.conditions[:, :3].any()
    assert target.values.tolist() == [1, 1]


def test_l2_leaves_out_what_a_condition_adds():
    assert set(network(l2=0.1).l2()) == {"first.weight", "encoder.0.weight", "decoder.0.weight", "decoder.1.weight"}


# --- the model -------------------------------------------------------------------------------------------------------


def model(**more):
    options = {"hidden": (), "latent": 8, "dropout": 0.3, "epochs": 40, "batch_size": 20, "learning_rate": 0.01}
    return recvae.ConditionalVAE(seed=1, device="cpu", **{**options, **more})


@pytest.fixture(scope="module")
def fitted():
    """Tags cut the items in halves, attributes say which colour a user likes."""
    return model(user_attributes=("taste",)).fit(BOARD, item_ids=IDS, item_tags=HALVES, user_attributes=TASTES)


def test_without_conditions_it_is_mult_vae():
    settings = {"hidden": (8,), "latent": 4, "epochs": 3, "batch_size": 20, "seed": 5, "device": "cpu"}
    plain = recvae.MultVAE(**settings).fit(BOARD)
    for options, given in (({}, {}), ({"item_tags": False}, {"item_tags": HALVES})):
        same = recvae.ConditionalVAE(**settings, **options).fit(BOARD, **given)
        assert same.condition_names == ()
        assert same.tensors().keys() == plain.tensors().keys()
        assert all(torch.equal(same.tensors()[name], value) for name, value in plain.tensors().items())


def test_it_answers_with_what_is_asked_for(fitted):
    assert fitted.condition_names == ("all", "high", "low", "taste=even", "taste=odd")
    histories = np.zeros((2, 40), np.float32)
    histories[0, [0, 24, 28]] = histories[1, [1, 25, 29]] = 1
    for tag, half in (("low", 0), ("high", 1)):
        ids, _ = fitted.recommend(csr_array(histories), k=7, conditions=[tag])
        assert (ids // 20 == half).all()
        assert (ids % 2 == [[0], [1]]).all()  # still the user's taste


def test_attributes_speak_for_a_user_without_clicks(fitted):
    nobody = csr_array((1, 40), dtype=np.float32)
    for value, colour in (("even", 0), ("odd", 1)):
        ids, _ = fitted.recommend(nobody, k=10, conditions=[f"taste={value}"])
        assert (ids % 2 == colour).all()
        ids, _ = fitted.recommend(nobody, k=6, conditions=["low", f"taste={value}"])
        assert (ids % 2 == colour).all()
        assert (ids < 20).all()


def test_each_user_can_ask_for_something_else(fitted, monkeypatch):
    names = [["low"], [], ["high", "taste=odd"], ["taste=even"]] * 3
    histories, asked = BOARD[:12], fitted.encode_conditions(names)
    ids, scores = fitted.recommend(histories, k=40, conditions=asked)
    with monkeypatch.context() as patched:
        patched.setattr(recvae.ranking.lists, "SCORES_IN_MEMORY", 200)  # five users at a time
        ids_of_blocks, _ = fitted.recommend(histories, k=40, conditions=asked)
    np.testing.assert_array_equal(ids, ids_of_blocks)
    for user, of_user in enumerate(names):
        alone = fitted.recommend(histories[[user]], k=40, conditions=of_user)
        np.testing.assert_allclose(alone.scores[0], scores[user], rtol=1e-5, atol=1e-5)
    weights = asked * 3  # an entry says which, whatever its value
    np.testing.assert_array_equal(fitted.recommend(histories, k=40, conditions=weights).scores, scores)
    np.testing.assert_array_equal(fitted.recommend(histories, k=40, conditions=asked.toarray()).scores, scores)


def test_a_list_of_names_for_each_user(fitted):
    names = [["low"], ("high", "taste=odd"), []]
    expected = fitted.recommend(BOARD[:3], k=9, conditions=fitted.encode_conditions(names))
    for one, two in zip(fitted.recommend(BOARD[:3], k=9, conditions=names), expected, strict=True):
        np.testing.assert_array_equal(one, two)
    for wrong in (names[:2], ["low", *names], ["low", ["high"], []]):
        with pytest.raises(InputError, match="list of names for all users, or one such list for each of the 3"):
            fitted.recommend(BOARD[:3], conditions=wrong)


def test_by_raw_ids(fitted):
    ids, scores = fitted.recommend_ids([["i0", "i24"]], k=5, conditions=["low"])
    columns, values = fitted.recommend(fitted.encode([["i0", "i24"]])[0], k=5, conditions=["low"])
    assert ids == [[f"i{column}" for column in columns[0]]]
    np.testing.assert_array_equal(np.float32(scores), values)


def test_conditions_that_there_are_not(fitted):
    user = BOARD[[0]]
    with pytest.raises(InputError, match=r"no condition 'taste=evn'. Did you mean 'taste=even'\? It has 'all', 'high'"):
        fitted.recommend(user, conditions=["low", "taste=evn"])
    with pytest.raises(InputError, match=r"Write \['low'\]"):
        fitted.recommend(user, conditions="low")
    with pytest.raises(InputError, match="A condition is a name, and not 7"):
        fitted.recommend(user, conditions=[7])
    with pytest.raises(InputError, match="A user has one 'taste', not both 'taste=odd' and 'taste=even'"):
        fitted.recommend(user, conditions=["low", "taste=odd", "taste=even"])
    with pytest.raises(InputError, match="1 x 4, but there are 1 histories and 5 conditions"):
        fitted.recommend(user, conditions=csr_array((1, 4)))
    with pytest.raises(InputError, match="2 x 5, but there are 1"):
        fitted.recommend(user, conditions=csr_array((2, 5)))
    for plain in (recvae.EASE().fit(BOARD), model(epochs=1).fit(BOARD)):
        assert plain.condition_names == ()
        for asked in (["low"], csr_array((1, 5))):
            with pytest.raises(InputError, match="has no conditions: it ranks by the history alone"):
                plain.recommend(user, conditions=asked)


def test_save_and_load(fitted, tmp_path):
    fitted.save(tmp_path / "run")
    again = recvae.load(tmp_path / "run")
    assert again.condition_names == fitted.condition_names
    for one, two in zip(*(m.recommend(BOARD, k=9, conditions=["low"]) for m in (fitted, again)), strict=True):
        np.testing.assert_array_equal(one, two)
    fitted.condition_names = fitted.condition_names[:-1]
    try:
        fitted.save(tmp_path / "damaged")
    finally:
        fitted.condition_names = again.condition_names
    with pytest.raises(FormatError, match=r"is not of the model that run\.json names"):
        recvae.load(tmp_path / "damaged")


def test_resume_is_exact_and_notices_other_tags(tmp_path):
    class StoppedError(Exception):
        pass

    def stop(report):
        if report.epoch == 3:
            raise StoppedError

    given = {"item_ids": IDS, "item_tags": HALVES, "user_attributes": TASTES}
    options = {"epochs": 6, "user_attributes": ("taste",)}
    whole = model(**options).fit(BOARD, folder=tmp_path / "whole", **given).tensors()
    with pytest.raises(StoppedError):
        model(**options).fit(BOARD, folder=tmp_path / "run", on_epoch=stop, **given)
    for other in ({"item_tags": {**HALVES, "i3": ["high"]}}, {"user_attributes": [*TASTES[1:], {}]}):
        with pytest.raises(InputError, match="other clicks or tags"):
            model(**options).fit(BOARD, folder=tmp_path / "run", resume=True, **{**given, **other})
    again = model(**options).fit(BOARD, folder=tmp_path / "run", resume=True, **given).tensors()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert set(whole) == {"of_input", "of_items", "first.weight", "first.bias", "decoder.0.weight", "decoder.0.bias"}


def test_the_best_epoch_is_kept_in_memory_too():
    scores = iter([1.0, 3.0, 2.0])
    one = model(epochs=3).fit(BOARD, item_ids=IDS, item_tags=HALVES, validation=lambda _: next(scores))
    two = model(epochs=3, stop_after=2).fit(BOARD, item_ids=IDS, item_tags=HALVES)
    assert all(torch.equal(value, two.tensors()[name]) for name, value in one.tensors().items())
    assert one.network.item_tags is None  # only training needs it


@pytest.mark.parametrize(
    ("options", "given", "message"),
    [
        ({"min_items": 41}, {}, "No item tag has 41 items.*smaller model.min_items"),
        ({}, {"item_tags": {"i0": "Comedy"}}, r"Write \['Comedy'\]"),
        ({"user_attributes": ("taste",)}, {}, "give fit the users' attributes too"),
        (
            {"user_attributes": ("tastes",)},
            {"user_attributes": TASTES},
            r"there are age, taste. Did you mean 'taste'\?",
        ),
        ({"user_attributes": ("taste",)}, {"user_attributes": [{}] * 60}, "there are none at all"),
        (
            {"user_attributes": ("taste",)},
            {"user_attributes": TASTES, "item_tags": {**HALVES, "i9": ["taste=odd"]}, "min": 1},
            "An item tag is called 'taste=odd'",
        ),
        ({"user_attributes": ("taste", "age", "taste")}, {"user_attributes": TASTES}, "lists 'taste' twice"),
        (
            {"user_attributes": ("a", "a=b")},
            {"user_attributes": [{"a": "b=c", "a=b": "c"}] * 60},
            "Two attributes of users both make the condition 'a=b=c'",
        ),
    ],
)
def test_tags_and_attributes_that_cannot_be_used(options, given, message):
    given = {"item_tags": HALVES, **given}
    least = {"min_items": 1} if given.pop("min", 0) else {}
    with pytest.raises(InputError, match=message):
        model(**options, **least).fit(BOARD, item_ids=IDS, **given)


def test_attributes_of_other_rows_are_refused():
    with pytest.raises(DataError, match="attributes of 59 users for 60 rows"):
        model(user_attributes=("taste",)).fit(BOARD, item_ids=IDS, user_attributes=TASTES[1:])


def test_rare_tags_are_no_conditions():
    tags = {**HALVES, "i0": ["low", "rare"]}
    assert model(epochs=1, min_items=2).fit(BOARD, item_ids=IDS, item_tags=tags).condition_names == (
        "all",
        "high",
        "low",
    )


def test_unknown_values_of_users_are_left_out(fitted):
    told = fitted.conditions_of([{"taste": "odd"}, {}, {"taste": "never seen"}, {"age": "30"}])
    np.testing.assert_array_equal(told.toarray(), [[0, 0, 0, 0, 1], [0] * 5, [0] * 5, [0] * 5])


def test_one_item_with_very_many_tags_does_not_make_every_row_as_long():
    """Tables that were as wide as the longest row, and all clicks of a batch by that width, took gigabytes."""
    board = random_clicks(100, 50, 0.5)
    tags = {"i0": [f"tag {n}" for n in range(400)], **{f"i{n}": ["plain"] for n in range(1, 50)}}
    made = model(epochs=1, min_items=1)
    with LargestTensor() as largest:
        made.fit(board, item_ids=[f"i{n}" for n in range(50)], item_tags=tags)
    assert len(made.condition_names) == 401
    assert largest.elements < 100_000, (largest.shape, largest.operation)  # 2,500 clicks x 400 tags are a million


def test_the_fingerprint_of_the_conditions_is_that_of_earlier_runs():
    """A table as a list of rows filled up to the longest: what states of earlier versions were told apart by."""
    made = model()
    made.condition_names = ("a", "b", "c")
    made._tables = [[0, 2], [], [1]], None
    assert b"".join(made.given()) == b"('a', 'b', 'c')\n[[0, 2], [3, 3], [1, 3]]\nNone"
    made.condition_names = ()
    assert b"".join(made.given()) == b""
