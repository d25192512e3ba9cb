"""From a click on the page to the new list on the screen: Chromium at `recvae serve`, RecVAE of ML-20M's shape.

Two times for each click: until the list's elements are those of the answer, and until the frame that shows them is
painted. Each list has ten items with a reason for each, for a history that grows from nothing to twenty items.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import recvae
from benchmarks.harness import ITEMS, Figure, alone
from data_prep import ml20m_shape

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROUNDS = 6  # histories
LONGEST = 20  # clicks that build a history
ARGUMENTS = (
    "--no-sandbox", "--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip

# The first change below #rows after a click is the new list: nothing there changes before the answer has come.
CLOCK = """
window.times = [];
addEventListener("click", (event) => {
  if (!event.target.closest("#rows")) return;
  const watch = new MutationObserver(() => {
    watch.disconnect();
    const listed = performance.now() - event.timeStamp;
    const after = new MessageChannel();
    after.port1.onmessage = () => window.times.push([listed, performance.now() - event.timeStamp]);
    requestAnimationFrame(() => after.port2.postMessage(0));
  });
  watch.observe(document.querySelector("#rows"), { childList: true, subtree: true, characterData: true });
}, true);
"""


def measure(arguments: Namespace) -> dict[str, Any]:
    items, hidden, latent, rounds, longest = (
        (2000, 60, 20, 1, 4) if arguments.small else (ITEMS, 600, 200, arguments.rounds, LONGEST)
    )
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "films"
        model = recvae.RecVAE(hidden=hidden, latent=latent, epochs=1, batch_size=16, device="cpu")
        model.fit(
            ml20m_shape(users=16, items=items, clicks=1000),
            item_ids=[str(item) for item in range(items)],
            titles=[f"Film number {item} (2000)" for item in range(items)],
        ).save(run)
        with served(run) as url:
            times = np.array(clicks(url, rounds, longest)) / 1e3  # (clicks, 2) seconds
    figures: list[Figure] = []
    for name, column in (("list there", 0), ("list painted", 1)):
        for share in (50, 95):
            value = float(np.percentile(times[:, column], share))
            figures.append(alone(f"click to {name}, p{share} of {len(times)} clicks", [value]))
    return {"figures": figures, "seconds": {"listed": times[:, 0].tolist(), "painted": times[:, 1].tolist()}}


def clicks(url: str, rounds: int, longest: int) -> list[list[float]]:
    """Click items of the list one after the other, so that histories grow; return each click's two times in ms."""
    draw = np.random.default_rng(1)
    times: list[list[float]] = []
    with chromium() as browser:
        for number in range(rounds + 1):
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(url)
            page.wait_for_selector("#rows .row")
            page.evaluate(CLOCK)
            for length in range(1, longest + 1):
                kind = "without" if length % 5 == 0 else "add"
                page.locator(f"#rows [data-act={kind}]").nth(int(draw.integers(10))).click()
                while len(page.evaluate("window.times")) < length:
                    page.wait_for_timeout(10)
                page.wait_for_timeout(250)  # until the rows have glided to their places, as for a person
            if number > 0:  # the first history warms the browser and the service
                times += page.evaluate("window.times")
            page.close()
    return times


@contextmanager
def chromium() -> Iterator["Browser"]:
    """Yield Debian's Chromium, or the browser that the variable CHROMIUM names."""
    from playwright.sync_api import sync_playwright

    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        yield browser
        browser.close()


@contextmanager
def served(run: Path) -> Iterator[str]:
    """Serve a run in a process of its own while the body runs; yield its address."""
    command = [sys.executable, "-m", "recvae", "serve", str(run), "--port", "0", "--no-access-log", "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield next(event["url"] for event in map(json.loads, process.stdout) if event["event"] == "ready")
        finally:
            process.terminate()
