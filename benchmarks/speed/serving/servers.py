"""Servers in processes of their own, a model's run folder for them, and requests with ML-20M's activity."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from benchmarks.speed.serving.generator import HOST, post
from data_prep import ml20m_shape

STARTS_IN = 120.0  # seconds
STOPS_IN = 30.0


def saved_model(folder: Path, name: str, items: int, hidden: Any, latent: int, seed: int = 1) -> None:
    """Write the run folder of a model of these widths that was trained on next to nothing: its weights are random."""
    import recvae

    model = getattr(recvae, name)(hidden=hidden, latent=latent, epochs=1, batch_size=16, device="cpu", seed=seed)
    model.fit(ml20m_shape(users=16, items=items, clicks=1000), titles=titles(items)).save(folder)


def titles(items: int) -> list[str]:
    """Return titles as long as films have."""
    return [f"The film that has number {item} ({1930 + item % 90})" for item in range(items)]


def histories(users: int, items: int) -> list[list[str]]:
    """Return item ids of users as active as those of ML-20M (ratings of at least 4): on average 73 items."""
    matrix = ml20m_shape(users=users, items=items, clicks=73 * users)
    return [[str(item) for item in matrix[[user]].indices] for user in range(users)]


def recommend(history: Sequence[str], k: int = 10) -> bytes:
    """Return a request for a list."""
    return post("/v1/recommend", json.dumps({"history": list(history), "k": k}).encode())


def asked(port: int, path: str, body: Any = None) -> Any:
    """Return the document that a server answers with; raise :class:`urllib.error.HTTPError` for a refusal."""
    data = None if body is None else json.dumps(body).encode()
    request = Request(f"http://{HOST}:{port}{path}", data, {"Content-Type": "application/json"})
    with urlopen(request, timeout=STARTS_IN) as answer:
        return json.loads(answer.read() or "null")


@contextmanager
def server(words: Sequence[str], log: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Start ``python WORDS``, in which PORT stands for a free port; yield port and process once it is ready.

    Its output goes to the file ``log``. Exits with a sentence where the server ends, or is not ready in time.
    """
    with socket.socket() as free:
        free.bind((HOST, 0))
        port: int = free.getsockname()[1]
    command = [sys.executable, *(str(port) if word == "PORT" else word for word in words)]
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, env=os.environ) as process:
        try:
            _wait_for(port, process, command, log)
            yield port, process
        finally:
            process.terminate()
            try:
                process.wait(STOPS_IN)
            except subprocess.TimeoutExpired:
                process.kill()


def serve(run: Path, *more: str) -> list[str]:
    """Return the words that serve a run folder."""
    return ["-m", "recvae", "serve", str(run), "--port", "PORT", *more]


def _wait_for(port: int, process: subprocess.Popen[bytes], command: Sequence[str], log: Path) -> None:
    end = time.monotonic() + STARTS_IN
    while process.poll() is None and time.monotonic() < end:
        try:
            asked(port, "/health/ready")
        except (OSError, ValueError):
            time.sleep(0.1)
        else:
            return
    said = log.read_text(encoding="utf-8", errors="replace")[-2000:]
    raise SystemExit(f"The server '{' '.join(command)}' is not ready:\n{said}")
