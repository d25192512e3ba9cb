"""Mutations: every file that is read, altered, is refused with a sentence or makes no difference.

Files with a digest (datasets, runs) are never accepted with another outcome, and ``info --verify`` refuses every
change. Plain inputs (clicks, titles, histories, configurations, studies) may be other data, but no traceback and no
hang.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .crafted import crafted
from .figures import OTHER, REFUSED, UNCHANGED, Figures, complaints
from .mutants import Mutant, Rng, any_bytes, odd_header, odd_json, odd_npy, odd_npz, odd_table
from .processes import Outcome
from .scenarios import Tree, tree
from .world import GIVEN, PREPARE, SETTINGS, World, run, train

SHORT, LONG = 16, 3900
_SWAPPED = "another file in its place"


@dataclass
class Reader:
    """A verb that reads the file: ``strict`` where it must notice every change."""

    command: list[str]
    strict: bool = False
    result: tuple[str, Tree] | None = None  # what it says and writes with the file as it is


@dataclass
class Target:
    """A file (``world`` is what of the world it and its reader need, by name here), and how it is altered."""

    file: str
    needs: dict[str, str]
    readers: list[Reader]
    ways: list[Callable[[bytes, Rng], Mutant]]
    sealed: bool = True
    swaps: list[bytes] = field(default_factory=list)


def mutations(world: World, figures: Figures, rng: np.random.Generator, *, long: bool) -> None:
    """Alter every file in turn, in drawn ways, and let a verb that reads it read it."""
    crafted(world, figures, rng, long=long)
    goals = list(targets(world))
    if not long:
        goals = [goals[i] for i in sorted(rng.choice(len(goals), min(SHORT, len(goals)), replace=False))]
    for number in range(LONG if long else SHORT):
        target = goals[number % len(goals)]
        reader = target.readers[int(rng.integers(0, len(target.readers)))]
        _mutate(world, figures, target, reader, rng)


def _mutate(world: World, figures: Figures, target: Target, reader: Reader, rng: Rng) -> None:
    if reader.result is None:
        outcome, files = _read(world, target, reader, None)
        if outcome.status:
            figures.fail(f"recvae {' '.join(reader.command)} (not altered)", [f"ended with {outcome.status}"], outcome)
            return
        reader.result = outcome.out, files
    source = _source(world, target)
    original = source.read_bytes()
    if target.swaps and rng.random() < 0.06:
        what, data = _SWAPPED, target.swaps[int(rng.integers(0, len(target.swaps)))]
    else:
        what, data = target.ways[int(rng.integers(0, len(target.ways)))](original, rng)
    attack = f"{target.file}, {what}; recvae {' '.join(reader.command[:3])} ..."
    if data == original:
        figures.passed(UNCHANGED)
        return
    outcome, files = _read(world, target, reader, data)
    wrong = complaints(outcome, statuses=(0, 1, 2))
    same = outcome.status == 0 and (outcome.out, files) == reader.result
    if outcome.status == 0 and not wrong and target.sealed:
        whole = what == _SWAPPED and target.file.endswith("manifest.json")  # another dataset's, whole by its own seal
        if reader.strict:
            wrong.append("--verify finds nothing")
        elif not same and not (whole and reader.command[0] == "info"):  # which reads no file that it names
            wrong.append("accepted, with another outcome")
    if outcome.status and not wrong and not _names(outcome.err, target.file):
        wrong.append("the sentence does not name the file")
    figures.judge(attack, wrong, REFUSED if outcome.status else UNCHANGED if same else OTHER, outcome)


def _read(world: World, target: Target, reader: Reader, data: bytes | None) -> tuple[Outcome, Tree]:
    """Return how the reader ended, and what it wrote, with ``data`` in the file."""
    with world.copy() as folder:
        for name, source in target.needs.items():
            world.put(source, folder / name)
        if data is not None:
            (folder / target.file).write_bytes(data)
        outcome = run(reader.command, folder)
        return outcome, {name: digest for name, digest in tree(folder).items() if name.startswith("out")}


def _source(world: World, target: Target) -> Path:
    """Return the world's file behind a target."""
    first = Path(target.file).parts[0]
    return world.folder / target.needs[first] / Path(*Path(target.file).parts[1:])


def _names(sentence: str, file: str) -> bool:
    """Return whether a sentence names the file, or the folder it is in."""
    path = Path(file)
    return path.name in sentence or path.parts[0] in sentence


def targets(world: World) -> Iterator[Target]:
    """Return every file that a verb reads."""
    yield from _of_datasets(world)
    yield from _of_runs(world)
    yield from _of_inputs(world)


def _of_datasets(world: World) -> Iterator[Target]:
    conditional = train("conditional-vae", "out", "--set", "train.epochs=1")
    rated = train(
        "vaeac", "out", "--set", "model.ratings=true", "--set", "model.liked_from=3.0", "--set", "train.epochs=1"
    )
    users = {
        "users.csv": [["train", "data", "--refit", "run", "--out", "out", "--quiet", "--device", "cpu"]],
        "item_tags.csv": [conditional],
        "user_tags.csv": [conditional],
        "items.csv": [train("ease", "out")],
        "train.indptr.npy": [train("ease", "out"), train("popularity", "out")],
        "train.indices.npy": [train("ease", "out"), train("popularity", "out")],
        **{
            f"{name}.{part}.npy": [train("ease", "out")]
            for name in ("validation_in", "validation_out")
            for part in ("indptr", "indices")
        },
        "manifest.json": [train("ease", "out"), ["info", "data", "--json"]],
    }
    evaluate = [["evaluate", "run", "data", "--json", "--device", "cpu"]]
    for source in ("data", "rated"):
        for path in sorted((world.folder / source).iterdir()):
            ratings = "_ratings." in path.name
            if source == "rated" and not ratings and path.name != "manifest.json":
                continue
            commands = [rated] if ratings else users.get(path.name, evaluate)
            yield Target(
                f"data/{path.name}",
                {"data": source, "run": "runs/ease"},
                [Reader(["info", "data", "--verify", "--json"], strict=True), *map(Reader, commands)],
                _ways(path),
                swaps=_swaps(world, path),
            )


def _of_runs(world: World) -> Iterator[Target]:
    shown = ["recommend", "run", "--item", "101", "--item", "104", "-k", "5", "--json", "--device", "cpu"]
    for name in (*SETTINGS, "rated-vaeac", "refitted", "blend"):
        folder = world.folder / "runs" / name
        more = [part for setting in SETTINGS.get(name, []) for part in ("--set", setting)]
        resume = ["train", "data", "--out", "run", "--resume", "--quiet", "--device", "cpu", *more]
        resume += ["--set", "train.epochs=3"]
        for path in sorted(folder.rglob("*")):
            if path.is_dir():
                continue
            file = str(path.relative_to(folder))
            readers = [Reader(["info", "run", "--verify", "--json"], strict=True)]
            if file == "metrics.jsonl":
                readers.append(Reader(["info", "run", "--json"]))
            elif file.startswith("resume"):
                readers += [Reader(resume)] * (name in SETTINGS)
            else:
                readers.append(Reader(shown))
                readers += [Reader(resume)] * (name in SETTINGS and (folder / "resume").exists())
            yield Target(
                f"run/{file}", {"run": f"runs/{name}", "data": "data"}, readers, _ways(path), swaps=_swaps(world, path)
            )


def _of_inputs(world: World) -> Iterator[Target]:
    quiet = ["--quiet", "--device", "cpu"]
    listed = ["recommend", "run", "--histories", "histories.csv", "--out", "out.csv", *quiet]
    prepare = [*PREPARE, "--out", "out"]
    again = [*prepare, "--titles", "titles.csv.gz"]
    inputs = {name: name for name in ("clicks.csv", "titles.csv", "people.csv")}
    tune = ["tune", "study", "data", "--resume"]
    tune = ["tune", "data", "--out", "study", "--resume", *quiet]
    plain: list[tuple[str, dict[str, str], list[str]]] = [
        ("clicks.csv", inputs, prepare),
        ("titles.csv", inputs, prepare),
        ("people.csv", inputs, prepare),
        ("titles.csv.gz", {**inputs, "titles.csv.gz": "titles.csv.gz"}, again),
        *(
            (name, {**inputs, name: name}, [name if part == "clicks.csv" else part for part in prepare])
            for name in ("clicks.csv.gz", "clicks.parquet")
        ),
        ("train.txt", {"train.txt": "train.txt", "test.txt": "test.txt"}, [*GIVEN, "--out", "out"]),
        ("test.txt", {"train.txt": "train.txt", "test.txt": "test.txt"}, [*GIVEN, "--out", "out"]),
        ("histories.csv", {"histories.csv": "histories.csv", "run": "runs/ease"}, listed),
        (
            "config.toml",
            {"config.toml": "config.toml", "data": "data"},
            ["train", "data", "--config", "config.toml", "--out", "out", *quiet],
        ),
        (
            "study/best.toml",
            {"study": "study", "data": "data"},
            ["train", "data", "--config", "study/best.toml", "--out", "out", *quiet],
        ),
        ("study/study.json", {"study": "study", "data": "data"}, tune),
        ("study/trials.json", {"study": "study", "data": "data"}, tune),
    ]
    for file, needs, command in plain:
        path = world.folder / needs[Path(file).parts[0]] / Path(*Path(file).parts[1:])
        yield Target(file, needs, [Reader(command)], _ways(path), sealed=False, swaps=_swaps(world, path))


def _ways(path: Path) -> list[Callable[[bytes, Rng], Mutant]]:
    """Return how a file is altered: half of the time as bytes, half by its form."""
    by_form = {".json": odd_json, ".jsonl": odd_json, ".npz": odd_npz, ".npy": odd_npy, ".safetensors": odd_header}
    by_form |= {".csv": odd_table, ".txt": odd_table, ".toml": odd_table}
    return [any_bytes, *([by_form[path.suffix]] if path.suffix in by_form else [])]


def _swaps(world: World, path: Path) -> list[bytes]:
    """Return the bytes of files of the same name elsewhere in the world, and of one of another kind."""
    same = [other for other in sorted(world.folder.rglob(path.name)) if other != path]
    return [other.read_bytes() for other in [*same[:6], world.folder / "clicks.parquet"]]
