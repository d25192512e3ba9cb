"""Calls: the public Python API with odd arguments returns what its documentation says, or raises one RecvaeError.

Calls run a hundred to a process, which announces each before it makes it, so that a crash or a hang has a name.
"""

import os
import signal
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from .figures import OTHER, REFUSED, Figures
from .mutants import Rng
from .odd import Odd
from .processes import MEMORY, forked
from .world import ITEMS, World

SHORT, LONG = 60, 1020
EACH = 100  # calls of a process
RANKERS = ("ease", "mult-vae", "item-knn", "conditional-vae", "implicit-als", "blend", "popularity", "vaeac", "recvae")


@dataclass
class Call:
    """A call, how it reads, and what is wrong with its result: nothing, where that is as documented."""

    text: str
    make: Callable[[], Any]
    wrong: Callable[[Any], str]


def calls(world: World, figures: Figures, rng: np.random.Generator, *, long: bool) -> None:
    """Make drawn calls, and count how they ended."""
    total, done = LONG if long else SHORT, 0
    seeds = rng.integers(0, 2**32, size=total)
    with world.copy("data", "runs/ease", "clicks.csv", "config.toml") as folder:
        while done < total:
            todo = seeds[done : done + EACH]
            outcome = forked(lambda todo=todo: _make(world, folder, todo), seconds=120)
            figures.saw(outcome)
            began: list[str] = []
            ended = 0
            for line in outcome.out.splitlines():
                kind, _, rest = line.partition(" ")
                if kind == "call":
                    began.append(rest)
                elif kind in (REFUSED, OTHER):
                    ended += 1
                    figures.passed(kind)
                elif kind == "wrong":
                    ended += 1
                    figures.fail(began[-1], [rest])
            if ended < len(todo):  # it ended within a call
                reason = f"the process ended with {outcome.status}, or hangs"
                figures.fail(began[-1] if began else "no call", [reason], outcome)
                ended += 1
            if outcome.memory > MEMORY:
                figures.fail(f"{ended} calls", [f"memory ({outcome.memory >> 20} MB)"])
            done += ended


def _make(world: World, folder: Path, seeds: Any) -> int:
    """Make calls and print, for each, what it is and how it ended."""
    from recvae.errors import RecvaeError

    os.chdir(folder)
    warnings.simplefilter("ignore")
    made = _Calls(world, folder)
    for seed in seeds:
        call = made.draw(np.random.default_rng(int(seed)))
        _say(f"call {call.text[:300]}")
        signal.alarm(20)
        try:
            result = call.make()
        except RecvaeError as error:
            sentence = str(error)
            _say(REFUSED if sentence.strip() else "wrong an error without a sentence")
            continue
        except Exception as error:  # noqa: BLE001 - it is what is looked for
            _say(f"wrong {type(error).__name__}: {str(error)[:200]}")
            continue
        wrong = call.wrong(result)
        _say(f"wrong {wrong}" if wrong else OTHER)
    return 0


def _say(line: str) -> None:
    """Write one line for the process that counts."""
    sys.stdout.write(" ".join(line.encode("ascii", "backslashreplace").decode().split()) + "\n")
    sys.stdout.flush()


class _Calls:
    """Draws calls; models are loaded when a call first needs them."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.folder = world, folder
        self.models: dict[str, Any] = {}

    def model(self, name: str) -> Any:
        import recvae

        if name not in self.models:
            self.models[name] = recvae.load(self.world.folder / "runs" / name, "cpu")
        return self.models[name]

    def draw(self, rng: Rng) -> Call:
        """Return a drawn call."""
        kinds = [self.recommend] * 4 + [self.recommend_ids] * 3 + [self.similar_items] * 2 + [self.fit] * 4
        kinds += [self.evaluate] * 2 + [self.validator, self.load, self.dataset, self.prepare, self.config, self.make]
        return kinds[int(rng.integers(0, len(kinds)))](rng, Odd(rng))

    def recommend(self, rng: Rng, odd: Odd) -> Call:
        name = str(rng.choice(RANKERS))
        model = self.model(name)
        histories, k = odd.matrix(ITEMS), odd.number(5)
        more = odd.some(
            allow=odd.items,
            deny=odd.items,
            conditions=odd.conditions,
            exclude_seen=lambda: odd.one_of(True, False, 0, "no"),
        )
        return Call(
            f"{name}.recommend({odd.text(histories)}, {odd.text(k)}, {odd.text(more)})",
            lambda: model.recommend(histories, k, **more),
            lambda result: _wrong_ranked(result, None),
        )

    def recommend_ids(self, rng: Rng, odd: Odd) -> Call:
        name = str(rng.choice(RANKERS))
        model = self.model(name)
        histories, k = odd.histories(), odd.number(5)
        more = odd.some(
            allow=odd.names, deny=odd.names, conditions=odd.conditions, skip_unknown=lambda: odd.one_of(True, False)
        )

        def wrong(result: Any) -> str:
            ids, scores = result
            if len(ids) != len(scores) or any(len(a) != len(b) for a, b in zip(ids, scores, strict=True)):
                return "lists of other lengths"
            if not all(isinstance(item, str) for row in ids for item in row):
                return "ids that are no text"
            return "a score that is no number" if any(not np.isfinite(score) for row in scores for score in row) else ""

        return Call(
            f"{name}.recommend_ids({odd.text(histories)}, {odd.text(k)}, {odd.text(more)})",
            lambda: model.recommend_ids(histories, k, **more),
            wrong,
        )

    def similar_items(self, rng: Rng, odd: Odd) -> Call:
        name = str(rng.choice(RANKERS))
        model, ids, k = self.model(name), odd.columns(ITEMS), odd.number(5)
        more = odd.some(allow=odd.items, deny=odd.items)
        return Call(
            f"{name}.similar_items({odd.text(ids)}, {odd.text(k)}, {odd.text(more)})",
            lambda: model.similar_items(ids, k, **more),
            lambda result: _wrong_ranked(result, np.atleast_1d(np.asarray(ids)).shape[0]),
        )

    def fit(self, rng: Rng, odd: Odd) -> Call:
        import recvae

        kinds: dict[str, dict[str, Any]] = {
            "EASE": {}, "EDLAE": {}, "ItemKNN": {"neighbours": 4}, "Popularity": {},
            "ImplicitALS": {"factors": 3, "iterations": 1}, "MultDAE": {"latent": 3, "epochs": 1},
            "MultVAE": {"latent": 3, "hidden": (4,), "epochs": 1},
            "RecVAE": {"latent": 3, "hidden": 4, "layers": 2, "epochs": 1},
        }  # fmt: skip
        name = str(rng.choice([*kinds]))
        train = odd.matrix(ITEMS)
        more = odd.some(item_ids=lambda: odd.labels(ITEMS), titles=lambda: odd.labels(ITEMS))
        if name in ("MultDAE", "MultVAE", "RecVAE"):
            more |= odd.some(validation=lambda: odd.one_of(lambda _: 0.5, lambda _: float("nan"), lambda _: None))
        model = getattr(recvae, name)(device="cpu", **kinds[name])

        def wrong(result: Any) -> str:
            if result is not model:
                return "fit returned something else than self"
            rows = sparse.csr_array((2, model.n_items), dtype=np.float32)
            return _wrong_ranked(model.recommend(rows, 3), 2)

        return Call(f"{name}().fit({odd.text(train)}, {odd.text(more)})", lambda: model.fit(train, **more), wrong)

    def evaluate(self, rng: Rng, odd: Odd) -> Call:
        from data_prep import Dataset
        from eval import Evaluation, evaluate

        name = str(rng.choice(RANKERS))
        model, data = self.model(name), Dataset.load(self.folder / "data")
        fold_in = odd.mostly(lambda: data.test_in, lambda: odd.matrix(data.n_items))
        held_out = odd.mostly(lambda: data.test_out, lambda: odd.matrix(data.n_items))
        metrics, more = odd.metrics(), odd.some(batch_size=lambda: odd.number(7), popularity=lambda: odd.columns(ITEMS))
        return Call(
            f"evaluate({name}, {odd.text(fold_in)}, {odd.text(held_out)}, {odd.text(metrics)}, {odd.text(more)})",
            lambda: evaluate(model, fold_in, held_out, metrics, **more),
            lambda result: "" if isinstance(result, Evaluation) and result.metrics else "no evaluation",
        )

    def validator(self, rng: Rng, odd: Odd) -> Call:
        from data_prep import Dataset
        from eval import validator

        model, data = self.model("ease"), Dataset.load(self.folder / "data")
        fold_in = odd.mostly(lambda: data.validation_in, lambda: odd.matrix(data.n_items))
        held_out = odd.mostly(lambda: data.validation_out, lambda: odd.matrix(data.n_items))
        metric = odd.metric()
        return Call(
            f"validator({odd.text(fold_in)}, {odd.text(held_out)}, {odd.text(metric)})(ease)",
            lambda: validator(fold_in, held_out, metric)(model),
            lambda result: "" if isinstance(result, float) and np.isfinite(result) else f"a score of {result!r}",
        )

    def load(self, rng: Rng, odd: Odd) -> Call:
        import recvae

        folder, device = odd.path(self.folder), odd.one_of("cpu", "cpu", "nope", "", "cuda:99", "meta")
        return Call(
            f"load({odd.text(folder)}, {device!r})",
            lambda: recvae.load(folder, device),
            lambda result: "" if isinstance(result, recvae.Recommender) else "no model",
        )

    def dataset(self, rng: Rng, odd: Odd) -> Call:
        from data_prep import Dataset

        data = Dataset.load(self.folder / "data")
        name = odd.one_of(
            "train", "test_in", "", "x", "train.npz", "../data/train", "train_ratings", "\0", "validation"
        )
        uses: dict[str, tuple[Callable[[], Any], type]] = {
            "matrix": (lambda: data.matrix(name), sparse.csr_array),
            "ratings": (lambda: data.ratings(name), sparse.csr_array),
            "user_ids": (lambda: data.user_ids(name), np.ndarray),
            "n_users": (lambda: data.n_users(name), int),
        }
        if rng.random() < 0.5:
            folder = odd.path(self.folder)
            return Call(f"Dataset.load({odd.text(folder)})", lambda: Dataset.load(folder), lambda _: "")
        use = str(rng.choice([*uses]))
        return Call(
            f"Dataset.{use}({name!r})", uses[use][0], lambda result: "" if isinstance(result, uses[use][1]) else "odd"
        )

    def prepare(self, rng: Rng, odd: Odd) -> Call:
        from data_prep import Dataset, prepare

        source = odd.mostly(lambda: "clicks.csv", lambda: odd.frame())
        more: dict[str, Any] = {"user_column": "user", "item_column": "item", "min_items_per_user": 3}
        more |= odd.some(
            user_column=odd.word, item_column=odd.word, rating_column=odd.word, time_column=odd.word,
            separator=odd.word, min_rating=odd.measure, held_out_share=odd.measure, seed=lambda: odd.number(1),
            min_items_per_user=lambda: odd.number(3), min_users_per_item=lambda: odd.number(1),
            held_out_users=lambda: odd.number(5), k_core=lambda: True, titles=lambda: odd.path(self.folder),
            split=lambda: odd.one_of("strong", "random", "last-out", "temporal", "time", "", "nope"),
            columns=lambda: odd.one_of([], ["user", "item", "stars"], ["a", "a"], "abc"),
        )  # fmt: skip
        return Call(
            f"prepare({odd.text(source)}, {odd.text(more)})",
            lambda: prepare(source, **more),
            lambda result: "" if isinstance(result, Dataset) and result.train.nnz else "no dataset",
        )

    def config(self, rng: Rng, odd: Odd) -> Call:
        from recvae.config import RunConfig, load_toml, resolve, run_config
        from recvae.experiments.space import parse_search

        def is_one(result: Any) -> str:
            return "" if isinstance(result, RunConfig) else "no configuration"

        settings = [odd.setting() for _ in range(int(rng.integers(0, 3)))]
        values = {"name": odd.one_of("ease", "recvae", "nope", None, 5), **odd.some(seed=lambda: odd.number(1))}
        values |= odd.some(model=odd.options, train=odd.options, odd=odd.options)
        model, seed = odd.one_of("recvae", "mult-vae", None, "nope"), odd.mostly(lambda: None, lambda: odd.number(1))
        path, search = (
            odd.path(self.folder),
            odd.word() + "=" + odd.one_of("1:2", "1:2:log", "0:1:log", ":", "a,b", "2:1", ""),
        )
        drawn = [
            Call(
                f"resolve({model!r}, None, {odd.text(settings)}, {odd.text(seed)})",
                lambda: resolve(model, None, settings, seed),
                is_one,
            ),
            Call(f"run_config({odd.text(values)})", lambda: run_config(values), is_one),
            Call(f"load_toml({odd.text(path)})", lambda: load_toml(Path(path)), lambda _: ""),
            Call(f"parse_search({search!r})", lambda: parse_search(search), lambda _: ""),
        ]
        return drawn[int(rng.integers(0, len(drawn)))]

    def make(self, rng: Rng, odd: Odd) -> Call:
        import recvae

        name = str(rng.choice(["RecVAE", "MultVAE", "MultDAE", "EASE", "ItemKNN", "VAEAC", "ImplicitALS", "VampVAE"]))
        options = {
            **odd.options(),
            **odd.some(seed=lambda: odd.number(1), device=lambda: odd.one_of("cpu", "nope", "", "0")),
        }
        return Call(
            f"{name}({odd.text(options)})",
            lambda: getattr(recvae, name)(**options),
            lambda result: "" if isinstance(result, recvae.Recommender) else "no model",
        )


def _wrong_ranked(result: Any, rows: int | None) -> str:
    """Return what is wrong with ids int32 (n, k) and scores float32 (n, k)."""
    ids, scores = result
    if ids.shape != scores.shape or ids.ndim != 2 or ids.dtype != np.int32 or scores.dtype != np.float32:
        return f"ids {ids.dtype} {ids.shape} and scores {scores.dtype} {scores.shape}"
    if rows is not None and len(ids) != rows:
        return f"{len(ids)} rows for {rows}"
    if not np.isfinite(scores[ids >= 0]).all():
        return "a score that is no number"
    return "" if ((scores == -np.inf) == (ids < 0)).all() else "padding that is none"
