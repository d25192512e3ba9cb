"""The verbs that write, each on an empty place and over what was there, and what their outputs must be."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np

from .processes import Outcome, forked
from .tracing import Tracer
from .world import PREPARE, World, run, train, verb

Tree = dict[str, str]  # path -> digest of its bytes, or "folder"
Check = Callable[[Path], int]
Point = TypeVar("Point")

_RANDOM = re.compile(r"\.[A-Za-z0-9_]{8}(?=\.)|(?<=\.tmp)\w+")  # in the names of temporary files


@dataclass
class Scenario:
    """A verb's ``command``, the world's files that it needs by their name here, and its output ``out``.

    ``again`` is what a user does after a kill. ``check`` returns 0 for an output that is whole.
    """

    name: str
    needs: dict[str, str]
    command: list[str]
    again: list[str]
    out: str = "out"
    check: Check | None = None
    operations: list[str] = field(default_factory=list)
    start: Tree = field(default_factory=dict)
    end: Tree = field(default_factory=dict)

    def place(self, world: World, folder: Path) -> None:
        """Copy what is needed into ``folder``."""
        for name, source in self.needs.items():
            world.put(source, folder / name)

    def rehearse(self, world: World) -> list[str]:
        """Run the command undisturbed, twice, and keep its operations and files; return what went wrong."""
        trees = []
        for watched in (True, False):
            with world.copy() as folder:
                self.place(world, folder)
                self.start = tree(folder)
                tracer = Tracer(folder)
                outcome = run(self.command, folder, watch=tracer if watched else None)
                if outcome.status:
                    return [f"ended with {outcome.status} undisturbed: {outcome.err}"]
                trees.append(tree(folder))
                if watched:
                    self.operations = tracer.operations
        self.end = trees[0]
        return [f"two runs differ in {difference(*trees)}"] if trees[0] != trees[1] else []

    def wrong_output(self, folder: Path, now: Tree) -> tuple[list[str], list[Outcome]]:
        """Return what is wrong with the output as it stands: it may be missing, the old one, the new one, or whole."""
        ours = self.part(now)
        if not ours and self.part(self.start):
            return [f"the old {self.out} is gone"], []
        if not ours or ours in (self.part(self.start), self.part(self.end)):
            return [], []
        check = self.check
        if check is None:
            return [f"{self.out} is neither the old nor the new one"], []
        outcome = forked(lambda: check(folder))
        return ([f"{self.out} is not whole"] if outcome.status else []), [outcome]

    def part(self, files: Tree) -> Tree:
        """Return the entries of the output, without temporary files."""
        return {
            name: digest
            for name, digest in files.items()
            if (name == self.out or name.startswith(f"{self.out}/")) and not name.rpartition("/")[2].startswith(".")
        }


def tree(folder: Path) -> Tree:
    """Return what is in a folder."""
    return {
        str(path.relative_to(folder)): "folder" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
    }


def drawn(points: list[Point], most: int, rng: np.random.Generator) -> list[Point]:
    """Return at most so many of ``points``, in their order."""
    return [points[i] for i in sorted(rng.choice(len(points), min(most, len(points)), replace=False))]


def key(files: Tree) -> str:
    """Return a digest of a tree in which the random parts of temporary names do not count."""
    return hashlib.sha256(repr(sorted((_RANDOM.sub("", name), d) for name, d in files.items())).encode()).hexdigest()


def difference(one: Tree, two: Tree) -> str:
    """Return the names of what differs."""
    names = sorted(name for name in {*one, *two} if one.get(name) != two.get(name))
    return ", ".join(names[:6]) + (" ..." if len(names) > 6 else "")


def _verify(folder: Path) -> int:
    return verb(["info", "out", "--verify", "--quiet"], folder)


def _verify_or_begun(folder: Path) -> int:
    """Check a run that had no model before: a folder that was begun and has none yet is told by its sentence."""
    if not (folder / "out" / "model.safetensors").exists():
        return 0
    return _verify(folder)


def _read_study(folder: Path) -> int:
    from recvae.experiments.study import read_study

    read_study(folder / "out")
    return 0


def _read_results(folder: Path) -> int:
    """A benchmark under way has a plan and the models that are finished, and results.json with the last of them."""
    from recvae.experiments.benchmark_folder import read_plan
    from recvae.reports.results import read_results

    read_plan(folder / "out")
    if (folder / "out" / "results.json").exists() or not any((folder / "out" / "runs").glob("*.json")):
        read_results(folder / "out" / "results.json")
    return 0


@cache
def rehearsed(world: World, *, long: bool) -> list[tuple[Scenario, list[str]]]:
    """Return the verbs that write, each with what went wrong when it was not disturbed."""
    return [(scenario, scenario.rehearse(world)) for scenario in scenarios(long=long)]


def scenarios(*, long: bool) -> list[Scenario]:
    """Return the verbs that write; the short form has a part of them."""
    data, inputs = {"data": "data"}, {name: name for name in ("clicks.csv", "titles.csv", "people.csv")}
    prepare = [*PREPARE, "--out", "out"]
    listed = ["recommend", "run", "--histories", "histories.csv", "--quiet", "--device", "cpu"]
    ranked = {"run": "runs/ease", "histories.csv": "histories.csv"}
    joined = {**data, "one": "runs/mult-vae", "two": "runs/ease"}
    blend = ["blend", "one", "two", "data", "--out", "out", "--quiet", "--device", "cpu"]
    tune = ["tune", "data", "--model", "ease", "--trials", "2", "--out", "out", "--quiet", "--device", "cpu"]
    benchmark = ["benchmark", "data", "--models", "ease,popularity", "--out", "out", "--quiet", "--device", "cpu"]
    refit = ["train", "data", "--refit", "run", "--out", "out", "--quiet", "--device", "cpu"]
    promote = ["promote", "run", "out", "data", "--keep-previous", "previous", "--quiet", "--device", "cpu"]
    new = {**data, "run": "runs/blend"}
    page = ["diagnose", "run", "data", "--samples", "20", "--out", "page.html", "--quiet", "--device", "cpu"]

    def fresh(name: str, needs: dict[str, str], command: list[str], check: Check, *again: str) -> Scenario:
        return Scenario(name, needs, command, [*command, *(again or ("--overwrite",))], check=check)

    def over(name: str, needs: dict[str, str], command: list[str], old: str, check: Check) -> Scenario:
        command = [*command, "--overwrite"]
        return Scenario(f"{name} --overwrite", {**needs, "out": old}, command, command, check=check)

    def network(model: str, *more: str) -> Scenario:
        return fresh(f"train {model}", data, train(model, "out", *more), _verify_or_begun, "--resume")

    def file(name: str, *more: str, old: bool = False) -> Scenario:
        needs = {**ranked, **({name: "histories.csv"} if old else {})}
        command = [*listed, "--out", name, *(["--overwrite"] if old else []), *more]
        again = [*listed, "--out", name, "--overwrite"]
        return Scenario(f"recommend {name}{' --overwrite' if old else ''}", needs, command, again, out=name)

    short = [
        over("prepare", inputs, prepare, "given", _verify),
        over("train ease", data, train("ease", "out"), "runs/popularity", _verify),
        network("mult-dae"),
        over("train mult-dae", data, train("mult-dae", "out"), "runs/mult-vae", _verify),
        file("lists.csv", old=True),
        Scenario("promote", {**new, "out": "runs/popularity"}, promote, [*promote, "--margin", "1"]),
    ]
    if not long:
        return short
    longer = train("mult-dae", "out", "--resume", "--set", "train.epochs=3")
    return [
        *short,
        fresh("prepare", inputs, prepare, _verify),
        over("prepare --ratings", inputs, [*prepare, "--ratings"], "data", _verify),
        fresh("train ease", data, train("ease", "out"), _verify),
        over("train item-knn", data, train("item-knn", "out"), "runs/recvae", _verify),
        network("recvae", "--set", "train.epochs=3"),
        network("vamp-vae", "--set", "train.validate_every=2", "--set", "train.epochs=3"),
        over("train recvae", data, train("recvae", "out"), "runs/recvae", _verify),
        Scenario("train --resume", {**data, "out": "runs/mult-dae"}, longer, longer, check=_verify),
        fresh("train --refit", {**data, "run": "runs/mult-dae"}, refit, _verify_or_begun, "--resume"),
        over("train --refit", {**data, "run": "runs/ease"}, refit, "runs/ease", _verify),
        fresh("blend", joined, blend, _verify),
        over("blend", joined, blend, "runs/blend", _verify),
        file("lists.parquet"),
        file("lists.jsonl", old=True),
        Scenario("promote, the first", new, promote, promote),
        fresh("tune", data, tune, _read_study, "--resume"),
        over("tune", data, tune, "study", _read_study),
        fresh("benchmark", data, benchmark, _read_results),
        Scenario("diagnose", {**data, "run": "runs/mult-vae"}, page, [*page, "--overwrite"], out="page.html"),
    ]
