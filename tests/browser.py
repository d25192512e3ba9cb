"""A real browser at a real service: Debian's Chromium, driven by Playwright, and `recvae serve` in a process."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue

import pytest

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox", "--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip
PATIENCE = 60  # seconds until a service must listen


@contextmanager
def chromium():
    """Yield the browser; skip the test where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not Path(CHROMIUM).exists():
        pytest.skip("there is no Chromium: apt-get install chromium, or name it in CHROMIUM")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@dataclass(frozen=True)
class Running:
    """A process of `recvae serve`, and its address without a slash at the end."""

    process: subprocess.Popen
    url: str


@contextmanager
def serving(*runs, options=(), command=("serve",)):
    """Serve runs in a process of their own at a free port until the body ends."""
    program = [sys.executable, "-m", "recvae", *command, *map(str, runs), "--port", "0", *map(str, options)]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines, said = Queue(), []
    for stream in (process.stdout, process.stderr):
        threading.Thread(target=_read, args=(stream, lines, said), daemon=True).start()
    try:
        yield Running(process, _address(process, lines, said).rstrip("/"))
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        process.stderr.close()


def _read(stream, lines, said):
    """Pass on what a process says, so that it never waits for a reader."""
    try:
        for line in stream:
            said.append(line)
            lines.put(line)
    except ValueError:  # closed at the end
        pass


def _address(process, lines, said):
    """Return the address that a service says it listens at."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            line = lines.get(timeout=0.2)
        except Empty:
            if process.poll() is not None:
                break
            continue
        if line.startswith("{") and (event := json.loads(line)).get("event") == "ready":
            return event["url"]
    raise AssertionError(f"The service does not listen:\n{''.join(said)}")
