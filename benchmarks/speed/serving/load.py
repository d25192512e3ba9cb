"""recvae serve under load, beside servers on the same web stack, all on the cores that the client works on too."""

import json
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import recvae
from benchmarks.harness import ITEMS, amount
from benchmarks.speed.serving.generator import HOST, MOST_CONNECTIONS, Outcome, drive
from benchmarks.speed.serving.servers import asked, histories, recommend, saved_model, serve, server, titles
from benchmarks.speed.serving.verdicts import ALS, CONNECTIONS, RECVAE, SINGLY, STACK, Row, judge, sentence, table

SHARES = 0.25, 0.5, 0.75, 0.9, 1.1  # of the greatest rate
K = 10
ONE_A_BATCH = "--rows-at-once", "1"
WEB = "fastapi", "pydantic", "uvicorn", "httptools", "uvloop"
LUA = """
local requests, last = {}, 0
function init(arguments)
  wrk.headers["Content-Type"] = "application/json"
  for body in io.lines(os.getenv("BODIES")) do
    requests[#requests + 1] = wrk.format("POST", "/v1/recommend", nil, body)
  end
end
function request()
  last = last % #requests + 1
  return requests[last]
end
"""


def measure(arguments: Namespace) -> dict[str, Any]:
    """Return a row for each contender and load, the rates that wrk finds, and the verdicts."""
    small, rounds = arguments.small, arguments.rounds
    items, hidden, latent, users, seconds = (500, 60, 20, 50, 0.3) if small else (ITEMS, 600, 200, 300, 3.0)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        saved_model(folder / "run", "RecVAE", items, hidden, latent)
        asking = histories(users, items)
        ports = _started(stack, folder, asking, items, latent)
        model = recvae.load(folder / "run", device="cpu")
        model.hold()  # as the service does
        _same(ports[RECVAE], model, asking[:20])
        requests = [recommend(history, K) for history in asking]
        alone: list[float] = []
        closed: dict[tuple[str, int], list[Outcome]] = {(c, n): [] for n in CONNECTIONS for c in ports}
        wrk: dict[str, list[float]] = {c: [] for c in (RECVAE, STACK) if shutil.which("wrk")}
        for number in range(-1, rounds):
            p50 = _in_process(model, asking)
            for (contender, connections), outcomes in closed.items():
                found = drive(ports[contender], requests, connections, seconds if number >= 0 else 0.5)
                outcomes += [found] if number >= 0 else []
                if connections == CONNECTIONS[-1] and number >= 0 and contender in wrk:
                    wrk[contender].append(
                        _wrk(ports[contender], folder, seconds)
                    )  # in turn with ours, as a machine is not always as fast
            alone += [p50] if number >= 0 else []
        rows = [_row(c, f"{n} connection{'s' * (n > 1)}", found) for (c, n), found in closed.items()]
        best = {c: max(row["rate"] for row in rows if row["contender"] == c) for c in ports}
        connections = 16 if small else MOST_CONNECTIONS
        for share in SHARES:
            for contender, port in ports.items():
                rate = share * best[contender]
                found_open = [drive(port, requests, connections, seconds, rate) for _ in range(rounds)]
                rows.append(_row(contender, f"{share:.0%} of the greatest rate", found_open) | {"asked": rate})
    p50 = statistics.median(alone)
    verdicts = judge(rows, p50, wrk)
    lines = ["", *table(rows), "", f"In process: p50 {amount(p50, 's')}.", "", *map(sentence, verdicts)]
    if not wrk:
        lines.append("The client's rates are not compared with wrk's: wrk is not installed (apt-get install wrk).")
    print(*lines, sep="\n", flush=True)
    versions = {name: version(name) for name in WEB}
    return {"rows": rows, "in_process_p50": p50, "wrk": wrk, "verdicts": verdicts, "versions": versions}


def _row(contender: str, load: str, outcomes: Sequence[Outcome]) -> Row:
    """Return the medians over the rounds."""
    median = statistics.median
    return {
        "contender": contender, "load": load, "rate": median(o.rate for o in outcomes),
        "p50": median(o.quantile(0.5) for o in outcomes), "p99": median(o.quantile(0.99) for o in outcomes),
        "rates": [o.rate for o in outcomes], "failed": sum(o.failed for o in outcomes),
    }  # fmt: skip


def _in_process(model: Any, asking: Sequence[Sequence[str]]) -> float:
    """Return the median of the seconds from a history's ids to a list's."""
    seconds = []
    for history in asking:
        start = time.perf_counter()
        model.recommend_ids([history], K)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _same(port: int, model: Any, asking: Sequence[Sequence[str]]) -> None:
    """Exit where the server's lists are not the model's own."""
    ids, scores = model.recommend_ids(asking, K)
    for history, named, values in zip(asking, ids, scores, strict=True):
        items = asked(port, "/v1/recommend", {"history": history, "k": K})["items"]
        theirs = [item["score"] for item in items]
        if [item["item"] for item in items] != named or not np.allclose(theirs, values, rtol=1e-5, atol=1e-6):
            raise SystemExit("The server's lists are not those of the model.")


def _started(
    stack: ExitStack, folder: Path, asking: Sequence[Sequence[str]], items: int, factors: int
) -> dict[str, int]:
    """Start every contender's server; return their ports. The web stack answers with what recvae answered."""
    drawn = np.random.default_rng(0).normal(0.0, 0.1, (items, factors)).astype(np.float32)
    np.savez(folder / "items.npz", factors=drawn, titles=titles(items))
    bodies = [json.dumps({"history": history, "k": K}) for history in asking]
    (folder / "bodies").write_text("".join(f"{body}\n" for body in bodies))
    ports: dict[str, int] = {}
    peers = ["-m", "benchmarks.speed.serving.peers"]
    for contender, words in {
        RECVAE: serve(folder / "run"),
        SINGLY: serve(folder / "run", *ONE_A_BATCH),
        STACK: [*peers, "stack", str(folder), "PORT"],
        ALS: [*peers, "als", str(folder), "PORT"],
    }.items():
        if contender == STACK:
            answer = asked(ports[RECVAE], "/v1/recommend", {"history": asking[0], "k": K})
            (folder / "answer.json").write_text(json.dumps(answer, separators=(",", ":")))
        ports[contender], _ = stack.enter_context(server(words, folder / f"{len(ports)}.log"))
    return ports


def _wrk(port: int, folder: Path, seconds: float) -> float:
    """Return the rate that wrk finds with as many connections as our last closed loop."""
    (folder / "wrk.lua").write_text(LUA)
    how = ["-t1", f"-c{CONNECTIONS[-1]}", f"-d{max(1, round(seconds))}s", "-s", str(folder / "wrk.lua")]
    said = subprocess.run(
        ["wrk", *how, f"http://{HOST}:{port}"], env={**os.environ, "BODIES": str(folder / "bodies")},
        capture_output=True, text=True, check=True, timeout=120,
    ).stdout  # fmt: skip
    found = re.search(r"Requests/sec:\s+([\d.]+)", said)
    if found is None or "Non-2xx" in said:
        raise SystemExit(f"wrk did not get its answers:\n{said}")
    return float(found[1])
