"""Altered bytes: flips, cuts and blocks of any file, and odd values in files that are JSON, NumPy's or safetensors."""

import io
import json
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

Rng = np.random.Generator
Mutant = tuple[str, bytes]  # what was done, and the bytes

DEEP = 100_000


def any_bytes(data: bytes, rng: Rng) -> Mutant:
    """Alter bytes at a drawn place, whatever they mean."""
    kind = str(
        rng.choice(["flip", "flip", "flip", "flips", "cut", "insert", "double", "delete", "zero", "append", "empty"])
    )
    place = int(rng.integers(0, max(1, len(data))))
    block = int(rng.integers(1, 65))
    piece = data[place : place + block]
    if kind in ("flip", "flips"):
        altered = bytearray(data)
        for _ in range(1 if kind == "flip" else 9):
            at = int(rng.integers(0, max(1, len(data))))
            if data:
                altered[at] ^= 1 << int(rng.integers(0, 8))
        return f"{kind} near byte {place}", bytes(altered)
    results = {
        "cut": data[:place],
        "insert": data[:place] + rng.bytes(block) + data[place:],
        "double": data[:place] + piece + piece + data[place + block :],
        "delete": data[:place] + data[place + block :],
        "zero": data[:place] + bytes(len(piece)) + data[place + block :],
        "append": data + rng.bytes(block),
        "empty": b"",
    }
    return f"{kind} at byte {place}", results[kind]


def odd_json(data: bytes, rng: Rng) -> Mutant:
    """Put an odd value somewhere into a JSON document, or into one of its lines."""
    lines = data.decode().splitlines()
    if len(lines) > 1 and all(line.startswith("{") for line in lines):  # JSON lines
        place = int(rng.integers(0, len(lines)))
        what, line = odd_json(lines[place].encode(), rng)
        return f"line {place + 1}: {what}", b"\n".join(
            [*map(str.encode, lines[:place]), line, *map(str.encode, lines[place + 1 :])]
        ) + b"\n"
    document = json.loads(data)
    parents = _parents(document)
    parent, name = parents[int(rng.integers(0, len(parents)))]
    if isinstance(parent, dict) and rng.random() < 0.15:
        del parent[name]
        return f"without {name!r}", json.dumps(document).encode()
    if isinstance(parent, dict) and rng.random() < 0.1:
        parent["odd"] = parent[name]
        return "with one more key", json.dumps(document).encode()
    label, text = odd_values(rng)
    parent[name] = "here-comes-the-odd-value"
    return f"{name!r} is {label}", json.dumps(document).replace('"here-comes-the-odd-value"', text).encode("utf-8")


def odd_values(rng: Rng) -> tuple[str, str]:
    """Return a JSON value that hardly any field can use, with its name."""
    values = {
        "null": "null",
        "true": "true",
        "a list": "[1, 2]",
        "an object": '{"a": 1}',
        "an empty text": '""',
        "a text": '"text"',
        "-1": "-1",
        "0": "0",
        "1.5": "1.5",
        "a huge number": "1" + "0" * 400,
        "a number of 5,000 digits": "9" * 5000,
        "2^63": str(2**63),
        "10^7": "10000000",
        "100,000": "100000",
        "NaN": "NaN",
        "infinity": "1e999",
        "a lone surrogate": '"\\ud800"',
        "an escape sequence": '"\\u001b[31m"',
        "a line feed": '"a\\nb"',
        "a long text": '"' + "x" * 100_000 + '"',
        "deep lists": "[" * DEEP + "]" * DEEP,
        "deep objects": '{"a":' * DEEP + "1" + "}" * DEEP,
    }
    name = str(rng.choice([*values]))
    return name, values[name]


def _parents(document: Any) -> list[tuple[Any, Any]]:
    """Return every container of a document with each of its keys or places."""
    found: list[tuple[Any, Any]] = []
    if isinstance(document, dict):
        found += [(document, key) for key in document]
    elif isinstance(document, list):
        found += [(document, place) for place in range(len(document))]
    for parent, name in list(found):
        found += _parents(parent[name])
    return found


def odd_npz(data: bytes, rng: Rng) -> Mutant:
    """Alter one array of an npz file and write the file anew, so that it is a good zip file of good arrays."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = str(rng.choice([*members]))
    kind, members[name] = odd_npy(members[name], rng)
    if rng.random() < 0.1:
        del members[name]
        kind = "left out"
    return f"{name}: {kind}", zipped(members)


def odd_npy(data: bytes, rng: Rng) -> Mutant:
    """Alter the array of a NumPy file, so that it is a good file of another array."""
    array = np.load(io.BytesIO(data), allow_pickle=False)
    texts = ["S2", "U2", "U9"]  # what a text can be turned into
    types = ["int8", "float16", "complex64", "S3", "U2", "bool"]
    kinds: dict[str, Callable[[], Any]] = {
        "another type": lambda: array.astype(str(rng.choice(texts if array.dtype.kind in "SU" else types))),
        "one value more": lambda: np.append(array, array.reshape(-1)[:1]),
        "one value less": lambda: array.reshape(-1)[:-1],
        "a value out of range": lambda: _with(array, rng, 2**31 - 1),
        "a negative value": lambda: _with(array, rng, -3),
        "not a number": lambda: _with(array.astype(np.float64), rng, np.nan),
        "two dimensions": lambda: array.reshape(1, -1),
        "nothing": lambda: array.reshape(-1)[:0],
        "a pickle": lambda: np.array([{"a": 1}], dtype=object),
        "reversed": lambda: array.reshape(-1)[::-1].copy(),
    }
    kind = str(rng.choice([*kinds]))
    if array.dtype.kind in "SUb" and kind not in ("another type", "nothing", "two dimensions", "a pickle", "reversed"):
        kind = "a pickle"
    stream = io.BytesIO()
    with np.errstate(all="ignore"):
        np.save(stream, kinds[kind](), allow_pickle=True)
    return kind, stream.getvalue()


def zipped(members: dict[str, bytes], *, compressed: bool = False) -> bytes:
    """Return a zip file."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def _with(array: Any, rng: Rng, value: float) -> Any:
    altered = array.copy().reshape(-1)
    if altered.size and altered.dtype.kind in "iuf":
        altered[int(rng.integers(0, altered.size))] = value
    return altered.reshape(array.shape)


def odd_header(data: bytes, rng: Rng) -> Mutant:
    """Put an odd value into what a safetensors file says of itself; its tensors and their digest stay as they are."""
    header, rest = split_safetensors(data)
    what, entry = odd_json(header["__metadata__"]["recvae"].encode(), rng)
    header["__metadata__"]["recvae"] = entry.decode()
    return f"header: {what}", join_safetensors(header, rest)


def split_safetensors(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header and the tensors' bytes of a safetensors file."""
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join_safetensors(header: dict[str, Any], rest: bytes) -> bytes:
    """Return a safetensors file."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + rest


def odd_table(data: bytes, rng: Rng) -> Mutant:
    """Alter one cell or row of a CSV table or of lines, so that it is still text."""
    lines = data.decode().splitlines()
    place = int(rng.integers(0, len(lines)))
    cells = lines[place].split("," if "," in lines[place] else " ")
    odd = {
        "a lone quote": '"',
        "a null character": "\0",
        "an escape sequence": "\x1b[31mred",
        "a bare carriage return": "a\rb",
        "empty": "",
        "a long cell": "x" * 200_000,
        "a huge number": "9" * 400,
        "infinity": "inf",
        "not a number": "nan",
        "2^53": str(2**53 + 1),
        "right to left": "\u202e",
        "a comma": "1,2",
    }
    kind = str(rng.choice([*odd, "row doubled", "row left out", "row first"]))
    if kind in odd:
        cells[int(rng.integers(0, len(cells)))] = odd[kind]
        lines[place] = ("," if "," in lines[place] else " ").join(cells)
    elif kind == "row doubled":
        lines.insert(place, lines[place])
    elif kind == "row left out":
        del lines[place]
    else:
        lines.insert(0, lines.pop(place))
    return f"row {place}: {kind}", ("\n".join(lines) + "\n").encode("utf-8")
