"""Every model tuned alike and measured on several splits, and twice the budget; or the family, part by part.

    python -m benchmarks.accuracy.study --ml-1m ml-1m.zip --ml-100k ml-100k.zip --out study    all models: hours
    python -m benchmarks.accuracy.study --ml-1m ml-1m.zip --family --out study                 the family: hours

rows.toml says what is compared. A call that was stopped has lost the trials and runs under way; the same command goes
on from there. Every process has one thread. The records are in OUT, unless --record replaces those of the pages.
"""

import os
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from datetime import date, datetime
from importlib import import_module
from pathlib import Path

from benchmarks import harness
from benchmarks.accuracy import peers
from benchmarks.accuracy.jobs import Place, jobs
from benchmarks.accuracy.queue import Outcome, Tell, run_jobs
from benchmarks.accuracy.rows import BASE, BLENDS, FAMILY, ROWS, SEEDS
from benchmarks.accuracy.summary import summary
from benchmarks.pages import fill_pages
from recvae.errors import RecvaeError
from recvae.experiments.study import to_toml
from recvae.files import write_json, write_text, writing
from recvae.registry import entry, models

Names = Sequence[str] | None  # of rows
DATASETS = {"ml-1m": 1.0, "ml-100k": 0.1}  # and how long their jobs take beside each other
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "IRSPACK_NUM_THREADS_DEFAULT")


def study(places: Sequence[Place], *, workers: int, double: bool, results: Path, names: Names = None) -> Outcome:
    """Do the jobs that are not done yet of the studies, or of the rows with ``names``, and write the records.

    The records are of all rows that are complete, and are written also where the study is interrupted. Raises
    :class:`WorkError` where another call is at work in the same folder.
    """
    log, outcome, began = places[0].out / "log.txt", Outcome(), datetime.now()

    def tell(line: str) -> None:
        text = f"{datetime.now() - began} {line}"
        print(text, flush=True)
        with log.open("a", encoding="utf-8") as file:
            print(text, file=file)

    with writing(log):
        try:
            todo = [job for place in places for job in jobs(place, double=double, names=names)]
            outcome = run_jobs(todo, workers=workers, tell=tell)
        finally:
            for place in places:
                _sum_up(place, results, tell)
    tell(f"{len(outcome.worked)} jobs done, {len(outcome.kept)} were done before, {len(outcome.failed)} failed")
    return outcome


def _sum_up(place: Place, results: Path, tell: Tell) -> None:
    """Write a study's record, where any row is complete."""
    if any(row.model == peers.IrspackIALS.name for row in place.rows):
        import_module("irspack")  # for the record to name its version
    try:
        found = summary(place, harness.machine(), harness.command())
    except RecvaeError as error:
        tell(f"{place.name}: {error}")
        return
    write_json(results / f"{place.name}.json", found)
    if found["missing"]:
        tell(f"{place.name}: not done yet: {', '.join(found['missing'])}")


def write_configs(place: Place, folder: Path = CONFIGS) -> list[str]:
    """Write each winner of a search as a configuration, whole, with the data it was found on; return the names."""
    manifest, names = place.data(place.seeds[0]).manifest, []
    source = manifest.get("source", {}).get("name")
    found_on = {**({"source": source} if source else {}), **manifest["before_split"]}
    for row in [row for row in place.rows if row.saved and not row.variants and row.model != "popularity"]:
        best = place.best(row, place.trials)
        names.append(f"{place.dataset}-{row.name}")
        about = (
            f"# {entry(row.model).title} on {place.dataset}: the best of {place.trials} trials on validation users of "
            f"the split of seed {place.seeds[0]}, ndcg@100 {best.value:.4f}.\n# Found by benchmarks/accuracy on "
            f"{date.today().isoformat()}; docs/results.md has its test figures.\n"
        )
        write_text(folder / f"{names[-1]}.toml", about + to_toml({"name": row.model, "for": found_on, **best.config}))
    return names


def main() -> int:
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name in DATASETS:
        parser.add_argument(f"--{name}", type=Path, help=f"the archive or folder of {name}")
    parser.add_argument("--family", action="store_true", help="the family on ml-1m, in place of all models")
    parser.add_argument(
        "--out", type=harness.elsewhere, required=True, help="folder for splits, searches, runs and records"
    )
    parser.add_argument("--trials", type=int, default=20, help="of every model's search (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--models", help="names of the rows to work at, separated by commas")
    parser.add_argument("--no-double", action="store_true", help="leave out the check with twice the budget")
    parser.add_argument("--record", action="store_true", help="replace benchmarks/results and fill the pages")
    parser.add_argument("--write-configs", action="store_true", help="write the winners into configs/")
    arguments = parser.parse_args()
    named = {name: path for name in DATASETS if (path := getattr(arguments, name.replace("-", "_"))) is not None}
    if not named or arguments.trials < 1 or arguments.workers < 1:
        parser.error("name a dataset's files; trials and workers are at least 1")
    if arguments.family and list(named) != ["ml-1m"]:
        parser.error("the family is of one dataset: name --ml-1m alone")
    peers.make_known()
    rows = [row for row in (FAMILY if arguments.family else ROWS) if row.model in models()]
    if not arguments.family and len(rows) < len(ROWS):
        print("iALS is left out, since its package is missing. Install it with: pip install irspack")
    kind, blends, seeds, base = ("family", (), SEEDS[:1], BASE) if arguments.family else ("study", BLENDS, SEEDS, None)
    places = []
    for name, path in named.items():
        source, at, scale = {"name_or_file": name, "source": str(path)}, arguments.trials, DATASETS[name]
        place = Place(arguments.out, f"{kind}-{name}", source, name, tuple(rows), blends, seeds, at, scale, base)
        places.append(place)
    there = [*(row.name for row in rows), *(blend.name for blend in blends)]
    names = None if arguments.models is None else arguments.models.split(",")
    if unknown := [name for name in names or () if name not in there]:
        parser.error(f"there is no row {', '.join(unknown)}; there are {', '.join(there)}")
    results, double = harness.RESULTS if arguments.record else arguments.out, not arguments.no_double
    os.environ |= dict.fromkeys(THREADS, "1")  # for the processes of the jobs
    try:
        outcome = study(places, workers=arguments.workers, double=double, results=results, names=names)
        for place in places if arguments.write_configs else ():
            print(f"configs: {', '.join(write_configs(place))}")
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here")
        return 130
    except RecvaeError as error:
        print(error, file=sys.stderr)
        return 1
    if arguments.record:
        print(f"pages that changed: {', '.join(fill_pages()) or 'none'}")
    return 1 if outcome.failed else 0


if __name__ == "__main__":
    sys.exit(main())
