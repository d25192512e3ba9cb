"""The accuracy study: every model tuned alike, measured on several splits, and what twice the budget would change.

    python benchmarks/study.py --ml-1m ml-1m.zip --ml-100k ml-100k.zip --out study    all of it: hours
    python benchmarks/study.py --page                      docs/results.md and its pictures, from the records there are
    python benchmarks/study.py ... --write-configs         and the winners as configs/ml-1m-MODEL.toml

The tables in study_rows.py say what is compared. A call that was stopped, by Ctrl-C or otherwise, has lost the trials
and runs under way; the same command goes on from there. Every process has one thread.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import peers
from harness import RESULTS, machine
from study_jobs import Place, Source, dataset, jobs, winner, work
from study_page import write_page
from study_queue import Outcome, Tell, run_jobs
from study_rows import BLENDS, OTHERWISE, ROWS, SEEDS, Row
from study_summary import known, summary

from recvae.config import run_config
from recvae.errors import InputError, RecvaeError
from recvae.files import write_json, write_text
from recvae.studies import read_study, to_toml

DATASETS = {"ml-1m": 1.0, "ml-100k": 0.1}  # and how long their jobs take beside each other
CONFIGS = Path(__file__).resolve().parent.parent / "configs"
PATHS = ("--ml-1m", "--ml-100k", "--out", "--results")  # recorded by their last part only


def study(
    places: Sequence[Place],
    *,
    workers: int,
    double: bool,
    results: Path,
    command: str,
    log: Path,
    names: Sequence[str] | None = None,
) -> Outcome:
    """Do what is not done yet of the study, or of the rows with ``names``, and write the records.

    The records are of all rows that are complete, and are written also where the study is interrupted.
    """
    tell = _teller(log)
    outcome = Outcome()
    todo = [job for place in places for job in jobs(place, double=double, names=names)]
    with _alone(log):
        try:
            outcome = run_jobs(todo, work, workers=workers, tell=tell)
        finally:
            for place in places:
                _sum_up(place, results, command, tell)
    tell(f"{len(outcome.worked)} jobs done, {len(outcome.kept)} were done before, {len(outcome.failed)} failed")
    return outcome


def _sum_up(place: Place, results: Path, command: str, tell: Tell) -> None:
    """Write a dataset's record, where any row is complete."""
    if any(row.model in peers.PEERS for row in place.rows):
        peers.load()
    try:
        told = summary(place, machine(), command)
    except InputError as error:
        tell(f"{place.name}: {error}")
        return
    write_json(results / f"study-{place.name}.json", told)
    if told["missing"]:
        tell(f"{place.name}: not done yet: {', '.join(told['missing'])}")


def write_configs(place: Place, folder: Path = CONFIGS) -> list[str]:
    """Write each winner as a configuration of its own; return the names."""
    names = []
    for row in place.rows:
        if row.saved and row.model != "popularity":
            found = read_study(place.search(row.name))
            best = winner(found, place.trials)
            defaults = run_config({"name": row.model}).to_dict()
            names.append(f"{place.name}-{row.name}")
            about = [
                f"{row.title or row.model} on {place.name}: the best of {place.trials} trials on validation users of "
                f"the split of seed {place.seeds[0]}, ndcg@100 {best.value:.4f}.",
                f"Found by benchmarks/study.py on {date.today().isoformat()}; docs/results.md has its test figures.",
            ]
            kept = _less(best.config, defaults)
            kept = {"name": kept.pop("name"), "for": _found_on(place), **kept}
            text = "".join(f"# {line}\n" for line in about) + to_toml(kept)
            write_text(folder / f"{names[-1]}.toml", text)
    return names


def _found_on(place: Place) -> dict[str, Any]:
    """Return what a configuration says of the data it was found on."""
    manifest = dataset(place.split(place.seeds[0])).manifest
    source = manifest.get("source", {}).get("name")
    return {**({"source": source} if source else {}), **manifest["before_split"]}


def _less(config: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration without what is as in the defaults, its name apart."""
    kept: dict[str, Any] = {"name": config["name"]}
    for key, value in config.items():
        usual = defaults.get(key)
        if isinstance(value, dict):
            plain = {name: list(v) if isinstance(v, tuple) else v for name, v in (usual or {}).items()}
            kept[key] = {name: v for name, v in value.items() if name not in plain or plain[name] != v}
        elif value != usual:
            kept[key] = value
    return kept


@contextmanager
def _alone(log: Path) -> Iterator[None]:
    """Hold a lock on the study's log, where the system has such: two calls would write the same files.

    Raises :class:`InputError` where another call holds it. The lock ends with the process, however that ends.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with log.open("a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"Another call is at work in {log.parent}. Wait for its end, or stop it.") from error
        yield


def _teller(log: Path) -> Tell:
    """Return a function that prints a line with the time since now, and adds it to the log."""
    began = time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)

    def tell(line: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - began), 60)
        text = f"{minutes // 60}:{minutes % 60:02}:{seconds:02} {line}"
        print(text, flush=True)
        with log.open("a", encoding="utf-8") as file:
            file.write(text + "\n")

    return tell


def _command(words: Sequence[str]) -> str:
    """Return the command without the folders that its files are in."""
    shown, before = [], ""
    for word in words:
        option, equals, value = word.partition("=")
        if option in PATHS and equals:
            word = f"{option}={Path(value).name}"
        shown.append(Path(word).name if before in PATHS else word)
        before = word
    return shlex.join(["python", "benchmarks/study.py", *shown])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name in DATASETS:
        parser.add_argument(f"--{name}", type=Path, help=f"the archive or folder of {name}")
    parser.add_argument("--out", type=Path, help="folder for splits, searches and runs")
    parser.add_argument("--trials", type=int, default=20, help="of every model's search (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--only", choices=list(DATASETS), help="one of the datasets")
    parser.add_argument("--models", help="names of the rows to work at, separated by commas")
    parser.add_argument("--no-double", action="store_true", help="leave out the check with twice the budget")
    parser.add_argument("--epochs", type=int, help="of all networks, instead of the table's: tries the program")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the records")
    parser.add_argument("--page", action="store_true", help="run nothing; write docs/results.md from the records")
    parser.add_argument("--write-configs", action="store_true", help="write the winners into configs/")
    arguments = parser.parse_args()
    if arguments.page:
        print(f"results.md: {', '.join(write_page(arguments.results)) or 'no records'}")
        return 0
    given = {name: getattr(arguments, name.replace("-", "_")) for name in DATASETS}
    named = [name for name in DATASETS if given[name] is not None and arguments.only in (None, name)]
    if arguments.out is None or not named or arguments.trials < 1 or arguments.workers < 1:
        parser.error("name a dataset's files and --out; trials and workers are at least 1")
    ours = arguments.results.resolve() == RESULTS
    if arguments.epochs is not None and (ours or arguments.write_configs):
        parser.error(
            "--epochs only tries the program: give its records another folder with --results, and write no configs"
        )
    peers.register()
    rows = tuple(row for row in _with_epochs(arguments.epochs) if known(row))
    there = [row.name for row in (*rows, *BLENDS)]
    names = None if arguments.models is None else arguments.models.split(",")
    if unknown := [name for name in names or () if name not in there]:
        parser.error(f"there is no row {', '.join(unknown)}; there are {', '.join(there)}")
    if left_out := [row.name for row in ROWS if not known(row)]:
        print(
            f"left out, since the packages are missing: {', '.join(left_out)}. Install them with: pip install irspack"
        )
    places = [
        Place(
            arguments.out,
            Source(name, {"name_or_file": name, "source": str(given[name])}, DATASETS[name]),
            rows,
            BLENDS,
            SEEDS,
            arguments.trials,
        )
        for name in named
    ]
    try:
        outcome = study(
            places,
            workers=arguments.workers,
            double=not arguments.no_double,
            results=arguments.results,
            command=_command(sys.argv[1:]),
            log=arguments.out / "log.txt",
            names=names,
        )
        if arguments.write_configs:
            for place in places:
                print(f"configs: {', '.join(write_configs(place))}")
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here")
        return 130
    except RecvaeError as error:
        print(error)
        return 1
    whole = len(places) == len(DATASETS) and arguments.models is None and not arguments.no_double and ours
    if whole and not outcome.failed:
        write_page(arguments.results)
    else:
        print("docs/results.md stays as it is; write it with: python benchmarks/study.py --page")
    return 1 if outcome.failed else 0


def _with_epochs(epochs: int | None) -> tuple[Row, ...]:
    """Return the rows, with another number of epochs where one is given."""
    if epochs is None:
        return ROWS
    key = "train.epochs="
    made = []
    for row in ROWS:
        if row.settings:
            kept = [setting for setting in row.fixed(OTHERWISE) if not setting.startswith(key)]
            row = replace(row, settings={OTHERWISE: (f"{key}{epochs}", *kept)})
        made.append(row)
    return tuple(made)


if __name__ == "__main__":
    sys.exit(main())
