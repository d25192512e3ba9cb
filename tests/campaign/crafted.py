"""Crafted inputs: files that are whole and carry the right digests, and hold what no honest writer wrote; and bombs.

Each is refused with a sentence, in time and within memory, or it is read as what it says.
"""

import gzip
import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from data_prep.manifest import write_manifest

from .figures import OTHER, REFUSED, Figures, complaints
from .mutants import DEEP, join_safetensors, split_safetensors
from .world import PREPARE, SETTINGS, World, run, train

Change = Callable[[Path], None]
SHORT = 14
GIGABYTES = 3  # that a bomb unfolds to


def crafted(world: World, figures: Figures, rng: np.random.Generator, *, long: bool) -> None:
    """Hand every crafted input to the verb that reads it; the short form draws some, none of them large."""
    inputs = list(_inputs(long=long))
    if not long:
        inputs = [inputs[i] for i in sorted(rng.choice(len(inputs), SHORT, replace=False))]
    for what, needs, change, command in inputs:
        with world.copy() as folder:
            for name, source in needs.items():
                world.put(source, folder / name)
            change(folder)
            outcome = run(command, folder)
        wrong = complaints(outcome, statuses=(0, 1, 2))
        if not wrong and not outcome.status and ("NaN" in outcome.out or "Infinity" in outcome.out):
            wrong.append("scores that are not numbers")
        figures.judge(f"crafted: {what}", wrong, REFUSED if outcome.status else OTHER, outcome)


def _inputs(*, long: bool) -> Iterator[tuple[str, dict[str, str], Change, list[str]]]:
    """Return what is crafted, what of the world it needs, how it is made, and the command that reads it."""
    shown = ["recommend", "run", "--item", "101", "--item", "104", "-k", "5", "--json", "--device", "cpu"]
    names = (*SETTINGS, "blend") if long else ("item-knn", "mult-vae")
    for name in names:
        for kind, alter in TENSORS.items():
            yield (
                f"{name} with tensors {kind}",
                {"run": f"runs/{name}"},
                lambda f, a=alter: _tensors(f / "run", a),
                shown,
            )
    for key, values in CONFIG.items():
        for value in values if long else values[:1]:
            yield (
                f"run.json with {key} = {str(value)[:20]}",
                {"run": "runs/mult-vae" if key != "layers" else "runs/recvae"},
                lambda f, k=key, v=value: _config(f / "run", k, v),
                shown,
            )
    data = {"data": "data"}
    for name in ("train", "validation_in", "test_out") if long else ("train",):
        for kind, arrays in ARRAYS.items():
            reader = (
                ["evaluate", "run", "data", "--json", "--device", "cpu"] if name == "test_out" else train("ease", "out")
            )
            yield (
                f"{name} with {kind}",
                {**data, "run": "runs/ease"},
                lambda f, n=name, a=arrays: _matrix(f / "data", n, a),
                reader,
            )
    inputs = {name: name for name in ("clicks.csv", "titles.csv", "people.csv")}
    prepare = [*PREPARE, "--out", "out"]
    for name, text in TOML.items():
        yield (
            f"TOML, {name}",
            data,
            lambda f, t=text: _write(f / "odd.toml", t),
            ["train", "data", "--config", "odd.toml", "--out", "out", "--quiet"],
        )
    for name, made in FORMATS.items():
        yield f"clicks.csv as {name}", inputs, lambda f, m=made: _rewrite(f / "clicks.csv", m), prepare
    if not long:
        return
    for name in ("clicks.csv", "titles.csv", "people.csv"):
        bombed = [f"{part}.gz" if part == name else part for part in prepare]
        yield f"{name}.gz of {GIGABYTES} GB", inputs, lambda f, n=name: _gzip_bomb(f / f"{n}.gz"), bombed
    yield f"columns of {GIGABYTES} GB", data, lambda f: _sparse(f / "data"), train("ease", "out")
    yield (
        f"an archive of {GIGABYTES} GB",
        {},
        lambda f: _zip_bomb(f / "bomb.zip", "ml-100k/u.data"),
        ["prepare", "ml-100k", "--source", "bomb.zip", "--out", "out", "--quiet"],
    )


# --- run folders


def _tensors(run_folder: Path, alter: Callable[[np.ndarray], np.ndarray]) -> None:
    """Alter every tensor of a run and recompute the digests, as somebody would who means harm."""
    path = run_folder / "model.safetensors"
    header, rest = split_safetensors(path.read_bytes())
    about = header.pop("__metadata__")
    kinds = {"F32": "<f4", "F64": "<f8", "I64": "<i8", "I32": "<i4", "U8": "u1"}
    names = {"<f4": "F32", "<f8": "F64", "<i8": "I64", "<i4": "I32", "|u1": "U8"}
    torch_names = {
        "F32": "torch.float32",
        "F64": "torch.float64",
        "I64": "torch.int64",
        "I32": "torch.int32",
        "U8": "torch.uint8",
    }
    arrays = {}
    for name, entry in header.items():
        start, stop = entry["data_offsets"]
        arrays[name] = alter(np.frombuffer(rest[start:stop], kinds[entry["dtype"]]).reshape(entry["shape"]))
    digest, made, offset, parts = hashlib.sha256(), {}, 0, []
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        kind = names[array.dtype.str]
        digest.update(f"{name} {torch_names[kind]} {array.shape}\n".encode())
        digest.update(array.tobytes())
        made[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
        parts.append(array.tobytes())
    entry = json.loads(about["recvae"])
    entry["digest"] = digest.hexdigest()
    path.write_bytes(join_safetensors({"__metadata__": {"recvae": json.dumps(entry)}, **made}, b"".join(parts)))
    _unseal(run_folder)


def _unseal(run_folder: Path) -> None:
    """Make a run folder look like one of the time before there were seals."""
    (run_folder / "seal.json").unlink(missing_ok=True)
    path = run_folder / "run.json"
    record = json.loads(path.read_text())
    if "sealed" in record:
        record["sealed"] = False
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def _config(run_folder: Path, key: str, value: object) -> None:
    path = run_folder / "run.json"
    record = json.loads(path.read_text())
    record["config"]["model"][key] = "here"
    path.write_text(json.dumps(record, indent=2))
    _unseal(run_folder)
    path.write_text(path.read_text().replace('"here"', value if isinstance(value, str) else json.dumps(value)))


TENSORS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "that are not numbers": lambda a: np.full_like(a, np.nan) if a.dtype.kind == "f" else a,
    "that are infinite": lambda a: np.full_like(a, np.inf) if a.dtype.kind == "f" else a,
    "far out of range": lambda a: np.full_like(a, 10**9) if a.dtype.kind in "iu" and a.dtype.itemsize > 1 else a,
    "below zero": lambda a: np.full_like(a, -7) if a.dtype.kind in "if" else a,
    "cut by one": lambda a: a.reshape(-1)[:-1] if a.size > 1 else a,
    "of no rows": lambda a: a.reshape(-1)[:0],
    "of another type": lambda a: a.astype("<f8") if a.dtype.itemsize < 8 else a.astype("<i4"),
    "of one dimension more": lambda a: a[None],
}
CONFIG = {
    "latent": [10**7, 2**63, -1, "[" * DEEP + "]" * DEEP, "9" * 5000, '"\\ud800"', "null"],
    "hidden": [[10**7], [10**9, 10**9], [0], [[1]], [], ["a"]],
    "layers": [100_000, 0],
    "dropout": ["1e999", "NaN", 2, None],
    "likelihood": ['"\\u001b[31m"', "{}", 1],
}
TOML = {
    "deep lists": "name = 'ease'\nx = " + "[" * 5000 + "]" * 5000 + "\n",
    "deep tables": "name = 'ease'\nx = " + "{a=" * 2000 + "1" + "}" * 2000 + "\n",
    "a seed of 5,000 digits": f"name = 'ease'\nseed = {'9' * 5000}\n",
    "a lone surrogate": "name = 'ease'\nx = \"\\ud800\"\n",
    "long keys": "name = 'ease'\n" + ".".join(["a"] * 5000) + " = 1\n",
    "ten thousand unknown options": "name = 'ease'\n[model]\n" + "".join(f"x{i} = 1\n" for i in range(10_000)),
}

# --- clicks and datasets


def _bz2(data: bytes) -> bytes:
    import bz2

    return bz2.compress(data)


def _xz(data: bytes) -> bytes:
    import lzma

    return lzma.compress(data)


FORMATS: dict[str, Callable[[bytes], bytes]] = {
    "UTF-16": lambda data: data.decode().encode("utf-16"),
    "Latin-1": lambda data: data.replace(b"u1,", "\u00fc1,".encode("latin-1")),
    "bz2": _bz2,
    "xz": _xz,
    "feather": lambda data: b"ARROW1\0\0" + data,
    "Parquet that is none": lambda data: b"PAR1" + data,
    "noise": lambda data: np.random.default_rng(1).bytes(len(data)),
    "zeros": lambda data: bytes(len(data)),
    "one line": lambda data: data.replace(b"\n", b","),
    "gzip of gzip": lambda data: gzip.compress(gzip.compress(data)),
}
ARRAYS: dict[str, Callable[[dict[str, np.ndarray]], None]] = {
    "a column out of range": lambda m: m.update(
        indices=np.where(m["indices"] == m["indices"].max(), 10**6, m["indices"])
    ),
    "a column below zero": lambda m: m.update(indices=m["indices"] - 1),
    "row pointers out of range": lambda m: m.update(indptr=m["indptr"] * 1000),
    "row pointers that fall": lambda m: m.update(indptr=m["indptr"][::-1].copy()),
    "no row pointers": lambda m: m.update(indptr=m["indptr"][:0]),
    "columns of 64 bits": lambda m: m.update(indices=m["indices"].astype(np.int64)),
    "columns that are not numbers": lambda m: m.update(indices=m["indices"].astype("U4")),
    "columns that are fractions": lambda m: m.update(indices=m["indices"].astype(np.float32)),
    "columns of two dimensions": lambda m: m.update(indices=m["indices"][None]),
}


def _matrix(folder: Path, name: str, alter: Callable[[dict[str, np.ndarray]], None]) -> None:
    """Alter the arrays of a matrix, and its digest in the manifest."""
    paths = {part: folder / f"{name}.{part}.npy" for part in ("indptr", "indices")}
    arrays = {part: np.load(path) for part, path in paths.items()}
    alter(arrays)
    for part, path in paths.items():
        np.save(path, arrays[part])
    _redigest(folder)


def _redigest(folder: Path) -> None:
    """Make the manifest's digests and its seal those of the files."""
    manifest = json.loads((folder / "manifest.json").read_text())
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in manifest["files"]}
    write_manifest(folder / "manifest.json", {**manifest, "files": files})


def _rewrite(path: Path, made: Callable[[bytes], bytes]) -> None:
    path.write_bytes(made(path.read_bytes()))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


# --- bombs: blocks of one text, deflated once and repeated

_BLOCK = 1 << 24


def _gzip_bomb(path: Path) -> None:
    member = gzip.compress(b"100,a title without an end " * (_BLOCK // 27), mtime=0)
    path.write_bytes(member * (GIGABYTES * (1 << 30) // _BLOCK))


def _deflated() -> tuple[bytes, int, int]:
    """Return GIGABYTES of zeros as a raw deflate stream, its checksum, and its length."""
    packer, count, checksum = zlib.compressobj(9, zlib.DEFLATED, -15), GIGABYTES * (1 << 30) // _BLOCK, 0
    block = packer.compress(bytes(_BLOCK)) + packer.flush(zlib.Z_FULL_FLUSH)
    for _ in range(count):
        checksum = zlib.crc32(bytes(_BLOCK), checksum)
    return block * count + packer.flush(zlib.Z_FINISH), checksum, count * _BLOCK


def _zip_bomb(path: Path, name: str) -> None:
    stream, checksum, length = _deflated()
    _zip_of(path, [(name, stream, checksum, length)])


def _sparse(folder: Path) -> None:
    """Give a matrix columns that are a file of GIGABYTES of zeros, none on the disk, and the count of these clicks."""
    length = GIGABYTES * (1 << 28)
    with (folder / "train.indices.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<i4", "fortran_order": False, "shape": (length,)})
        file.truncate(file.tell() + 4 * length)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["counts"]["clicks"]["train"] = length
    (folder / "manifest.json").write_text(json.dumps(manifest))
    _redigest(folder)


def _zip_of(path: Path, members: list[tuple[str, bytes, int, int | None]]) -> None:
    """Write a zip file of members that are deflated already (with their length) or not (None)."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data, checksum, length in members:
            info = zipfile.ZipInfo(name)
            if length is None:
                archive.writestr(info, data)
                continue
            info.compress_type, info.file_size, info.compress_size, info.CRC = 8, length, len(data), checksum
            info.header_offset = archive.fp.tell()
            archive.fp.write(info.FileHeader(False))
            archive.fp.write(data)
            archive.filelist.append(info)
            archive.NameToInfo[name] = info
            archive.start_dir = archive.fp.tell()
            archive._didModify = True
