"""An export served by onnxruntime beside the run folder that it was made from, served by torch: the same requests."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import ITEMS, alone
from benchmarks.speed.serving.generator import Outcome, drive
from benchmarks.speed.serving.servers import asked, histories, recommend, saved_model, serve, server
from benchmarks.speed.serving.verdicts import CONNECTIONS, Row, Verdict, sentence, table, verdict

ROUNDS = 5
TORCH, EXPORT = "the run, by torch", "the export, by onnxruntime"
READY_WITHIN = 2.0  # seconds
MEMORY = 1.6, 120e6  # times the weights, and bytes beside
K = 10


def measure(arguments: Namespace) -> dict[str, Any]:
    """Return a row for each server and number of connections, how each started, and the verdicts."""
    small = arguments.small
    items, hidden, latent, users, seconds = (500, 60, 20, 50, 0.3) if small else (ITEMS, 600, 200, 300, 3.0)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        saved_model(folder / "run", "RecVAE", items, hidden, latent)
        export = [sys.executable, "-m", "recvae", "export", str(folder / "run"), "--out", str(folder / "export"), "-q"]
        subprocess.run(export, check=True, timeout=600)
        weights = sum(file.stat().st_size for file in (folder / "export").glob("model.*"))
        asking = histories(users, items)
        requests = [recommend(history, K) for history in asking]
        ports: dict[str, int] = {}
        starts: dict[str, dict[str, float]] = {}
        processes: dict[str, int] = {}
        for contender, place in {TORCH: folder / "run", EXPORT: folder / "export"}.items():
            began = time.perf_counter()
            ports[contender], process = stack.enter_context(server(serve(place), folder / f"{place.name}.log"))
            starts[contender] = {"ready": time.perf_counter() - began}
            processes[contender] = process.pid
        _same(ports, asking[:50])
        outcomes: dict[tuple[str, int], list[Outcome]] = {(c, n): [] for n in CONNECTIONS for c in ports}
        for number in range(-1, arguments.rounds):
            for (contender, connections), found in outcomes.items():
                outcome = drive(ports[contender], requests, connections, seconds if number >= 0 else 0.5)
                found += [outcome] if number >= 0 else []
        for contender, number in processes.items():
            starts[contender]["resident"] = _resident(number)
    rows = [_row(contender, n, found) for (contender, n), found in outcomes.items()]
    verdicts = _judge(rows, starts[EXPORT], weights)
    print("", *table(rows), "", *map(sentence, verdicts), sep="\n", flush=True)
    figures = [alone("weights of the export", [weights / 1e6], "MB")]
    for contender, start in starts.items():
        figures.append(alone(f"{contender}: from the start to ready", [start["ready"]]))
        figures.append(alone(f"{contender}: resident memory after the load", [start["resident"] / 1e6], "MB"))
    return {"figures": figures, "rows": rows, "verdicts": verdicts}


def _same(ports: dict[str, int], asking: Sequence[Sequence[str]]) -> None:
    """Exit where the two servers' lists differ in more than the rounding of scores."""
    for history in asking:
        lists = [asked(port, "/v1/recommend", {"history": history, "k": K})["items"] for port in ports.values()]
        ours, theirs = ([item["score"] for item in items] for items in lists)
        if not np.allclose(ours, theirs, rtol=1e-5, atol=1e-5):
            raise SystemExit("The export's lists are not those of the run.")


def _row(contender: str, connections: int, outcomes: Sequence[Outcome]) -> Row:
    """Return the medians over the rounds."""
    return {
        "contender": contender,
        "load": f"{connections} connection{'s' * (connections > 1)}",
        "rate": statistics.median(o.rate for o in outcomes),
        "p50": statistics.median(o.quantile(0.5) for o in outcomes),
        "p99": statistics.median(o.quantile(0.99) for o in outcomes),
        "rates": [o.rate for o in outcomes],
        "failed": sum(o.failed for o in outcomes),
    }


def _judge(rows: Sequence[Row], start: dict[str, float], weights: int) -> list[Verdict]:
    """Return what must hold: no load at which torch's server is better, and a small and quick start."""
    of = {(row["contender"], row["load"]): row for row in rows}
    found = []
    for load in dict.fromkeys(row["load"] for row in rows):
        ours, theirs = of[EXPORT, load], of[TORCH, load]
        found.append(verdict(f"{load}: times the rate of torch", ours["rate"] / theirs["rate"], at_least=1))
        found.append(verdict(f"{load}: share of torch's p50", ours["p50"] / theirs["p50"], at_most=1))
    times, beside = MEMORY
    return [
        *found,
        verdict("seconds until the export is ready", start["ready"], at_most=READY_WITHIN),
        verdict("resident memory in MB", start["resident"] / 1e6, at_most=(times * weights + beside) / 1e6),
        verdict("requests that failed", sum(row["failed"] for row in rows), at_most=0),
    ]


def _resident(process: int) -> int:
    """Return the bytes of memory that a process has."""
    pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
