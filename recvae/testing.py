"""The conformance suite: the tests that every model passes, this project's own and those of other packages.

A package that brings a model runs the suite over it with pytest, in a test file such as this one::

    from recvae.testing import Conformance

    from nearest_taste import NearestTaste


    class TestNearestTaste(Conformance):
        kind = NearestTaste

The suite fits the model on a checkerboard of 60 users and 40 items: even users like even items, odd users odd ones, and
each user has clicked on 60 % of the liked ones. ``settings`` are options with which the model learns this quickly. A
model with a network that the training loop trains takes :class:`NeuralConformance`.

Needs pytest, which ``pip install "recvae[test]"`` brings.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy.sparse import csr_array, csr_matrix, random_array

from recvae.config import run_config
from recvae.errors import ConfigError, DataError, FormatError, InputError
from recvae.matrices import Matrix
from recvae.models.neural import NeuralRecommender
from recvae.nn.batches import Batch, Clicks
from recvae.nn.network import Network
from recvae.nn.noise import Noise
from recvae.recommender import Recommender, load

FORMS = ("int64 indices", "csr_matrix", "boolean", "integer", "coo", "dense", "read-only")


def checkerboard(users: int = 60, items: int = 40, keep: float = 0.6, seed: int = 3) -> csr_array:
    """Return float32 clicks of users who like every second item, each on a random part of the liked items."""
    u, i = np.indices((users, items))
    liked = (u % 2) == (i % 2)
    seen = np.random.default_rng(seed).random((users, items)) < keep
    return csr_array((liked & seen).astype(np.float32))


def random_clicks(users: int, items: int, density: float = 0.1, seed: int = 0) -> csr_array:
    """Return a random CSR of float32 ones."""
    matrix = random_array((users, items), density=density, rng=np.random.default_rng(seed), format="csr")
    matrix.data[:] = 1
    matrix = csr_array(matrix, dtype=np.float32)
    matrix.sum_duplicates()
    return matrix


def in_form(matrix: csr_array, form: str) -> Matrix:
    """Return the same clicks in one of :data:`FORMS`."""
    if form == "int64 indices":
        return csr_array((matrix.data, matrix.indices.astype("i8"), matrix.indptr.astype("i8")))
    if form == "read-only":
        copy = matrix.copy()
        copy.data.flags.writeable = copy.indices.flags.writeable = copy.indptr.flags.writeable = False
        return copy
    made = {"csr_matrix": csr_matrix, "boolean": lambda m: m.astype(bool), "integer": lambda m: m.astype(np.int8)}
    made |= {"coo": lambda m: m.tocoo(), "dense": lambda m: m.toarray()}
    return made[form](matrix)


class Conformance:
    """The tests of any model; a subclass names the model."""

    kind: ClassVar[type[Recommender]]
    settings: ClassVar[Mapping[str, Any]] = {}
    briefly: ClassVar[Mapping[str, Any]] = {}  # options with which the model learns something, however little, sooner
    personal: ClassVar[bool] = True  # whether lists depend on the history beyond its own items

    @classmethod
    def make(cls, **more: Any) -> Recommender:
        """Return the model, not fitted."""
        return cls.kind(**{"seed": 1, "device": "cpu", **cls.settings, **more})

    @pytest.fixture(scope="class")
    @classmethod
    def fitted(cls) -> Recommender:
        """Return the model, fitted on the checkerboard; no test may change it."""
        return cls.make().fit(checkerboard(), item_ids=[f"i{n}" for n in range(40)])

    def test_checkerboard_recovery(self, fitted: Recommender) -> None:
        """Of a new user's items, all withheld ones of the liked half come before any of the other half."""
        if not self.personal:
            pytest.skip("its lists do not depend on the history")
        histories = np.zeros((4, 40), np.float32)
        for user in range(4):
            histories[user, (user % 2) :: 4] = 1
        ids, _ = fitted.recommend(csr_array(histories), k=10)
        for user in range(4):
            assert set(ids[user] % 2) == {user % 2}, f"user {user} got {ids[user]}"

    def test_batch_equals_one_by_one(self, fitted: Recommender) -> None:
        """A user's scores do not depend on the other users of a batch."""
        histories = random_clicks(23, 40, 0.2, seed=5)
        _, scores = fitted.recommend(histories, k=40, exclude_seen=False)
        for user in range(23):
            _, alone = fitted.recommend(histories[[user]], k=40, exclude_seen=False)
            np.testing.assert_allclose(alone[0], scores[user], rtol=1e-5, atol=1e-5)

    def test_an_empty_history_is_a_legal_user(self, fitted: Recommender) -> None:
        """A user without clicks gets a list of items with finite scores."""
        ids, scores = fitted.recommend(csr_array((2, 40), dtype=np.float32), k=10)
        assert (ids >= 0).all()
        assert np.isfinite(scores).all()
        np.testing.assert_array_equal(ids[0], ids[1])

    def test_seen_items_and_padding(self, fitted: Recommender) -> None:
        """A list has every item that was not seen, best first, and -1 and -inf in the places that are left."""
        histories = random_clicks(9, 40, 0.3, seed=6)
        ids, scores = fitted.recommend(histories, k=60)
        for user in range(9):
            seen = set(histories[[user]].indices.tolist())
            kept = ids[user][ids[user] >= 0]
            assert set(kept.tolist()) == set(range(40)) - seen
            assert (ids[user][len(kept) :] == -1).all()
            assert (scores[user][len(kept) :] == -np.inf).all()
            assert (np.diff(scores[user][: len(kept)]) <= 0).all()
        everything, _ = fitted.recommend(histories, k=40, exclude_seen=False)
        assert (np.sort(everything, axis=1) == np.arange(40)).all()

    def test_the_same_seed_gives_the_same_bits(self) -> None:
        """Two models of one seed learn the same."""
        one, two = (self.make(**self.briefly).fit(checkerboard()).tensors() for _ in range(2))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)

    def test_a_configuration_there_and_back(self, fitted: Recommender) -> None:
        """The plain values of a run folder make the same configuration."""
        assert run_config(fitted.config.to_dict()).to_dict() == fitted.config.to_dict()

    def test_save_and_load(self, fitted: Recommender, tmp_path: Path) -> None:
        """A run folder gives back the same model: configuration, items, lists and scores."""
        histories = random_clicks(9, 40, 0.2, seed=7)
        fitted.save(tmp_path / "run")
        for again in (load(tmp_path / "run", device="cpu"), type(fitted).load(tmp_path / "run", device="cpu")):
            assert type(again) is type(fitted)
            assert again.config == fitted.config
            assert list(again.items.ids) == list(fitted.items.ids)
            for one, two in zip(again.recommend(histories, k=12), fitted.recommend(histories, k=12), strict=True):
                np.testing.assert_array_equal(one, two)
        with pytest.raises(InputError, match="exists already"):
            fitted.save(tmp_path / "run")
        fitted.save(tmp_path / "run", overwrite=True)

    def test_a_run_folder_of_another_model_is_refused(self, fitted: Recommender, tmp_path: Path) -> None:
        """Loading by another model's class raises an error that names the folder's model."""
        from recvae.baselines.ease import EASE
        from recvae.baselines.popularity import Popularity

        fitted.save(tmp_path / "run")
        other: type[Recommender] = Popularity if self.kind.name == EASE.name else EASE
        with pytest.raises(FormatError, match=f"'{self.kind.name}' model"):
            other.load(tmp_path / "run")

    def test_raw_ids(self, fitted: Recommender) -> None:
        """Lists of raw ids equal lists of columns; an unknown id is refused, or skipped with ``skip_unknown``."""
        ids, scores = fitted.recommend_ids([["i2", "i4"], []], k=5)
        assert [len(row) for row in ids] == [5, 5]
        assert not {"i2", "i4"} & set(ids[0])
        matrix, unknown = fitted.encode([["i2", "i4", "i2", "nope"], []])
        assert unknown == ["nope"]
        columns, values = fitted.recommend(matrix, k=5)
        assert [[f"i{c}" for c in row] for row in columns] == ids
        np.testing.assert_array_equal(values, np.array(scores, np.float32))
        with pytest.raises(InputError, match="'i400'"):
            fitted.recommend_ids([["i400"]])
        assert fitted.recommend_ids([["i400"]], skip_unknown=True)[0] == fitted.recommend_ids([[]])[0]

    def test_a_data_frame_of_clicks(self, fitted: Recommender) -> None:
        """A frame of clicks trains as the matrix of the same clicks does, and its lists are those of raw ids."""
        users, items = checkerboard().nonzero()
        frame = pa.table({"user": users[::-1], "item": items[::-1], "day": np.zeros(len(users))})
        if not fitted.of_ratings:
            one, two = (self.make(**self.briefly).fit(clicks).tensors() for clicks in (frame, checkerboard()))
            assert all(torch.equal(one[key], two[key]) for key in one)
        asked = pa.table({"who": ["b", "a", "b"], "what": ["i2", "i7", "i4"]})
        got = fitted.recommend_frame(asked, 3, user_column="who", item_column="what")
        lists, scores = fitted.recommend_ids([["i2", "i4"], ["i7"]], 3)
        assert pa.table(got).to_pydict() == {
            "who": ["b"] * 3 + ["a"] * 3,
            "what": [item for row in lists for item in row],
            "rank": [1, 2, 3] * 2,
            "score": [score for row in scores for score in row],
        }

    def test_options_are_parameters_as_scikit_learn_has_them(self, fitted: Recommender) -> None:
        """The options are read, set and copied by name; a copy learns what the model learned."""
        asked = fitted.get_params()
        assert {**asked, **self.settings, "seed": 1, "device": "cpu"} == asked
        again = fitted.__sklearn_clone__()
        assert type(again) is type(fitted)
        assert again.get_params() == asked
        assert again.n_items == 0
        assert again.config.open == self.make().config.open
        learned = fitted.tensors()
        assert again.set_params(seed=2) is again
        assert again.get_params() == {**asked, "seed": 2}
        assert again.config.seed == 2
        assert fitted.get_params() == asked
        brief = [self.make(**self.briefly), self.make(**self.briefly).__sklearn_clone__()]
        one, two = (model.fit(checkerboard()).tensors() for model in brief)
        assert all(torch.equal(one[key], two[key]) for key in one)
        brief[0].set_params(seed=3)
        assert brief[0].config.seed == 1, "a fitted model says how it was trained"
        assert brief[0].get_params()["seed"] == 3
        assert brief[0].fit(checkerboard()).config.seed == 3
        with pytest.raises(ConfigError, match="no_such_option"):
            again.set_params(no_such_option=1)
        assert again.get_params() == {**asked, "seed": 2}
        assert fitted.tensors().keys() == learned.keys()

    @pytest.mark.parametrize("form", FORMS)
    def test_any_form_of_matrix(self, form: str, fitted: Recommender) -> None:
        """The same clicks give the same lists, in any format of matrix."""
        board = checkerboard()
        given, plain = fitted.recommend(in_form(board, form), k=5), fitted.recommend(board, k=5)
        for one, two in zip(given, plain, strict=True):
            np.testing.assert_array_equal(one, two)

    def test_similar_items(self, fitted: Recommender) -> None:
        """The items most like an item are of its half, and it is not among them."""
        if not self.personal:
            with pytest.raises(InputError, match="alike"):
                fitted.similar_items([0])
            return
        ids, scores = fitted.similar_items([6, 7], k=10)
        assert ids.shape == (2, 10)
        assert (np.diff(scores, axis=1) <= 0).all()
        for item, row in zip((6, 7), ids, strict=True):
            assert item not in row
            assert set(row % 2) == {item % 2}
        with pytest.raises(InputError, match=r"0 \.\. 39"):
            fitted.similar_items([40])

    def test_matrices_that_do_not_fit(self, fitted: Recommender) -> None:
        """Each is refused with a sentence that names the mistake."""
        with pytest.raises(InputError, match="39 columns"):
            fitted.recommend(csr_array((1, 39)))
        with pytest.raises(InputError, match="not fitted"):
            self.make().recommend(csr_array((1, 40)))
        with pytest.raises(DataError, match="no clicks"):
            self.make().fit(csr_array((5, 4)))
        with pytest.raises(DataError, match="3 item ids for 40 columns"):
            self.make().fit(checkerboard(), item_ids=["a", "b", "c"])
        with pytest.raises(DataError, match="not distinct"):
            self.make().fit(checkerboard(), item_ids=["a"] * 40)
        with pytest.raises(DataError, match="weight -1"):
            self.make().fit(csr_array(np.array([[1, -1.0]])))

    def test_a_model_says_what_it_is(self, fitted: Recommender) -> None:
        """Its repr is one line: options that were set, and whether it is fitted."""
        assert repr(self.kind(device="cpu")) == f"{self.kind.__name__}(default options; not fitted)"
        said = repr(fitted)
        assert said.startswith(f"{self.kind.__name__}(")
        assert "; fitted: 40 items" in said
        assert "seed=1" in said
        assert "\n" not in said


class NeuralConformance(Conformance):
    """The tests of a model with a network that :func:`recvae.training.loop.train` trains."""

    kind: ClassVar[type[NeuralRecommender]]
    briefly: ClassVar[Mapping[str, Any]] = {"epochs": 2}
    weighs: ClassVar[bool] = True  # whether its likelihood allows click weights

    @pytest.fixture
    def network(self, fitted: Recommender) -> Network:
        """Return the network of the fitted model."""
        assert isinstance(fitted, NeuralRecommender)
        return fitted.network

    def test_gradients_reach_every_parameter_of_a_phase_and_no_frozen_one(self) -> None:
        """Each phase trains the parameters that it names, all of them, and the phases together train all there are."""
        model = self.make()
        clicks = Clicks(checkerboard())
        network = self.kind.build(40, model.config.model, 1)
        for phase in network.phases():
            network.zero_grad(set_to_none=True)
            network.requires_grad_(False)
            for parameter in phase.parameters:
                parameter.requires_grad_(True)
            network.begin_phase(phase.name, 0, clicks, 10)
            network.loss(phase.name, next(clicks.in_order(len(clicks))), 0.1, Noise(1)).total.backward()  # type: ignore[no-untyped-call]  # torch ships it without types
            trained = {id(p) for p in phase.parameters}
            for label, parameter in network.named_parameters():
                if id(parameter) in trained:
                    assert parameter.grad is not None, label
                    assert parameter.grad.abs().max() > 0, label
                else:
                    assert parameter.grad is None, label
        assert {id(p) for phase in network.phases() for p in phase.parameters} == {id(p) for p in network.parameters()}

    def test_predicting_is_deterministic_whatever_the_module_mode(self, network: Network) -> None:
        """Predicting has neither dropout nor sampling."""
        batch = Batch.of(checkerboard())
        with torch.no_grad():
            first = network.train().logits(batch)
            assert torch.equal(first, network.eval().logits(batch))
            assert torch.equal(first, network.logits(batch))

    def test_click_weights_matter_only_when_asked_for(self) -> None:
        """The values of the training matrix change the learned tensors if and only if ``weighted`` is set."""
        if not self.weighs:
            with pytest.raises(InputError, match="weights"):
                self.make(weighted=True).fit(checkerboard())
            return
        board = checkerboard()
        counts = board.copy()
        counts.data = 1 + np.arange(len(counts.data), dtype=np.float32) % 4
        plain, ignored, used = (
            self.make(**self.briefly, weighted=weighted).fit(matrix).tensors()
            for matrix, weighted in ((board, False), (counts, False), (counts, True))
        )
        assert all(torch.equal(plain[key], ignored[key]) for key in plain)
        assert not all(torch.equal(plain[key], used[key]) for key in plain)

    def test_the_kept_epoch_is_said(self, fitted: Recommender) -> None:
        """The repr names the epoch of the weights."""
        assert f"best epoch {fitted.best_epoch}" in repr(fitted)
