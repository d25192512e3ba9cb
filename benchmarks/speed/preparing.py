"""Preparing: 20 million ratings in a CSV to matrices, ours against the papers' pandas pipeline, with equal results."""

import statistics
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

from benchmarks.harness import CLICKS, ITEMS, USERS, Seconds, against, alone, amount, measured

SEED, MIN_RATING, MIN_ITEMS = 98765, 4, 5
PEER_ROUNDS = 3  # of the slow peer
PAPERS, PARSING = "the papers' pandas pipeline", "pyarrow parsing the CSV"


def write_ratings(folder: Path, users: int, items: int, ratings: int) -> None:
    """Write ``ratings.csv`` with the columns userId, movieId, rating; half of the ratings are 4 or more."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.csv

    from data_prep import ml20m_shape

    pairs = ml20m_shape(users=users, items=items, clicks=ratings)
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(users), np.diff(pairs.indptr)) + 1
    high = rng.random(pairs.nnz) < 0.5
    rating = np.where(high, rng.choice([4.0, 4.5, 5.0], pairs.nnz), rng.choice([0.5, 2.0, 3.0, 3.5], pairs.nnz))
    pa.csv.write_csv(pa.table({"userId": user, "movieId": pairs.indices + 1, "rating": rating}), folder / "ratings.csv")


def prepare(ratings: Path, dataset: Path, held_out_users: int) -> None:
    """Ours: from the CSV to a dataset folder, as the command line does it."""
    from data_prep import prepare as prepared

    columns: Any = {"user_column": "userId", "item_column": "movieId", "rating_column": "rating"}
    prepared(ratings, **columns, min_rating=MIN_RATING, held_out_users=held_out_users).save(dataset)


def prepare_papers(ratings: Path, folder: Path, held_out_users: int) -> None:
    """The papers' pipeline, written from its description, to CSV files and back."""
    import numpy as np
    import pandas as pd

    folder.mkdir()
    frame = pd.read_csv(ratings)
    frame = frame[frame["rating"] >= MIN_RATING]
    counts = frame.groupby("userId").size()
    frame = frame[frame["userId"].isin(counts.index[counts >= MIN_ITEMS])]
    users = counts.index[counts >= MIN_ITEMS].to_numpy()
    np.random.seed(SEED)
    users = users[np.random.permutation(users.size)]
    cuts = (users.size - 2 * held_out_users, users.size - held_out_users)
    train_users, validation_users, test_users = np.split(users, cuts)

    train = frame[frame["userId"].isin(train_users)]
    items = pd.unique(train["movieId"])
    user_number, item_number = ({id_: number for number, id_ in enumerate(ids)} for ids in (users, items))
    for name, ids in (("users", users), ("items", items)):
        np.savetxt(folder / f"{name}.txt", ids, fmt="%d")

    def write(name: str, part: Any) -> None:
        uid = part["userId"].apply(lambda user: user_number[user])
        sid = part["movieId"].apply(lambda item: item_number[item])
        pd.DataFrame({"uid": uid, "sid": sid}).to_csv(folder / f"{name}.csv", index=False)

    write("train", train)
    for name, members in (("validation", validation_users), ("test", test_users)):
        part = frame[frame["userId"].isin(members)]
        fold_in, held_out = hold_out(part[part["movieId"].isin(items)])
        write(f"{name}_in", fold_in)
        write(f"{name}_out", held_out)
    read_papers(folder, held_out_users)


def hold_out(part: Any) -> tuple[Any, Any]:
    """Divide the rows of each user in turn."""
    import numpy as np
    import pandas as pd

    np.random.seed(SEED)
    fold_in, held_out = [], []
    for _, rows in part.groupby("userId"):
        chosen = np.zeros(len(rows), dtype=bool)
        if len(rows) >= MIN_ITEMS:
            chosen[np.random.choice(len(rows), size=int(0.2 * len(rows)), replace=False)] = True
            held_out.append(rows[chosen])
        fold_in.append(rows[~chosen])
    return pd.concat(fold_in), pd.concat(held_out)


def read_papers(folder: Path, held_out_users: int) -> dict[str, Any]:
    """Read the CSV files into CSR matrices; rows are in the order of ``users.txt``."""
    import numpy as np
    import pandas as pd
    from scipy.sparse import csr_array

    users, items = ((folder / name).read_text().split() for name in ("users.txt", "items.txt"))
    n_train = len(users) - 2 * held_out_users
    parts = {"train": (0, n_train), "validation": (n_train, held_out_users)}
    parts["test"] = (n_train + held_out_users, held_out_users)
    read: dict[str, Any] = {"items": items, "users": {}}
    for part, (first, n) in parts.items():
        read["users"][part] = users[first : first + n]
        for name in ("train",) if part == "train" else (f"{part}_in", f"{part}_out"):
            frame = pd.read_csv(folder / f"{name}.csv")
            places = (frame["uid"].to_numpy() - first, frame["sid"].to_numpy())
            read[name] = csr_array((np.ones(len(frame), np.float32), places), shape=(n, len(items)))
    return read


def difference(ours: Path, papers: Path, held_out_users: int) -> str:
    """Say where the two differ; nothing where they are the same."""
    import numpy as np

    from data_prep import Dataset

    data, read = Dataset.load(ours), read_papers(papers, held_out_users)
    if list(data.item_ids) != read["items"]:
        return "the catalogue"
    for part, ids in read["users"].items():
        order = np.argsort(np.array(ids, dtype=np.int64))  # ours are ascending, the papers' in the order drawn
        if list(data.user_ids(part)) != [ids[place] for place in order]:
            return f"the users of {part}"
        for name in ("train",) if part == "train" else (f"{part}_in", f"{part}_out"):
            mine, theirs = data.matrix(name), read[name][order]
            if mine.shape != theirs.shape or (mine != theirs).nnz:
                return name
    return ""


def parse(ratings: Path, *_: Any) -> None:
    """The floor: the file's columns as numbers, by a fast and threaded parser, and nothing made of them."""
    import pyarrow.csv

    pyarrow.csv.read_csv(ratings)


def measure(arguments: Namespace) -> dict[str, Any]:
    users, items, ratings = (2000, 500, 80_000) if arguments.small else (USERS, ITEMS, 2 * CLICKS)
    held_out_users = 200 if arguments.small else 10_000
    steps = {"ours": prepare, PAPERS: prepare_papers, PARSING: parse}
    seconds: Seconds = {name: [] for name in steps}
    peaks: Seconds = {name: [] for name in steps}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        file = folder / "ratings.csv"
        measured(write_ratings, folder, users, items, ratings)

        def run(name: str, out: Path) -> None:
            took, peak, _ = measured(steps[name], file, out, held_out_users)
            print(f"{name:28} {amount(took, 's'):>8}  {amount(peak, 'GiB')}", flush=True)
            seconds[name].append(took)
            peaks[name].append(peak)

        run("ours", folder / "ours")
        run(PAPERS, folder / "papers")
        if where := measured(difference, folder / "ours", folder / "papers", held_out_users)[2]:
            raise SystemExit(f"The two pipelines differ in {where}.")
        for values in (*seconds.values(), *peaks.values()):
            values.clear()  # that was the warm-up
        for number in range(arguments.rounds):
            run("ours", folder / f"ours-{number}")
            if number < PEER_ROUNDS:
                run(PAPERS, folder / f"papers-{number}")
            run(PARSING, folder)
    what = f"{ratings:,} ratings to a dataset"
    memory = alone("peak memory", peaks["ours"], "GiB") | {"peer": PAPERS, "theirs": statistics.median(peaks[PAPERS])}
    figures = [against(what, seconds, PAPERS), against(what, seconds, PARSING, floor=True), memory]
    return {"figures": figures, "seconds": seconds, "peak_gib": peaks}
