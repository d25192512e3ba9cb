"""The standard streams of a command's process, which may be closed or full, and the signals that end it."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import TextIOWrapper
from types import FrameType
from typing import Any, TextIO


@dataclass
class Ending:
    """The signal that asked the command to end, if any, and whether the command is ending by itself."""

    signal: int | None = None
    anyway: bool = False  # a signal that comes later must not interrupt the tidying up


@contextmanager
def ended_by_signals() -> Iterator[Ending]:
    """Let SIGTERM and SIGHUP end the body as Ctrl-C does, with a KeyboardInterrupt, once; yield the signal that came.

    A handler that is there already, or a signal that is ignored (nohup), stays as it is.
    """
    ending = Ending()
    before: dict[int, Any] = {}

    def end(number: int, frame: FrameType | None) -> None:
        if ending.anyway:
            return
        ending.signal = number
        signal.signal(number, signal.SIG_IGN)  # the same signal must not interrupt the tidying up
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, end)
    try:
        yield ending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def prepare_streams() -> None:
    """Make stdout and stderr replace characters they lack, and open the null device for a closed stream.

    Otherwise the next opened file would get the stream's number, and output of C libraries would go into that file.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is the closed stream's
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def leave_streams() -> None:
    """Discard text that stdout could not print, or Python would print an error at exit."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        drop_stdout()


def drop_stdout() -> None:
    """Send stdout nowhere."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - it is open until the end


class Forgiving:
    """The present stdout or stderr, whose failures are ignored: text that cannot be printed is lost.

    For progress and advice: a full disk, a closed terminal or a pipe without a reader must not end a training.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def _stream(self) -> TextIO:
        stream = getattr(sys, self._name)
        behind: TextIO = getattr(stream, "rich_proxied_file", stream)  # where a progress bar stands in its place
        return behind

    def write(self, text: str) -> int:
        """Print ``text`` if that is possible."""
        # A failed write, a closed stream, and None for a stream closed from the start.
        with suppress(OSError, ValueError, AttributeError):
            self._stream().write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream if that is possible."""
        with suppress(OSError, ValueError, AttributeError):
            self._stream().flush()

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        with suppress(OSError, ValueError, AttributeError):
            return bool(self._stream().isatty())
        return False

    def __getattr__(self, name: str) -> Any:
        if name == "rich_proxied_file":  # or rich would go around this object
            raise AttributeError(name)
        return getattr(self._stream(), name)
