"""recvae serve at half its greatest rate for ten minutes, while its model is replaced and some requests are bad.

Two models take each other's place in the served folder; every fourth new folder is damaged, each in another way, and
one request in a hundred is bad. Every list is compared with the two models' own for its history.
"""

import json
import shutil
import tempfile
import time
from argparse import Namespace
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import recvae
from benchmarks.harness import ITEMS, alone
from benchmarks.speed.serving.generator import PATIENCE, drive, post
from benchmarks.speed.serving.load import K
from benchmarks.speed.serving.servers import asked, histories, recommend, saved_model, serve, server
from benchmarks.speed.serving.verdicts import sentence, verdict
from recvae.files.swap import put

SECONDS, SWAPS = 600.0, 20
NOTICED_IN = 10.0  # seconds after which a new model must serve
DAMAGE: tuple[Callable[[Path], object], ...] = (  # to a run folder
    lambda run: _alter(run / "model.safetensors", lambda data: data[: len(data) // 2]),
    lambda run: _alter(run / "model.safetensors", lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]),
    lambda run: (run / "items.csv").unlink(),
    lambda run: _alter(run / "items.csv", lambda data: data.partition(b"\n")[0] + b"\n"),
    lambda run: _alter(run / "run.json", lambda data: data.replace(b'"format": 1', b'"format": 9')),
)
BAD = (  # with the status of the answer
    (422, post("/v1/recommend", b'{"history": ["1"], "k": 0}')),
    (422, post("/v1/recommend", b'{"history": ["1"], "kay": 3}')),
    (422, post("/v1/recommend", b'{"history": 7}')),
    (400, post("/v1/recommend", b'{"history": [')),
    (400, post("/v1/recommend", bytes(range(128, 256)))),
    (404, post("/v1/recommendations", b"{}")),
    (404, post("/v1/similar", b'{"item": "none of them"}')),
    (405, post("/v1/model", b"{}")),
    (413, post("/v1/recommend", b"").replace(b": 0\r\n", b": 999999999\r\n")),
    (415, post("/v1/recommend", b"history=1").replace(b"application/json", b"text/plain")),
)
GOOD = 99  # requests for each bad one

List = tuple[str, ...]


class Heard:
    """What the answers were: each version's lists by history, and the statuses that were not expected."""

    def __init__(self, expected: Sequence[tuple[int, int]]) -> None:
        self.expected = expected  # status, and place of the history
        self.lists: dict[str, dict[int, set[List]]] = defaultdict(lambda: defaultdict(set))
        self.wrong: Counter[str] = Counter()

    def __call__(self, place: int, status: int, body: bytes) -> None:
        wanted, history = self.expected[place]
        if status == wanted == 200:
            answer = json.loads(body)
            self.lists[answer["model"]["version"]][history].add(tuple(item["item"] for item in answer["items"]))
        elif status not in (wanted, 503):
            self.wrong[f"{status} in place of {wanted}"] += 1

    def mixed(self, models: Sequence[Sequence[List]]) -> int:
        """Return for how many versions and histories there is a list that is not of the version's one model."""
        return sum(
            min(sum(found != {lists[history]} for history, found in of_version.items()) for lists in models)
            for of_version in self.lists.values()
        )


def measure(arguments: Namespace) -> dict[str, Any]:
    small = arguments.small
    items, hidden, latent = (500, 60, 20) if small else (ITEMS, 600, 200)
    seconds, swaps = (20.0, 8) if small else (SECONDS * arguments.minutes / 10, SWAPS)
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(1) as beside:
        folder = Path(name)
        runs = [folder / "a", folder / "b"]
        for seed, run in enumerate(runs):
            saved_model(run, "RecVAE", items, hidden, latent, seed)
        served = folder / "run"
        shutil.copytree(runs[0], served)
        asking, lists = _clear_cut([recvae.load(run, device="cpu") for run in runs], histories(400, items))
        good = [(200, n % len(asking), recommend(asking[n % len(asking)], K)) for n in range(GOOD * len(BAD))]
        for number, (status, request) in enumerate(BAD):
            good.insert(number * (GOOD + 1), (status, 0, request))
        requests = [request for _, _, request in good]
        heard = Heard([(status, place) for status, place, _ in good])
        with server(serve(served), folder / "log") as (port, process):
            rate = drive(port, [recommend(history, K) for history in asking], 64, min(5.0, seconds / 10)).rate / 2
            swapped = beside.submit(replace, port, process.pid, served, runs, seconds, swaps)
            outcome = drive(port, requests, 64, seconds, rate, heard)
            noticed, missed, memory = swapped.result()
            refused = outcome.statuses[503]
        ended = process.returncode
    rest = np.array(memory[max(1, round(len(memory) * min(60.0, seconds / 4) / seconds)) :])
    verdicts = [
        verdict("answers with a status that was not expected", sum(heard.wrong.values()), at_most=0),
        verdict("requests without an answer", outcome.statuses[0], at_most=0),
        verdict("lists of another model than their version's", heard.mixed(lists), at_most=0),
        verdict("versions in the answers", len(heard.lists), at_most=2, at_least=2),
        verdict("new models not served in time, or damaged ones served", missed, at_most=0),
        verdict(
            "resident memory after the first minute, range in %", 100 * float(np.ptp(rest) / rest.min()), at_most=3
        ),
        verdict("exit status of the server after SIGTERM", ended, at_most=0, at_least=0),
    ]
    print(*map(sentence, verdicts), *(f"{n} answers: {what}" for what, n in heard.wrong.items()), sep="\n", flush=True)
    return {  # a request that was never answered has a verdict, and as a time the wait for it: JSON has no infinity
        "figures": [
            alone("requests", [outcome.statuses.total()], ""), alone("rate", [rate], "/s"),
            *(alone(f"p{share}", [min(outcome.quantile(share / 100), PATIENCE)]) for share in (50, 99)),
            alone("refused with 503", [refused], ""), alone("from a new folder to its first answer", noticed),
            alone("resident memory", rest.tolist(), "MB"),
        ],
        "verdicts": verdicts, "seconds": seconds, "swaps": swaps, "memory_mb": memory,
    }  # fmt: skip


def replace(
    port: int, process: int, served: Path, runs: Sequence[Path], seconds: float, swaps: int
) -> tuple[list[float], int, list[float]]:
    """Replace the served folder at even intervals by the other run, every fourth time by a damaged one.

    Returns the seconds after which new models served, how many times the wrong model served, and resident MB at rest.
    """
    start, pause = time.monotonic(), seconds / (swaps + 1)
    noticed, missed, memory, serving = [], 0, [], 0
    for number in range(swaps):
        time.sleep(max(0.0, start + (number + 1) * pause - time.monotonic()))
        memory.append(resident_mb(process))
        damaged, before = number % 4 == 3, _version(port)
        new = served.with_name(f"new-{number}")
        shutil.copytree(runs[1 - serving], new)
        if damaged:
            DAMAGE[number // 4 % len(DAMAGE)](new)
        put(new, served)
        begun, patience = time.monotonic(), min(NOTICED_IN, 0.8 * pause)
        while (same := _version(port) == before) and time.monotonic() < begun + patience:
            time.sleep(0.05)
        missed += same != damaged
        if not damaged:
            noticed.append(time.monotonic() - begun)
            serving = 1 - serving
    time.sleep(max(0.0, start + 0.98 * seconds - time.monotonic()))
    return noticed, missed, [*memory, resident_mb(process)]


def resident_mb(process: int) -> float:
    """Return the resident memory of a process and its children, in 10^6 bytes."""
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    children = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="ascii").split()
    kib = int(status.partition("VmRSS:")[2].split()[0])
    return kib * 1024 / 1e6 + sum(resident_mb(int(child)) for child in children)


def _version(port: int) -> str:
    return str(asked(port, "/v1/model")["version"])


def _clear_cut(models: Sequence[Any], asking: Sequence[Sequence[str]]) -> tuple[list[Sequence[str]], list[list[List]]]:
    """Return the histories whose lists rounding cannot change and whose models disagree, and each model's lists."""
    answers = [model.recommend_ids(asking, K + 1) for model in models]
    clear = [
        min(float(-np.diff(scores[n]).max()) for _, scores in answers) > 1e-4 and answers[0][0][n] != answers[1][0][n]
        for n in range(len(asking))
    ]
    kept = [n for n, good in enumerate(clear) if good]
    return [asking[n] for n in kept], [[tuple(ids[n][:K]) for n in kept] for ids, _ in answers]


def _alter(file: Path, change: Callable[[bytes], bytes]) -> None:
    file.write_bytes(change(file.read_bytes()))
