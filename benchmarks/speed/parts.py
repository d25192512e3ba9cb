"""Clicks that do not fit into memory: Parquet parts with text ids to a dataset folder, with `--memory 2GB`.

Half of the ratings are 4 or more; users and items keep at least five clicks. The same on a tenth of the rows with
pandas and, where it is installed, with polars, up to one matrix in memory; and byte for byte against preparing in
memory.
"""

import tempfile
import threading
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.harness import Figure, alone, amount, measured

ROUNDS = 1
ROWS, EQUAL = 300_000_000, 20_000_000
PER_PART = 5_000_000
COLUMNS: dict[str, Any] = {"user_column": "user", "item_column": "item", "rating_column": "rating"}
FILTERS: dict[str, Any] = {"min_rating": 4, "min_items_per_user": 5, "min_users_per_item": 5}
MEMORY = "2GB"


def write_parts(folder: Path, rows: int) -> None:
    """Write Parquet parts of ``rows`` ratings in the order of a log: each row another user; one user for 60 rows."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    users, items = max(rows // 60, 50), max(min(rows // 600, 100_000), 30)
    popularity = np.cumsum(1 / np.arange(1, items + 1) ** 0.8)
    folder.mkdir()
    for number, start in enumerate(range(0, rows, PER_PART)):
        n = min(PER_PART, rows - start)
        draw = np.random.default_rng(number)
        user = (users * draw.random(n) ** 1.5).astype(np.int32)  # some users click more than others
        item = np.searchsorted(popularity, popularity[-1] * draw.random(n)).astype(np.int32)
        columns: dict[str, Any] = {}
        for name, codes in (("user", user), ("item", item)):
            distinct, places = np.unique(codes, return_inverse=True)
            texts = pa.array([f"{name}-{code:08}" for code in distinct.tolist()])
            columns[name] = pa.DictionaryArray.from_arrays(pa.array(places.astype(np.int32)), texts).cast(pa.string())
        columns["rating"] = pa.array(draw.choice([2.0, 3.0, 4.0, 5.0], n))
        pq.write_table(pa.table(columns), folder / f"part-{number:05}.parquet")


def prepare(parts: Path, out: Path) -> dict[str, float]:
    """Ours within the limit of memory; return the clicks that are left and the most GB on the disk meanwhile."""
    from data_prep import prepare_large

    with _disk(out.parent) as most:
        data = prepare_large(parts, out, memory=MEMORY, **COLUMNS, **FILTERS)
    return {"clicks": float(data.manifest["before_split"]["clicks"]), "disk_gb": most[0] / 1e9}


def prepare_in_memory(parts: Path, out: Path) -> None:
    from data_prep import prepare as prepared

    prepared(parts, **COLUMNS, **FILTERS).save(out)


def with_pandas(parts: Path) -> int:
    """The filters, and one matrix, in pandas; return its clicks."""
    import pandas as pd

    frame = pd.concat([pd.read_parquet(file) for file in sorted(parts.iterdir())], ignore_index=True)
    frame = frame[frame["rating"] >= FILTERS["min_rating"]].drop_duplicates(["user", "item"])
    for name, least in (("item", FILTERS["min_users_per_item"]), ("user", FILTERS["min_items_per_user"])):
        frame = frame[frame.groupby(name)[name].transform("size") >= least]
    return _matrix(pd.factorize(frame["user"])[0], pd.factorize(frame["item"])[0])


def with_polars(parts: Path) -> int:
    """The filters, and one matrix, in polars; return its clicks."""
    import polars as pl

    frame = pl.scan_parquet(parts / "*.parquet").filter(pl.col("rating") >= FILTERS["min_rating"])
    frame = frame.unique(["user", "item"], keep="first", maintain_order=True)
    for name, least in (("item", FILTERS["min_users_per_item"]), ("user", FILTERS["min_items_per_user"])):
        frame = frame.filter(pl.len().over(name) >= least)
    coded = frame.select(pl.col(name).rank("dense") - 1 for name in ("user", "item")).collect(engine="streaming")
    return _matrix(coded["user"].to_numpy(), coded["item"].to_numpy())


def _matrix(rows: Any, columns: Any) -> int:
    import numpy as np
    from scipy.sparse import csr_array

    return int(csr_array((np.ones(len(rows), np.float32), (rows, columns))).nnz)


@contextmanager
def _disk(folder: Path) -> Any:
    """Yield a list whose only value is the most bytes that there were below a folder, looked at twice a second."""
    most, done = [0], threading.Event()

    def look() -> None:
        while not done.wait(0.5):
            sizes = []
            for file in folder.rglob("*"):
                try:
                    sizes.append(file.stat().st_size)
                except FileNotFoundError:  # removed meanwhile
                    continue
            most[0] = max(most[0], sum(sizes))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield most
    finally:
        done.set()
        thread.join()


def differing(one: Path, other: Path) -> str:
    """Return the name of a file that differs between two folders; nothing where they are the same."""
    names = sorted({file.name for folder in (one, other) for file in folder.iterdir()})
    for name in names:
        files = [folder / name for folder in (one, other)]
        if not all(file.exists() for file in files) or files[0].read_bytes() != files[1].read_bytes():
            return name
    return ""


def measure(arguments: Namespace) -> dict[str, Any]:
    rows = arguments.rows or (300_000 if arguments.small else ROWS)
    equal, tenth = min(EQUAL, rows), rows // 10
    figures: list[Figure] = []
    details: dict[str, Any] = {"rows": rows, "memory": MEMORY}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)

        def made(what: str, n: int) -> Path:
            began = time.perf_counter()
            measured(write_parts, folder / what, n)
            size = sum(file.stat().st_size for file in (folder / what).iterdir())
            print(f"{n:,} rows made in {time.perf_counter() - began:.0f} s, {amount(size / 1e9, 'GB')}", flush=True)
            return folder / what

        def run(what: str, n: int, step: Callable[..., Any], *places: Path) -> Any:
            seconds, peak, result = measured(step, *places)
            print(f"{what}: {amount(seconds, 's')}, {amount(peak, 'GiB')}", flush=True)
            figures.append(alone(f"{n:,} rows, {what}: time", [seconds]))
            figures.append(alone(f"{n:,} rows, {what}: rate", [n / seconds / 1e6], "million rows/s"))
            figures.append(alone(f"{n:,} rows, {what}: peak memory", [peak], "GiB"))
            details[f"{what}, {n}"] = {"seconds": seconds, "peak_gib": peak, "result": result}
            return result

        parts = made("equal", equal)
        run("--memory 2GB", equal, prepare, parts, _place(folder, "large"))
        run("in memory", equal, prepare_in_memory, parts, folder / "in-memory")
        if where := differing(folder / "large" / "set", folder / "in-memory"):
            raise SystemExit(f"The two ways differ in {where}.")
        details["equal byte for byte"] = equal
        for peer, step in (("pandas", with_pandas), ("polars", with_polars)):
            if find_spec(peer) is not None:
                run(peer, tenth, step, parts if tenth == equal else made(f"tenth-{peer}", tenth))
        if rows > equal:
            result = run("--memory 2GB", rows, prepare, made("all", rows), _place(folder, "all-large"))
            figures.append(alone(f"{rows:,} rows, --memory 2GB: most on the disk", [result["disk_gb"]], "GB"))
    return {"figures": figures, "details": details}


def _place(folder: Path, name: str) -> Path:
    """Return the place of a dataset in a folder of its own, whose size on the disk can be looked at."""
    (folder / name).mkdir()
    return folder / name / "set"
