"""Odd calls of the Python interface: each gives an answer or one sentence, never another exception and never a hang."""

import resource
import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import checkerboard, random_clicks
from odd_values import wrong
from quick_models import quick
from scipy.sparse import csr_array

import eval as evaluation
import recvae
from data_prep import Dataset, sample
from recvae.errors import InputError
from recvae.registry import MODELS

BOARD = checkerboard()
TAGS = {str(item): ["even" if item % 2 == 0 else "odd"] for item in range(40)}
FUNCTIONS = ("a class", "a function")  # what these raise, once they are called, is their own
SOME = random_clicks(3, 40, 0.2, seed=4)


@pytest.fixture(autouse=True)
def bounded_memory():
    """No call may take more than 4 GiB beyond what the process has: numpy's zeros are not even written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 30), hard))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture(scope="module")
def fitted():
    made = {}

    def get(name):
        if name not in made:
            made[name] = quick(name).fit(BOARD, **({"item_tags": TAGS} if name == "conditional-vae" else {}))
        return made[name]

    return get


@pytest.mark.parametrize("name", MODELS)
def test_asking_any_model(name, fitted):
    model = fitted(name)
    calls = {
        "recommend": model.recommend,
        "recommend k": lambda odd: model.recommend(SOME, odd),
        "recommend k, no rows": lambda odd: model.recommend(SOME[:0], odd),
        "recommend allow": lambda odd: model.recommend(SOME, allow=odd),
        "recommend deny": lambda odd: model.recommend(SOME, deny=odd),
        "recommend exclude_seen": lambda odd: model.recommend(SOME, exclude_seen=odd),
        "recommend conditions": lambda odd: model.recommend(SOME, conditions=odd),
        "answer": model.answer,
        "recommend_ids": model.recommend_ids,
        "recommend_ids k": lambda odd: model.recommend_ids([["1"]], odd),
        "recommend_ids allow": lambda odd: model.recommend_ids([["1"]], allow=odd),
        "recommend_ids deny": lambda odd: model.recommend_ids([["1"]], deny=odd, skip_unknown=True),
        "recommend_ids conditions": lambda odd: model.recommend_ids([["1"]], conditions=odd),
        "encode": model.encode,
        "encode_conditions": model.encode_conditions,
        "similar_items": model.similar_items,
        "similar_items k": lambda odd: model.similar_items(1, odd),
        "similar_items allow": lambda odd: model.similar_items(1, allow=odd),
        "similar_items deny": lambda odd: model.similar_items([1, 2], deny=odd),
    }
    if name == "vaeac":
        rating = recvae.VAEAC(ratings=True, likelihood="gaussian", hidden=4, latent=2, epochs=1, device="cpu").fit(
            BOARD
        )
        calls["predict_ratings"] = lambda odd: rating.predict_ratings(odd, SOME)
        calls["predict_ratings where"] = lambda odd: rating.predict_ratings(SOME, odd)
        calls["predict_ratings samples"] = lambda odd: rating.predict_ratings(SOME, SOME, samples=odd)
        calls["predict_ratings of another"] = lambda odd: model.predict_ratings(odd, SOME)
    if name == "conditional-vae":
        calls["conditions_of"] = model.conditions_of
    assert not (problems := wrong(calls)), "\n".join(problems)


@pytest.mark.parametrize("name", ["ease", "implicit-als", "mult-vae"])
def test_fitting_and_making(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kind = MODELS[name].model_class()
    neural = kind.train_defaults is not None

    def new():
        return quick(name)

    calls = {
        "fit": lambda odd: new().fit(odd),
        "fit item_ids": lambda odd: new().fit(BOARD, item_ids=odd),
        "fit titles": lambda odd: new().fit(BOARD, titles=odd),
        "seed": lambda odd: kind(seed=odd, device="cpu"),
        "device": lambda odd: kind(device=odd),
        "from_config": lambda odd: kind.from_config(odd),
        "save": lambda odd: new().fit(BOARD).save(odd, overwrite=True),
        "load": kind.load,
        "load device": lambda odd: kind.load("model", odd),
        "an option": lambda odd: kind(device="cpu", **{next(iter(vars(kind.model_defaults)), "nothing"): odd}),
        "an unknown option": lambda odd: kind(device="cpu", latnt=odd),
    }
    new().fit(BOARD).save("model")
    if neural:
        calls["validation gives"] = lambda odd: new().fit(BOARD, validation=lambda _: odd)
        calls["fit folder"] = lambda odd: new().fit(BOARD, folder=odd, overwrite=odd is not None)
        calls["fit resume"] = lambda odd: new().fit(BOARD, folder="resumed", resume=odd, overwrite=True)
    called = {
        "fit validation": lambda odd: new().fit(BOARD, validation=odd),
        "on_epoch": lambda odd: new().fit(BOARD, on_epoch=odd) if neural else None,
        "on_step": lambda odd: new().fit(BOARD, on_step=odd) if neural else None,
    }
    problems = wrong(calls) + wrong(called, leaving_out=FUNCTIONS)
    assert not problems, "\n".join(problems)


def test_conditions_and_blends(fitted, tmp_path):
    ease = fitted("ease")
    small = {"hidden": (4,), "latent": 2, "epochs": 1, "device": "cpu"}
    blend = recvae.Blend([ease, fitted("mult-vae")], SOME)
    attributed = {**small, "user_attributes": ("sex",), "item_tags": False}
    calls = {
        "item_tags": lambda odd: recvae.ConditionalVAE(**small).fit(BOARD, item_tags=odd),
        "an item's tags": lambda odd: recvae.ConditionalVAE(**small).fit(BOARD, item_tags={**TAGS, "3": odd}),
        "user_attributes": lambda odd: recvae.ConditionalVAE(**attributed).fit(BOARD, user_attributes=odd),
        "a user's attributes": lambda odd: recvae.ConditionalVAE(**attributed).fit(
            BOARD, user_attributes=[{"sex": "f"}] * 59 + [odd]
        ),
        "an attribute": lambda odd: recvae.ConditionalVAE(**attributed).fit(
            BOARD, user_attributes=[{"sex": "f"}] * 59 + [{"sex": odd}]
        ),
        "components": lambda odd: recvae.Blend(odd, SOME),
        "a component": lambda odd: recvae.Blend([ease, odd], SOME),
        "histories": lambda odd: recvae.Blend([ease, ease], odd),
        "weights": lambda odd: recvae.Blend([ease, ease], SOME, odd),
        "a weight": lambda odd: recvae.Blend([ease, ease], SOME, [1, odd]),
        "device": lambda odd: recvae.Blend([ease, ease], SOME, device=odd),
        "with_weights": blend.with_weights,
        "fit": blend.fit,
        "recommend": blend.recommend,
        "answer": blend.answer,
        "recommend k": lambda odd: blend.recommend(SOME, odd),
        "similar_items": blend.similar_items,
        "save": lambda odd: (
            blend.save(tmp_path / "blend" if odd is True else odd) if not isinstance(odd, str) else None
        ),
    }
    assert not (problems := wrong(calls)), "\n".join(problems)


def test_loading(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not (problems := wrong({"load": recvae.load, "Dataset.load": Dataset.load})), "\n".join(problems)


def test_evaluation(fitted):
    ease, none = fitted("ease"), csr_array(SOME.shape, dtype=np.float32)
    ids, good = np.zeros((3, 1), np.int32), np.array([0.1, 0.2, 0.4])

    class Odd:
        def __init__(self, answer):
            self.given = answer

        def answer(self, _):
            return self.given

        def predict_ratings(self, *_):
            return self.given

    e = evaluation
    calls = {
        "evaluate ranker": lambda odd: e.evaluate(odd, none, SOME, "recall@5"),
        "evaluate an answer": lambda odd: e.evaluate(Odd(odd), none, SOME, "recall@5"),
        "evaluate ids": lambda odd: e.evaluate(Odd(recvae.Answer(odd, odd)), none, SOME, "recall@5"),
        "evaluate scores": lambda odd: e.evaluate(Odd(recvae.Answer(ids, odd)), none, SOME, "recall@5"),
        "evaluate fold_in": lambda odd: e.evaluate(ease, odd, SOME, "recall@5"),
        "evaluate held_out": lambda odd: e.evaluate(ease, none, odd, "recall@5"),
        "evaluate metrics": lambda odd: e.evaluate(ease, none, SOME, odd),
        "evaluate a metric": lambda odd: e.evaluate(ease, none, SOME, [odd]),
        "evaluate batch_size": lambda odd: e.evaluate(ease, none, SOME, "recall@5", batch_size=odd),
        "evaluate a query": lambda odd: e.evaluate(ease, recvae.Query(none, conditions=odd), SOME, "recall@5"),
        "evaluate rules": lambda odd: e.evaluate(ease, recvae.Query(none, allow=odd, deny=odd), SOME, "recall@5"),
        "evaluate popularity": lambda odd: e.evaluate(ease, none, SOME, "novelty@5", popularity=odd),
        "validator fold_in": lambda odd: e.validator(odd, SOME),
        "validator held_out": lambda odd: e.validator(none, odd),
        "validator metric": lambda odd: e.validator(none, SOME, odd),
        "validator batch_size": lambda odd: e.validator(none, SOME, batch_size=odd),
        "validator a query": lambda odd: e.validator(recvae.Query(none, conditions=odd), SOME)(ease),
        "validator ranker": e.validator(none, SOME),
        "per_user_metrics": lambda odd: e.per_user_metrics(odd, SOME, "recall@1"),
        "per_user_metrics held_out": lambda odd: e.per_user_metrics(ids, odd, "recall@1"),
        "per_user_metrics metrics": lambda odd: e.per_user_metrics(ids, SOME, odd),
        "parse_metric": e.parse_metric,
        "parse_metrics": e.parse_metrics,
        "ListCounts": lambda odd: e.ListCounts(odd, 40),
        "ListCounts items": lambda odd: e.ListCounts("coverage@5", odd),
        "ListCounts popularity": lambda odd: e.ListCounts("novelty@5", 40, odd),
        "ListCounts add": lambda odd: e.ListCounts("coverage@5", 40).add(odd),
        "rating_errors": lambda odd: e.rating_errors(odd, none, SOME),
        "rating_errors an answer": lambda odd: e.rating_errors(Odd(odd), none, SOME),
        "rating_errors fold_in": lambda odd: e.rating_errors(Odd(SOME), odd, SOME),
        "rating_errors held_out": lambda odd: e.rating_errors(Odd(SOME), none, odd),
        "rating_metrics": lambda odd: e.rating_metrics(Odd(SOME), none, odd),
        "ratings_validator fold_in": lambda odd: e.ratings_validator(odd, SOME),
        "ratings_validator": lambda odd: e.ratings_validator(none, odd),
        "summarize": e.summarize,
        "summarize clusters": lambda odd: e.summarize(good, clusters=odd),
        "bootstrap_interval": e.bootstrap_interval,
        "bootstrap level": lambda odd: e.bootstrap_interval(good, level=odd),
        "bootstrap draws": lambda odd: e.bootstrap_interval(good, draws=odd),
        "bootstrap seed": lambda odd: e.bootstrap_interval(good, seed=odd),
        "compare": lambda odd: e.compare(odd, good),
        "compare b": lambda odd: e.compare(good, odd),
        "compare clusters": lambda odd: e.compare(good, 2 * good, clusters=odd),
        "compare draws": lambda odd: e.compare(good, 2 * good, draws=odd),
    }
    called = {"evaluate progress": lambda odd: e.evaluate(ease, none, SOME, "recall@5", progress=odd)}
    problems = wrong(calls) + wrong(called, leaving_out=FUNCTIONS)
    assert not problems, "\n".join(problems)


def test_datasets(tmp_path):
    data = sample().dataset(held_out_users=20)
    calls = {
        "matrix": data.matrix,
        "ratings": data.ratings,
        "n_users": data.n_users,
        "user_ids": data.user_ids,
        "refit_matrix": lambda odd: data.refit_matrix(ratings=odd),
        "save": lambda odd: data.save(tmp_path / "data" if isinstance(odd, str | bytes) else odd, overwrite=True),
        "from_split": lambda odd: Dataset.from_split(odd, name="x"),
    }
    assert not (problems := wrong(calls)), "\n".join(problems)


def test_k(fitted):
    """Numbers of NumPy are numbers; a list much longer than the catalogue is refused before it is allocated."""
    ease = fitted("ease")
    ids, scores = ease.recommend(SOME, np.int64(60))
    assert ids.shape == scores.shape == (3, 60)
    for k in (10**9, 10**23, 10**5000):
        with pytest.raises(InputError, match="40 items"):
            ease.recommend(SOME, k)
        with pytest.raises(InputError, match="40 items"):
            ease.similar_items(0, k)
    for k in (0, -1, -(10**5000), True, 5.0, "5", None, np.array([5]), np.float32(5)):
        with pytest.raises(InputError, match="k must be a whole number"):
            ease.recommend(SOME, k)


def test_sentences_name_the_mistake(fitted):
    ease, conditional = fitted("ease"), fitted("conditional-vae")
    cases = {
        r"histor": [lambda: ease.recommend_ids(None), lambda: ease.recommend_ids([None])],
        r"[Cc]onditions": [lambda: conditional.recommend(SOME, conditions=5)],
        r"columns": [lambda: ease.similar_items([[1]]), lambda: ease.similar_items(None)],
        r"distinct": [lambda: recvae.EASE().fit(BOARD, item_ids=["a"] * 40)],
        r"39 titles for 40": [lambda: recvae.EASE().fit(BOARD, titles=["a"] * 39)],
        r"item_ids.*one text": [lambda: recvae.EASE().fit(BOARD, item_ids="x" * 40)],
        r"function": [lambda: recvae.EASE().fit(BOARD, validation=5)],
    }
    for said, calls in cases.items():
        for call in calls:
            with pytest.raises(InputError, match=said):
                call()


def test_sentences_speak_the_language_of_the_caller(fitted, tmp_path, cli):
    """Python is told of arguments, the command line of options."""
    place = tmp_path / "model"
    fitted("ease").save(place)
    with pytest.raises(InputError, match="replace it with overwrite=True"):
        fitted("ease").save(place)
    with pytest.raises(InputError, match="Use device='cpu'"):
        recvae.load(place, device="gpu")
    sample().dataset(held_out_users=20).save(tmp_path / "data")
    answer = cli("train", tmp_path / "data", "--model", "popularity", "--out", place)
    assert answer.status == 2
    assert "replace it with --overwrite" in answer.err
    assert "--device cpu" in cli("recommend", place, "--item", "1", "--device", "gpu").err
