"""Odd arguments, drawn: about half of them are legal, if unusual."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

Draw = Callable[[], Any]


class Odd:
    """Draws arguments of every kind that the public functions take."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def one_of(self, *values: Any) -> Any:
        """Return one of ``values``."""
        return values[int(self.rng.integers(0, len(values)))]

    def mostly(self, usual: Draw, odd: Draw) -> Any:
        """Return what is usual, two times of three."""
        return usual() if self.rng.random() < 0.67 else odd()

    def some(self, **draws: Draw) -> dict[str, Any]:
        """Return one or two of the named arguments, or none."""
        names = self.rng.choice([*draws], size=min(len(draws), int(self.rng.integers(0, 3))), replace=False)
        return {str(name): draws[str(name)]() for name in names}

    def number(self, usual: int) -> Any:
        """Return a count."""
        odd = (0, 1, -1, 3, 2**31, 2**63, 10**9, 10**23, True, 1.5, float("nan"), float("inf"), "5", None, [3])
        odd += (np.int64(3), np.uint8(3), np.float64(2), np.array(3), np.array([3]), 10**5000)
        return self.mostly(lambda: usual, lambda: self.one_of(*odd))

    def measure(self) -> Any:
        """Return a number that need not be whole."""
        return self.one_of(
            0.2, 0.5, 0.0, 1.0, -1.0, 2.0, 1e308, float("nan"), float("inf"), "0.2", None, np.float32(0.3)
        )

    def word(self) -> Any:
        """Return a name."""
        return self.one_of(
            "user", "item", "stars", "model.l2", "", "nope", "\0", "\ud800", "a" * 1000, ",", "\u202e", "Üser"
        )

    def matrix(self, columns: int) -> Any:
        """Return something like a CSR of clicks with so many columns."""
        rng = self.rng
        rows = int(rng.integers(1, 9))
        dense = (rng.random((rows, columns)) < 0.3).astype(np.float32)
        dense[:, 0] = 1
        plain = sparse.csr_array(dense)
        kinds: list[Draw] = [
            lambda: plain,
            lambda: plain,
            lambda: plain,
            lambda: sparse.csr_matrix(dense),
            lambda: sparse.csr_array((rows, columns), dtype=np.float32),
            lambda: sparse.csr_array((0, columns), dtype=np.float32),
            lambda: sparse.csr_array((rows, 0), dtype=np.float32),
            lambda: sparse.csr_array(dense[:, :-1]),
            lambda: plain.astype(self.one_of(np.int8, np.uint8, bool, np.float64, np.int64, np.complex64, np.uint64)),
            lambda: plain * self.one_of(-1.0, np.nan, np.inf, 0.0, 200, 1e38, 1e-45),
            lambda: _with(plain, indices=plain.indices[::-1].copy()),
            lambda: _with(plain, indices=plain.indices + 10**6),
            lambda: _with(plain, indices=plain.indices - 5),
            lambda: _with(plain, indices=np.zeros_like(plain.indices)),
            lambda: _with(plain, indptr=plain.indptr * 100),
            lambda: _with(plain, indptr=plain.indptr[::-1].copy()),
            lambda: _with(plain, indptr=plain.indptr[:-1]),
            lambda: _with(plain, indptr=plain.indptr - 1),
            lambda: _with(plain, data=plain.data[:-1]),
            lambda: _with(plain, data=np.array([None] * plain.nnz)),
            lambda: _with(plain, indices=plain.indices.astype(np.float64)),
            lambda: sparse.csc_array(dense),
            lambda: sparse.coo_array(dense),
            lambda: sparse.coo_array(dense[0]),
            lambda: dense,
            lambda: dense.tolist(),
            lambda: dense[0],
            lambda: dense[None],
            lambda: None,
            lambda: 5,
            lambda: "clicks",
            lambda: _tensor(dense),
        ]
        return self.one_of(*kinds)()

    def columns(self, n: int) -> Any:
        """Return columns, as :meth:`similar_items` takes them."""
        odd = (
            0,
            n - 1,
            n,
            -1,
            10**30,
            1.5,
            "1",
            None,
            [],
            [0, 1],
            [0] * 50,
            [[1]],
            [True],
            {1},
            range(3),
            float("nan"),
        )
        return self.one_of(
            *odd,
            np.array(3),
            np.array([1, 2], np.uint8),
            np.array([[0]]),
            [None],
            ["1"],
            np.array([2**63], np.uint64),
            b"1",
        )

    def items(self) -> Any:
        """Return items that are allowed or denied."""
        odd = ([], [0], [1, 2, 3], [-1], [10**6], [1.5], ["a"], 5, "1", [None], {1, 2}, range(4), [10**30], [[1]], True)
        masks = (
            np.array([1, 2]),
            np.ones(18, bool),
            np.array([np.nan]),
            sparse.csr_array(np.ones((3, 18), np.float32)),
        )
        return self.one_of(*odd, *masks, sparse.csr_array((1, 5)), sparse.csc_array((3, 18)), object())

    def names(self) -> Any:
        """Return raw ids that are allowed or denied."""
        return self.one_of(
            [],
            ["100"],
            ["100", "nope"],
            "100",
            5,
            [None],
            [100],
            ["\ud800"],
            {"100"},
            iter(["100"]),
            [["100"]],
            [float("nan")],
        )

    def histories(self) -> Any:
        """Return lists of raw ids."""
        odd = (
            None,
            [None],
            [[None]],
            ["100"],
            "100",
            5,
            [5],
            [[100]],
            [["nope"]],
            [["100", "100"]],
            [[]],
            [],
            [["\ud800"]],
        )
        more = (
            ({"100": 1},),
            [("100", "101")],
            [iter(["100"])],
            iter([["100"]]),
            [[["100"]]],
            [[b"100"]],
            np.array([["100", "101"]]),
        )
        return self.mostly(
            lambda: [["100", "101"], ["104"]],
            lambda: self.one_of(*odd, *more, [[float("nan")]], {"a": 1}, [["x" * 10**6]]),
        )

    def conditions(self) -> Any:
        """Return conditions."""
        odd = (
            None,
            5,
            "Comedy",
            ["Comedy"],
            [["Comedy"]],
            ["nope"],
            [None],
            [],
            [[]],
            {"Comedy"},
            [["Comedy"], ["Drama"]],
            "",
        )
        return self.one_of(
            *odd,
            [5],
            1.5,
            np.array(["Comedy"]),
            sparse.csr_array((1, 2)),
            sparse.csr_array(np.ones((3, 4))),
            "gender=F",
            object(),
            np.ones((2, 2)),
        )

    def labels(self, n: int) -> Any:
        """Return names of columns."""
        usual = [f"i{i}" for i in range(n)]
        odd = (
            usual[:-1],
            [*usual[:-1], "i0"],
            "a" * n,
            list(range(n)),
            [None] * n,
            5,
            {*usual},
            [["a"]] * n,
            iter(usual),
        )
        return self.one_of(
            usual,
            np.array(usual),
            *odd,
            ["\ud800", *usual[1:]],
            ["a\nb", *usual[1:]],
            ["", *usual[1:]],
            [float("nan")] * n,
        )

    def metric(self) -> Any:
        """Return a metric's name."""
        odd = (
            "ndcg@5",
            "recall@20",
            "ndcg",
            "ndcg@0",
            "ndcg@-1",
            "ndcg@1e3",
            "nope@5",
            "",
            "@",
            "coverage@5",
            "ndcg@" + "9" * 5000,
        )
        return self.one_of(*odd, None, 5, ["ndcg@5"], "ndcg@5 ", "NDCG@5", "ndcg@٣", "ndcg@10,recall@5", b"ndcg@5")

    def metrics(self) -> Any:
        """Return metrics' names."""
        return self.mostly(
            lambda: ("recall@5", "ndcg@10"),
            lambda: self.one_of(self.metric(), [], [self.metric()], "ndcg@5,ndcg@5", [[]], {"ndcg@5": 1}),
        )

    def path(self, folder: Path) -> Any:
        """Return a path."""
        odd = (
            "",
            ".",
            "nope",
            "clicks.csv",
            "data",
            "runs/ease",
            "/dev/null",
            "\0",
            "a" * 5000,
            "\ud800",
            Path(),
            "config.toml/x",
        )
        return self.one_of(
            *odd, folder / "data", folder / "runs" / "ease", folder / "data" / "train.indices.npy", Path("config.toml")
        )

    def frame(self) -> Any:
        """Return something to prepare in place of a file."""
        import pandas

        users, items = [f"u{i // 6}" for i in range(60)], [str(i % 6) for i in range(60)]
        frames: list[Draw] = [
            lambda: pandas.DataFrame({"user": users, "item": items}),
            lambda: pandas.DataFrame({"user": [float(2**53 + i) for i in range(60)], "item": items}),
            lambda: pandas.DataFrame({"user": np.repeat(np.arange(10, dtype=np.uint64) + 2**63, 6), "item": items}),
            lambda: pandas.DataFrame({"user": users, "item": [None, *items[1:]]}),
            lambda: pandas.DataFrame({"user": users, "item": [[1]] * 60}),
            lambda: pandas.DataFrame({"user": pandas.Categorical(users), "item": items}),
            lambda: pandas.DataFrame({"user": users, "item": pandas.date_range("2020", periods=60)}),
            lambda: pandas.DataFrame({"user": users, "item": ["a\nb", *items[1:]]}),
            lambda: pandas.DataFrame({"user": [True, False] * 30, "item": items}),
            lambda: pandas.DataFrame(columns=["user", "item"]),
            lambda: pandas.DataFrame(np.ones((3, 2)), columns=["user", "user"]),
            lambda: pandas.Series(users),
            lambda: {"user": users, "item": items},
            lambda: "nope.csv",
            lambda: "",
            lambda: None,
            lambda: "/dev/null",
            lambda: ".",
            lambda: b"clicks.csv",
        ]
        return self.one_of(*frames)()

    def setting(self) -> str:
        """Return a setting of the command line."""
        key = self.one_of(
            "model.latent", "train.epochs", "seed", "model.hidden", "train", "", ".", "model.", "a.b.c", "name"
        )
        value = self.one_of(
            "5",
            "-1",
            "0",
            "[1, 2]",
            "[",
            "{a=1}",
            "nan",
            "inf",
            "9" * 5000,
            "'x'",
            "",
            "true",
            "[" * 5000,
            "1e999",
            "=",
            "\ud800",
            "\0",
        )
        return f"{key}={value}"

    def options(self) -> dict[str, Any]:
        """Return options of a model or of training."""
        draws = {
            name: lambda: self.number(5)
            for name in ("latent", "epochs", "hidden", "batch_size", "neighbours", "l2", "factors")
        }
        draws |= {"dropout": self.measure, "learning_rate": self.measure, "nope": self.measure, "gamma": self.measure}
        return self.some(**draws)

    @staticmethod
    def text(value: Any) -> str:
        """Return a value in few characters."""
        if isinstance(value, dict):
            return ", ".join(f"{key}={Odd.text(part)}" for key, part in value.items())
        if sparse.issparse(value):
            return f"{type(value).__name__} {value.dtype} {value.shape}"
        if isinstance(value, int) and abs(value) > 10**30:
            return "a huge number"
        shown = repr(value)
        return shown if len(shown) < 60 else f"{shown[:40]}... ({type(value).__name__})"


def _with(matrix: Any, **arrays: Any) -> Any:
    """Return a CSR whose arrays were replaced without a check."""
    copy = matrix.copy()
    for name, array in arrays.items():
        setattr(copy, name, array)
    return copy


def _tensor(array: Any) -> Any:
    import torch

    return torch.from_numpy(array)
