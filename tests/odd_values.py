"""Values that somebody may put where an argument belongs; what may come of them is an answer or one sentence."""

import numpy as np
import torch
from scipy.sparse import coo_array, csr_array

from recvae.errors import RecvaeError


class Unprintable:
    def __repr__(self):
        raise ValueError("no text")


def odd_values():
    """Fresh odd values by name: some can be changed or used up."""
    return {
        "None": None,
        "True": True,
        "-1": -1,
        "0": 0,
        "5": 5,
        "1.5": 1.5,
        "nan": float("nan"),
        "inf": float("inf"),
        "10**9": 10**9,
        "10**23": 10**23,
        "10**5000": 10**5000,
        "-10**5000": -(10**5000),
        "1j": 1j,
        "text": "abc",
        "empty text": "",
        "a null character": "a\0b",
        "a lone surrogate": "\ud800",
        "long text": "x" * 5000,
        "bytes": b"abc",
        "[]": [],
        "[None]": [None],
        "[[1]]": [[1]],
        "[[None]]": [[None]],
        "[1.5]": [1.5],
        "[10**23]": [10**23],
        "ragged": [[1], [1, 2]],
        "['a']": ["a"],
        "[['a']]": [["a"]],
        "[[['a']]]": [[["a"]]],
        "a dict": {"a": 1},
        "a set": {1, 2},
        "an object": object(),
        "what cannot be printed": Unprintable(),
        "a class": int,
        "a function": len,
        "a generator": (n for n in range(3)),
        "np.int64": np.int64(3),
        "np.float32": np.float32(0.5),
        "a 0-d array": np.array(3),
        "an array of floats": np.array([0.5, 1.5]),
        "an array of bools": np.array([True, False]),
        "an array of objects": np.array([None, "a"], dtype=object),
        "an array of complex": np.array([[1j, 2j]]),
        "a table of objects": np.full((3, 40), None, dtype=object),
        "a table of times": np.zeros((3, 40), dtype="M8[s]"),
        "an array in three dimensions": np.zeros((2, 2, 2)),
        "a table": np.ones((3, 40)),
        "a table with NaN": np.full((3, 40), np.nan),
        "a table with inf": np.full((3, 40), np.inf),
        "negative values": csr_array(-np.ones((3, 40))),
        "a tensor": torch.ones(3, 40),
        "a tensor of integers": torch.tensor([1, 2]),
        "a COO": coo_array(np.ones((3, 40))),
        "a COO in one dimension": coo_array(np.ones(40)),
        "complex CSR": csr_array(np.ones((3, 40)) * 1j),
        "no rows": csr_array((0, 40)),
        "no columns": csr_array((3, 0)),
        "other columns": csr_array(np.ones((3, 7))),
    }


def wrong(calls, *, leaving_out=()):
    """Give every odd value to every call and return what went wrong: anything but an answer or one sentence."""
    found = []
    for name, call in calls.items():
        for label in (label for label in odd_values() if label not in leaving_out):
            problem = wrong_with(call, odd_values()[label])
            if problem:
                found.append(f"{name}({label}): {problem}")
    return found


def wrong_with(call, value):
    try:
        call(value)
    except RecvaeError as error:
        text = str(error)
        first, *rest = text.splitlines() or [""]
        listing = all(line.startswith("  ") for line in rest)  # mistakes of a configuration
        if not first or not listing or len(text) > 1500:
            return f"no sentence: {text[:300]!r}"
    except BaseException as error:  # noqa: BLE001 - any other one is what is looked for
        return f"{type(error).__name__}: {str(error)[:200]}"
    return None
