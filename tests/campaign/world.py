"""What is attacked: small data in every form that is read, datasets, runs of every model, a blend, a study.

Everything is made by the verbs themselves in forked processes, so that this process stays as it was: all imported, no
thread started.
"""

import gzip
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, tzinfo
from pathlib import Path

import numpy as np

from .processes import MEMORY, SECONDS, Forked, Outcome, Watch, forked

TINY = ["train.epochs=2", "train.batch_size=32"]
SMALL = ["model.latent=3", *TINY]
SETTINGS = {
    "recvae": ["model.hidden=6", "model.layers=2", *SMALL],
    "recvae-edlae": ["model.hidden=6", "model.layers=2", *SMALL],
    "mult-vae": ["model.hidden=[5]", *SMALL],
    "conditional-vae": ["model.hidden=[5]", "model.min_items=2", 'model.user_attributes=["gender"]', *SMALL],
    "vamp-vae": ["model.hidden=5", 'model.anneal="constant"', "model.pseudo_inputs=4", *SMALL],
    "vaeac": ["model.hidden=5", *SMALL],
    "mult-dae": SMALL,
    "ease": [],
    "edlae": [],
    "implicit-als": ["model.factors=4", "model.iterations=2"],
    "item-knn": ["model.neighbours=5"],
    "popularity": [],
}
USERS, ITEMS = 60, 18


def warm_up() -> None:
    """Import everything that a verb may import later, keep the clocks of reports even, and set one thread."""
    import implicit.als  # noqa: F401
    import optuna  # noqa: F401
    import pandas  # noqa: F401
    import pyarrow.csv
    import pyarrow.pandas_compat
    import pyarrow.parquet
    import rich.console
    import rich.progress
    import rich.table  # noqa: F401
    import scipy.sparse.linalg  # noqa: F401
    import torch._dynamo  # an optimiser imports it

    import data_prep
    import eval
    import recvae
    from recvae import cli
    from recvae.experiments import benchmark, diagnose, measure, promote, refit, study, tune
    from recvae.models import blend
    from recvae.registry import MODELS
    from recvae.reports import diagnosis_page, tables
    from recvae.training import run_folder

    del pyarrow, benchmark, blend, cli, diagnosis_page, diagnose, measure, promote, refit, tables, study, tune
    del run_folder
    for package in (data_prep, eval, recvae):
        for name in package.__all__:
            getattr(package, name)
    from recvae.config import resolve

    for name in MODELS:
        resolve(name, None, SETTINGS[name])  # makes the options' schemas too
    torch.set_num_threads(1)
    sys.modules["matplotlib"] = None  # figures take a second each and are tested elsewhere
    _even_clocks()


class _Even:
    """The module time, with a stopwatch that goes on by one step at every look: a run's files then are equal."""

    def __init__(self) -> None:
        self.looks = 0

    def __getattr__(self, name: str) -> object:
        return getattr(time, name)

    def perf_counter(self) -> float:
        """Return the number of looks so far in a unit whose sums have no rounding."""
        self.looks += 1
        return self.looks / 1024


class _StillDay:
    """Dates in reports: always the same one."""

    @staticmethod
    def today() -> date:
        return date(2020, 1, 1)

    @staticmethod
    def now(zone: tzinfo) -> datetime:
        return datetime(2020, 1, 1, tzinfo=zone)


def _even_clocks() -> None:
    import multiprocessing

    from recvae.experiments import benchmark, study
    from recvae.reports import machine

    assert all((hasattr(study, "date"), hasattr(machine, "datetime"), hasattr(benchmark, "peak_memory_mb")))
    study.date = machine.datetime = _StillDay
    benchmark.peak_memory_mb = lambda: 0.0
    # A benchmark's processes are made by fork here, since a spawned one would import everything again.
    fork = multiprocessing.get_context("fork")
    multiprocessing.get_context = lambda *_: fork
    even = _Even()
    for name, module in list(sys.modules.items()):
        if name.startswith(("recvae.", "eval.")) and getattr(module, "time", None) is time:
            module.time = even


def verb(arguments: Sequence[str | Path], folder: Path) -> int:
    """Run one verb in this process, in ``folder``, and return its exit status."""
    from recvae.cli import main

    os.chdir(folder)
    return main([str(argument) for argument in arguments])


def run(
    arguments: Sequence[str | Path], folder: Path, *, seconds: int = SECONDS, watch: Watch | None = None
) -> Outcome:
    """Run one verb in a forked process, in ``folder``."""
    return forked(lambda: verb(arguments, folder), seconds=seconds, watch=watch)


def started(arguments: Sequence[str | Path], folder: Path, gate: int) -> Forked:
    """Fork a process that runs one verb in ``folder`` once something is written to ``gate``."""
    return Forked(lambda: verb(arguments, folder), seconds=2 * SECONDS, gate=gate)


PREPARE = ["prepare", "clicks.csv", "--user-column", "user", "--item-column", "item", "--rating-column", "stars"]
PREPARE += ["--min-rating", "3", "--titles", "titles.csv", "--user-tags", "people.csv", "--min-items-per-user", "3"]
PREPARE += ["--held-out-users", "10", "--quiet"]
GIVEN = ["prepare", "--train", "train.txt", "--test", "test.txt", "--quiet"]


def train(model: str, out: str, *more: str, data: str = "data") -> list[str]:
    """Return the command that trains a small ``model``."""
    settings = [part for setting in SETTINGS[model] for part in ("--set", setting)]
    return ["train", data, "--model", model, "--out", out, "--quiet", "--device", "cpu", *settings, *more]


@dataclass(frozen=True)
class World:
    """A folder that holds everything once; attacks work on copies of its parts."""

    folder: Path
    scratch: Path

    @contextmanager
    def copy(self, *names: str) -> Iterator[Path]:
        """Yield a new folder with copies of some of the world's files and folders."""
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        try:
            for name in names:
                self.put(name, folder / name)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def put(self, name: str, place: Path) -> None:
        """Copy one of the world's files or folders to ``place``."""
        place.parent.mkdir(parents=True, exist_ok=True)
        source = self.folder / name
        if source.is_dir():
            shutil.copytree(source, place)
        else:
            shutil.copyfile(source, place)

    def make(self, *commands: Sequence[str]) -> None:
        """Run verbs here that must succeed."""
        for command in commands:
            outcome = run(command, self.folder, seconds=10 * SECONDS)
            if outcome.status:
                raise RuntimeError(f"recvae {' '.join(command)} ended with {outcome.status}: {outcome.err}")


@contextmanager
def new_world(seed: int, *, scratch: Path | None = None) -> Iterator[World]:
    """Make everything in a temporary folder, which is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="recvae-campaign-", dir=scratch) as name:
        world = World(Path(name).resolve() / "world", Path(name).resolve() / "attacks")
        world.folder.mkdir()
        world.scratch.mkdir()
        _write_inputs(world.folder, np.random.default_rng(seed))
        world.make(
            [*PREPARE, "--out", "data"],
            [*PREPARE, "--ratings", "--out", "rated"],
            [*GIVEN, "--out", "given"],
            *(train(model, f"runs/{model}") for model in SETTINGS),
            train(
                "vaeac",
                "runs/rated-vaeac",
                "--set",
                "model.ratings=true",
                "--set",
                "model.liked_from=3.0",
                data="rated",
            ),
            ["train", "data", "--refit", "runs/mult-dae", "--out", "runs/refitted", "--quiet", "--device", "cpu"],
            ["blend", "runs/mult-vae", "runs/ease", "data", "--out", "runs/blend", "--quiet", "--device", "cpu"],
            ["tune", "data", "--model", "ease", "--trials", "2", "--out", "study", "--quiet", "--device", "cpu"],
        )
        yield world


def _write_inputs(folder: Path, rng: np.random.Generator) -> None:
    """Write clicks, titles, users' attributes, histories, lines and a configuration, in the forms that are read."""
    import pyarrow.csv
    import pyarrow.parquet

    liked = np.argsort(rng.gumbel(size=(USERS, ITEMS)) + np.linspace(1.5, 0, ITEMS), axis=1)[:, ::-1]
    counts = rng.integers(6, 13, size=USERS)
    rows = [
        (f"u{user}", str(100 + item), int(rng.integers(1, 6)))
        for user in range(USERS)
        for item in liked[user, : counts[user]]
    ]
    clicks = "user,item,stars\n" + "".join(f"{user},{item},{stars}\n" for user, item, stars in rows)
    (folder / "clicks.csv").write_text(clicks)
    (folder / "clicks.csv.gz").write_bytes(gzip.compress(clicks.encode(), mtime=0))

    def to_parquet() -> int:  # in a process of its own: Arrow starts threads
        pyarrow.parquet.write_table(pyarrow.csv.read_csv(folder / "clicks.csv"), folder / "clicks.parquet")
        return 0

    assert forked(to_parquet).status == 0
    tags = ("Drama", "Comedy", "Crime")
    titles = "".join(f'{100 + i},"Film, the {i}th ({1990 + i})",{tags[i % 3]}|{tags[i // 6]}\n' for i in range(ITEMS))
    (folder / "titles.csv").write_text("id,title,genres\n" + titles)
    (folder / "titles.csv.gz").write_bytes(gzip.compress(("id,title,genres\n" + titles).encode(), mtime=0))
    people = "".join(f"u{user},{'FM'[user % 2]},{20 + user % 7}\n" for user in range(USERS))
    (folder / "people.csv").write_text("user,gender,age\n" + people)
    (folder / "histories.csv").write_text(
        "user,item\n" + "".join(f"{user},{item}\n" for user, item, _ in rows[:90]) + "new,100\nnew,unknown\n"
    )
    by_user: dict[str, list[str]] = {}
    for user, item, _ in rows:
        by_user.setdefault(user, []).append(item)
    for name, part in (("train.txt", slice(None, -2)), ("test.txt", slice(-2, None))):
        (folder / name).write_text("".join(f"{user} {' '.join(items[part])}\n" for user, items in by_user.items()))
    options = "epochs = 2\nbatch_size = 32"
    (folder / "config.toml").write_text(
        f"# small\nname = 'mult-dae'\nseed = 3\n[model]\nlatent = 3\n[train]\n{options}\n"
    )


__all__ = ["GIVEN", "MEMORY", "PREPARE", "SETTINGS", "World", "new_world", "run", "started", "train", "verb", "warm_up"]
