"""The log: one JSON object a line on stdout, written by a thread of its own, so that a slow reader holds up nobody."""

import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TextIO

from pydantic_core import to_json

WHOLE = 4000  # characters, nearly all of one byte
EVERY = 0.1  # seconds between two writings
MOST_LINES = 50_000  # kept for a reader that does not read; then lines are lost, and counted


class Log:
    """A log of events, each a time, a word that says of what kind it is, and facts."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stdout if stream is None else stream
        self._lines: deque[tuple[float, str, dict[str, object]]] = deque()
        self._lost = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, event: str, **facts: object) -> None:
        """Note an event; it is written in a moment."""
        if len(self._lines) < MOST_LINES:
            self._lines.append((time.time(), event, facts))
        else:
            self._lost += 1

    def close(self, timeout: float = 2.0) -> None:
        """Write what is left; give up on a reader that does not read."""
        self._ended.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._ended.wait(EVERY):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        lines = []
        while self._lines:
            lines.append(_line(*self._lines.popleft()))
        if self._lost:
            lines.append(_line(time.time(), "lines lost", {"lines": self._lost}))
            self._lost = 0
        if lines:
            try:
                for piece in _pieces(lines):
                    self._stream.write(piece)
                    self._stream.flush()
            except (OSError, ValueError):  # a full disk or a closed stream must not end the service
                self._lost += len(lines)


def _pieces(lines: list[str]) -> Iterator[str]:
    """Yield lines joined to pieces that the system writes whole: several processes may share a pipe."""
    piece = ""
    for line in lines:
        if piece and len(piece) + len(line) > WHOLE:
            yield piece
            piece = ""
        piece += line
    yield piece


def _line(moment: float, event: str, facts: dict[str, object]) -> str:
    at = datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
    return to_json({"time": at, "event": event, **facts}, fallback=str, inf_nan_mode="null").decode() + "\n"
