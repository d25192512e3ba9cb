"""The process a command runs in: its standard streams, which may be closed or full, and the signals that end it."""

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
    """The number of the signal that asked the command to end, None where none did, and whether it is ending anyway."""

    signal: int | None = None
    anyway: bool = False  # then a signal is late, and must not interrupt the tidying up


@contextmanager
def ended_by_signals() -> Iterator[Ending]:
    """Let SIGTERM and SIGHUP end the body as Ctrl-C does, with a KeyboardInterrupt, once; yield which of them came.

    A handler that is there already, or a signal that is ignored (nohup), stays as it is.
    """
    ending = Ending()
    before: dict[int, Any] = {}

    def end(number: int, frame: FrameType | None) -> None:
        if ending.anyway:
            return
        ending.signal = number
        signal.signal(number, signal.SIG_IGN)  # tidying up is not to be interrupted by the same wish
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
    """Make stdout and stderr show a mark for a character they lack, and open the null device where one is closed.

    Else the next file that is opened would get its number, and what is printed below Python would go into that file.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def leave_streams() -> None:
    """Give up what stdout could not print, or Python would complain of it at its end: it was no result."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        drop_stdout()


def drop_stdout() -> None:
    """Send stdout nowhere."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - it is open until the end


class Forgiving:
    """stdout or stderr, whichever stream that is at the moment, without its failures: what cannot be printed is lost.

    For progress and advice: a full disk, a closed terminal or a reader that has left must not end a training.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def _stream(self) -> TextIO:
        stream = getattr(sys, self._name)
        behind: TextIO = getattr(stream, "rich_proxied_file", stream)  # where a progress bar stands in its place
        return behind

    def write(self, text: str) -> int:
        """Print ``text`` if that is possible."""
        with suppress(
            OSError, ValueError, AttributeError
        ):  # refused, closed by Python, and None: closed from the start
            self._stream().write(text)
        return len(text)

    def flush(self) -> None:
        """Print what is waiting if that is possible."""
        with suppress(OSError, ValueError, AttributeError):
            self._stream().flush()

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        with suppress(OSError, ValueError, AttributeError):
            return bool(self._stream().isatty())
        return False

    def __getattr__(self, name: str) -> Any:
        if name == "rich_proxied_file":  # this object is to be kept between rich and the stream
            raise AttributeError(name)
        return getattr(self._stream(), name)
