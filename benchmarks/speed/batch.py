"""Lists for a million users, from Parquet to Parquet: peak memory, the rate beside ranking in memory, and ten kills.

RecVAE at ML-20M's shape; histories are long rows with ML-20M's activity. The memory is that of a fresh process, above
what it has once the model is loaded and has answered. A round of the rate ranks the users of one part in memory, from a
matrix that is there already, and then makes the same lists from file to file.
"""

import hashlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from benchmarks.harness import ITEMS, Figure, against, alone, interleaved, measured
from benchmarks.speed.serving.servers import saved_model
from benchmarks.speed.serving.verdicts import sentence, verdict

ROUNDS = 5
K, CLICKS_EACH, KILLS = 100, 73, 10
PART = 50_000  # users
KILLED_PART = 4_000  # users of the parts of the run that is killed
MOST_MB, LEAST_SHARE = 600.0, 0.85


def write_part(file: Path, number: int, users: int, items: int) -> None:
    """Write the histories of some users as long rows; users and items are whole numbers, as in MovieLens."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from data_prep import ml20m_shape

    matrix = ml20m_shape(seed=number, users=users, items=items, clicks=CLICKS_EACH * users)
    of_row = np.repeat(np.arange(users, dtype=np.int64) + number * users, np.diff(matrix.indptr))
    pq.write_table(pa.table({"user": of_row, "item": matrix.indices.astype(np.int64)}), file)


def write_parts(folder: Path, parts: int, users: int, items: int) -> Path:
    """Write parts with so many users each."""
    folder.mkdir()
    for number in range(parts):
        write_part(folder / f"part-{number:03}.parquet", number, users, items)
    return folder


def in_a_folder(run: Path, source: Path, out: Path) -> tuple[float, float]:
    """Write the lists of all users; return the seconds, and the peak of the memory in MB above the loaded model's."""
    import pyarrow.csv
    import pyarrow.parquet  # noqa: F401 - imported before memory is measured, so that the library's own does not count

    import recvae

    model = recvae.load(run, "cpu")
    model.recommend_ids([["1", "2"]], K)
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    start = time.perf_counter()
    recvae.write_lists(model, source, out, K)
    return time.perf_counter() - start, _memory("VmHWM") - before


def _memory(name: str) -> float:
    """Return a line of this process's status in 10^6 bytes."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition(f"{name}:")[2].split()[0]) * 1024 / 1e6


def rates(run: Path, folder: Path, users: int, items: int, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of the same lists from file to file and in memory, in turn."""
    import recvae
    from data_prep import ml20m_shape

    model = recvae.load(run, "cpu")
    matrix = ml20m_shape(seed=0, users=users, items=items, clicks=CLICKS_EACH * users)
    file, out = folder / "one.parquet", folder / "one-lists"
    write_part(file, 0, users, items)
    return interleaved(
        {
            "ours": lambda: recvae.write_lists(model, file, out, K, overwrite=True),
            IN_MEMORY: lambda: model.answer(recvae.Query(matrix, K)),
        },
        rounds,
    )


IN_MEMORY = "ranking in memory"


def killed(run: Path, source: Path, folder: Path, kills: int) -> tuple[int, int]:
    """Kill the command so many times at random moments, go on each time; return the kills and the files that differ."""
    words = [sys.executable, "-m", "recvae", "recommend", str(run), "--histories", str(source), "-k", str(K), "--quiet"]
    whole, out = folder / "whole", folder / "killed"
    start = time.monotonic()
    subprocess.run([*words, "--threads", "1", "--out", str(whole)], check=True)
    seconds = time.monotonic() - start
    draw, done, differ = random.Random(1), 0, 0
    while done < kills:
        begun = subprocess.Popen([*words, "--threads", "1", "--out", str(out), "--resume"])
        try:
            begun.wait(draw.uniform(0.2, 0.6) * seconds)
        except subprocess.TimeoutExpired:
            begun.kill()
            done += begun.wait() == -signal.SIGKILL
            continue
        differ += _compare(whole, out)  # it was quicker; begin anew
        for path in out.iterdir():
            path.unlink()
        out.rmdir()
    subprocess.run([*words, "--threads", "1", "--out", str(out), "--resume"], check=True)
    return done, differ + _compare(whole, out)


def _compare(one: Path, other: Path) -> int:
    """Return the number of files that only one of two folders has, or that differ."""
    folders = [{path.name: hashlib.sha256(path.read_bytes()).digest() for path in of.iterdir()} for of in (one, other)]
    return sum(folders[0].get(name) != folders[1].get(name) for name in {**folders[0], **folders[1]})


def measure(arguments: Namespace) -> dict[str, Any]:
    small = arguments.small
    items, hidden, latent = (500, 60, 20) if small else (ITEMS, 600, 200)
    part, sizes = (500, (2, 4)) if small else (PART, (4, 20))
    figures: list[Figure] = []
    verdicts, memory = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        saved_model(folder / "run", "RecVAE", items, hidden, latent)
        for parts in sizes:
            source, users = folder / f"histories-{parts}", f"{parts * part:,} users"
            write_parts(source, parts, part, items)
            _, _, (seconds, above) = measured(in_a_folder, folder / "run", source, folder / f"lists-{parts}")
            memory.append(above)
            figures += [alone(f"{users}, peak memory above the model's", [above], "MB"), alone(users, [seconds])]
            figures.append(alone(f"{users}, rate", [parts * part / seconds], "users/s"))
            verdicts.append(verdict(f"{users}: peak memory above the model's in MB", above, at_most=MOST_MB))
            print(f"{users}: {above:.0f} MB, {seconds:.1f} s", flush=True)
        verdicts.append(verdict("peak memory, more users by fewer users", memory[1] / memory[0], at_most=1.1))
        _, _, seconds = measured(rates, folder / "run", folder, part, items, arguments.rounds)
        rate = against(f"lists of {part:,} users, Parquet to Parquet", seconds, IN_MEMORY, floor=True)
        verdicts.append(verdict("share of the rate in memory", 1 / rate["ratio"], at_least=LEAST_SHARE))
        killed_part, count = (200, 1) if small else (KILLED_PART, KILLS)
        write_parts(folder / "to-kill", 10, killed_part, items)
        kills, differ = killed(folder / "run", folder / "to-kill", folder, count)
        verdicts.append(verdict(f"files that differ after {kills} kills and --resume", differ, at_most=0))
    print(*map(sentence, verdicts), sep="\n", flush=True)
    return {"figures": [*figures, rate], "verdicts": verdicts, "seconds": seconds, "kills": kills}
