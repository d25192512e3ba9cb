"""Reasons of every model against their definition, ties and rules included, and how they are computed."""

import numpy as np
import oracles_reasons as oracle
import pytest
import torch
from conftest import random_clicks
from hypothesis import given, settings
from hypothesis import strategies as st
from outside_models import ENTRIES, CoClick
from quick_models import quick
from scipy.sparse import csr_array

import recvae
from recvae.errors import InputError, WorkError
from recvae.models.blend import Blend
from recvae.models.mult import MultVAE, MultVAENetwork
from recvae.queries import Query
from recvae.ranking import reasons
from recvae.registry import MODELS

ITEMS = 40
TRAIN = random_clicks(90, ITEMS, 0.2, seed=1)
TRAIN[[0]].data[:] = 1
IDS = [f"i{n}" for n in range(ITEMS)]
TAGS = {f"i{n}": (["low"] if n < 20 else ["high"]) for n in range(ITEMS)}


def rated(matrix, seed=0):
    values = np.random.default_rng(seed).integers(1, 11, matrix.nnz) / 2
    return csr_array((values.astype(np.float32), matrix.indices, matrix.indptr), shape=matrix.shape)


def fitted(name):
    """A model of a name; the names after the registered ones are models with other options, and one from outside."""
    if name == "blend":
        return Blend([fitted("ease"), fitted("recvae")], TRAIN, [0.3, 0.7])
    if name == "outside":
        model = CoClick(device="cpu").fit(TRAIN, item_ids=IDS)
        model.weights += 1e-3 * torch.rand(ITEMS, ITEMS, generator=torch.Generator().manual_seed(0))
        return model  # whose sums do not tie: rounding, another in a batch, would decide
    if name.startswith("vaeac "):
        return quick("vaeac", ratings=True, likelihood=name.split()[1]).fit(rated(TRAIN), item_ids=IDS)
    if name == "weighted":
        return quick("recvae", weighted=True).fit(rated(TRAIN), item_ids=IDS)
    more = {"item_tags": TAGS} if name == "conditional-vae" else {}
    return quick(name).fit(TRAIN, item_ids=IDS, **more)


NAMES = [*MODELS, "blend", "vaeac gaussian", "vaeac multinomial", "weighted", "outside"]


@pytest.fixture(scope="module")
def models():
    made = {}

    def get(name):
        if name not in made:
            made[name] = fitted(name)
        return made[name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, CoClick.name, ENTRIES[CoClick.name])
        yield get


def histories_of(model, n=6, seed=5):
    """Users with many clicks, with one, and with none."""
    dense = random_clicks(n, ITEMS, 0.2, seed).toarray()
    dense[1] = 0
    dense[2] = np.eye(ITEMS, dtype=np.float32)[7]
    clicks = csr_array(dense)
    return rated(clicks, seed) if model.of_ratings or getattr(model, "weighted", False) else clicks


def check(model, query, answer, r):
    """An answer has the reasons that its definition gives."""
    asked = None if query.conditions is None else model._known(query).conditions
    allowed = oracle.allowed_items(query.histories.toarray(), query.exclude_seen, query.allow, query.deny)
    expected = oracle.reasons(oracle.of_model(model, asked), query.histories, answer.ids, allowed, r)
    found = answer.reasons
    assert found.items.shape == found.scores.shape == found.ranks_without.shape == (*answer.ids.shape, r)
    assert [part.dtype for part in (found.ranks, found.items, found.scores, found.ranks_without)] == [
        np.int32, np.int32, np.float32, np.int32,
    ]  # fmt: skip
    any_reason = False
    for user, lists in enumerate(expected):
        for column in range(query.k):
            rank, because = lists[column] if column < len(lists) else (0, [])
            n = len(because)
            where = f"user {user}, place {column}"
            assert found.ranks[user, column] == rank, where
            assert found.items[user, column].tolist() == [i for i, _, _ in because] + [-1] * (r - n), where
            ranks = [place for _, _, place in because] + [0] * (r - n)
            assert found.ranks_without[user, column].tolist() == ranks, where
            scores = [s for _, s, _ in because] + [-np.inf] * (r - n)
            np.testing.assert_allclose(found.scores[user, column], scores, rtol=1e-5, atol=1e-5)
            any_reason |= n > 0
    return any_reason


@pytest.mark.parametrize("name", NAMES)
def test_reasons_are_what_the_definition_gives(models, name):
    model = models(name)
    histories = histories_of(model)
    rng = np.random.default_rng(2)
    allow = csr_array((rng.random(histories.shape) < 0.6).astype(np.float32))
    cases = [
        Query(histories, 5, reasons=3),
        Query(histories, 5, reasons=3, deny=np.array([0, 3, 11]), allow=np.arange(30)),
        Query(histories, 60, exclude_seen=False, reasons=20, deny=allow),  # more than there are, of both
        Query(histories[[0]], 4, allow=allow[[0]], reasons=1),
    ]
    if name == "conditional-vae":
        each = csr_array(np.array([[1, 0], [0, 1], [1, 1], [0, 0], [1, 0], [0, 1]], dtype=np.float32))
        cases += [Query(histories, 5, conditions=["low"], reasons=2), Query(histories, 5, conditions=each, reasons=2)]
    found = [check(model, query, model.answer(query), query.reasons) for query in cases]
    assert any(found) == (name != "popularity"), "no item has a reason"


@pytest.mark.parametrize("name", NAMES)
def test_the_scores_of_some_items_are_those_of_all(models, name):
    model = models(name)
    histories, items = histories_of(model, n=9), torch.tensor([3, 0, 39, 17])
    conditions = (csr_array(np.ones((9, 2), np.float32)),) if name == "conditional-vae" else ()
    with torch.no_grad():
        some = model.scores_at(histories, items, *conditions)
        every = model.scores(histories, *conditions)
    torch.testing.assert_close(some, every[:, items], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["recvae", "ease", "item-knn"])
def test_lists_are_the_same_with_reasons_and_in_a_batch(models, name):
    model = models(name)
    histories = histories_of(model, n=12)
    plain, with_reasons = model.recommend(histories, 7), model.recommend(histories, 7, reasons=2)
    assert plain.reasons is None
    for one, two in zip(plain, with_reasons, strict=True):
        np.testing.assert_array_equal(one, two)
    for user in range(12):
        alone = model.recommend(histories[[user]], 7, reasons=2).reasons
        np.testing.assert_array_equal(alone.items[0], with_reasons.reasons.items[user])
        np.testing.assert_array_equal(alone.ranks_without[0], with_reasons.reasons.ranks_without[user])
        np.testing.assert_allclose(alone.scores[0], with_reasons.reasons.scores[user], rtol=1e-5, atol=1e-5)


@given(
    n=st.integers(0, 5),
    items=st.integers(1, 12),
    k=st.integers(1, 14),
    r=st.integers(1, 5),
    values=st.integers(1, 3),
    density=st.sampled_from([0.0, 0.2, 0.7, 1.0]),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans()),
    sizes=st.tuples(st.integers(1, 60), st.integers(1, 9), st.integers(1, 40)),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=150, deadline=None)
def test_selection_with_ties_in_blocks_of_any_size(n, items, k, r, values, density, flags, sizes, seed):
    """Scores are small whole numbers, so that nearly all tie; the lists are in another order than that of scores."""
    rng = np.random.default_rng(seed)
    weights = rng.integers(-values, values + 1, (items, items)).astype(np.float32)
    histories = csr_array((rng.random((n, items)) < density) * rng.integers(1, 3, (n, items)).astype(np.float32))
    exclude, use_allow, use_deny, shuffled = flags
    allow = csr_array((rng.random((n, items)) < 0.7).astype(np.float32)) if use_allow else None
    deny = np.flatnonzero(rng.random(items) < 0.3) if use_deny else None
    query = Query(histories, k, exclude, allow, deny, reasons=r, diversity=0.5 if shuffled else 0.0)

    def score(rows):
        return rows.toarray().astype(np.float32) @ weights

    def of_row(row, user):
        del user
        return row @ weights

    allowed = oracle.allowed_items(query.histories.toarray(), exclude, allow, deny)
    ids = np.full((n, k), -1, dtype=np.int32)
    for user in range(n):
        columns = np.flatnonzero(allowed[user])
        best = columns[np.argsort(-of_row(query.histories.toarray()[user], 0)[columns], kind="stable")][:k]
        ids[user, : len(best)] = rng.permutation(best) if shuffled else best
    names = ("ENTRIES_IN_MEMORY", "ROWS_AT_ONCE", "SCORES_IN_MEMORY")
    module = vars(reasons)
    before = {name: module[name] for name in names}
    module.update(zip(names, sizes, strict=True))
    try:
        found = reasons.find_reasons(score, lambda rows, some: score(rows)[:, some], query, ids)
    finally:
        module.update(before)
    expected = oracle.reasons(of_row, query.histories, ids, allowed, r)
    for user, lists in enumerate(expected):
        for column, (rank, because) in enumerate(lists):
            assert found.ranks[user, column] == rank
            pad = [(-1, -np.inf, 0)] * (r - len(because))
            parts = (found.items[user, column], found.scores[user, column], found.ranks_without[user, column])
            assert list(zip(*(part.tolist() for part in parts), strict=True)) == [*because, *pad]
        assert (found.ranks[user, len(lists) :] == 0).all()
        assert (found.items[user, len(lists) :] == -1).all()


@given(lengths=st.lists(st.integers(0, 30), max_size=12), most=st.integers(1, 20))
@settings(max_examples=100, deadline=None)
def test_blocks_hold_every_row_once_and_no_more_than_fit(lengths, most):
    module = vars(reasons)
    before, module["ENTRIES_IN_MEMORY"] = module["ENTRIES_IN_MEMORY"], 50
    try:
        blocks = [*reasons._blocks(np.array(lengths, dtype=np.int64), most)]
    finally:
        module["ENTRIES_IN_MEMORY"] = before
    rows = [(part.user, row) for block in blocks for part in block for row in range(part.start, part.stop)]
    assert rows == [(user, row) for user, length in enumerate(lengths) if length for row in range(length + 1)]
    for block in blocks:
        sizes = [part.stop - part.start for part in block]
        assert sum(sizes) <= most
        assert sum(s * lengths[p.user] for s, p in zip(sizes, block, strict=True)) <= 50


def test_only_chosen_rows_are_scored_in_full(models, monkeypatch):
    """A long history is scored in full without no more of its items than there are reasons."""
    model, history = models("recvae"), csr_array(np.ones((1, ITEMS), np.float32))
    counted = []
    monkeypatch.setattr(type(model), "scores", lambda self, rows: counted.append(rows.shape[0]) or _scores(self, rows))
    model.recommend(history, 2, exclude_seen=False, reasons=3)
    assert counted[0] == 1  # the list
    assert sum(counted[1:]) <= 6


def _scores(model, rows):
    return model.network.logits(model.batch(rows))


def test_a_class_with_scores_of_its_own_uses_no_short_way_of_the_class_above():
    class Shifted(recvae.EASE):
        def scores(self, histories):
            return super().scores(histories) + torch.arange(self.n_items) * histories.sum(axis=1).max()

    class ShiftedNetwork(MultVAENetwork):
        def logits(self, batch):
            return super().logits(batch) * torch.arange(self.n_items)

    class ShiftedVAE(MultVAE):
        build = ShiftedNetwork

    items = torch.tensor([4, 1])
    for kind, options in ((Shifted, {}), (ShiftedVAE, {"epochs": 1, "latent": 4, "hidden": ()})):
        model = kind(device="cpu", **options).fit(TRAIN)
        with torch.no_grad():
            every = model.scores(TRAIN[:5])
            torch.testing.assert_close(model.scores_at(TRAIN[:5], items), every[:, items])


def test_scores_that_are_no_numbers_are_refused():
    query = Query(random_clicks(2, 8, 0.5), 2, reasons=1)
    ids = np.zeros((2, 2), dtype=np.int32)

    def good(rows):
        return rows.toarray() @ np.ones((8, 8), np.float32)

    def bad(rows, *items):
        return np.full((rows.shape[0], 8 if not items else len(items[0])), np.nan)

    for score, score_at in ((good, bad), (bad, lambda rows, items: good(rows)[:, items])):
        with pytest.raises(WorkError, match="not numbers"):
            reasons.find_reasons(score, score_at, query, ids)


@pytest.mark.parametrize(("asked", "said"), [(-1, "0"), (101, "100"), (1.5, "whole"), (True, "whole")])
def test_a_number_of_reasons_out_of_range_is_refused(models, asked, said):
    with pytest.raises(InputError, match=said):
        models("ease").recommend(TRAIN[:1], 2, reasons=asked)


@pytest.mark.parametrize("name", ["recvae", "mult-vae", "vamp-vae", "vaeac gaussian", "recvae-edlae"])
@pytest.mark.parametrize("length", [9, 30])
def test_users_of_the_same_items_have_the_same_scores_in_a_shared_matrix(models, name, length):
    """Few items are gathered for the matrix, and all are taken as they are; other users' items are no nearer."""
    model = models(name)
    dense = np.ones((length, ITEMS), np.float32)
    dense[:, length:] = 0
    np.fill_diagonal(dense, 0)
    rows = csr_array(dense * np.arange(1, ITEMS + 1) / 10).astype(np.float32)
    batch = model.batch(rows)
    assert batch.shared is None
    assert batch.sharing().shared is not None
    assert model.batch(csr_array(np.eye(ITEMS, dtype=np.float32))).sharing().shared is None
    with torch.no_grad():
        torch.testing.assert_close(
            model.network.logits(batch.sharing()), model.network.logits(batch), rtol=1e-5, atol=1e-5
        )


def test_lists_by_name(models):
    model = models("ease")
    histories = histories_of(model)
    answer = model.recommend(histories, 60, reasons=2)
    plain = model.recommend(histories, 60).named(model.items.ids)
    for user, items in enumerate(answer.named(model.items.ids)):
        length = (answer.ids[user] >= 0).sum()
        assert [item for item, *_ in items] == [f"i{i}" for i in answer.ids[user, :length]]
        assert [(*item[:3], []) for item in items] == [(*item[:3], item[3]) for item in plain[user]]
        for place, (_, score, rank, because) in enumerate(items):
            assert (score, rank) == (answer.scores[user, place], place + 1)
            found = answer.reasons
            assert [(name, place) for name, _, place in because] == [
                (f"i{i}", without)
                for i, without in zip(found.items[user, place], found.ranks_without[user, place], strict=True)
                if i >= 0
            ]
            assert all(without < score for _, without, _ in because)
