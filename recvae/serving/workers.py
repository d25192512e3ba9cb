"""Several processes that serve from one socket, and the process that starts, watches and ends them.

The system deals out connections among the processes. Each has the models in its own memory, notices new runs on its
own, and counts into files that every one of them adds up for ``/metrics``. A process that dies is replaced.
"""

import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType

from recvae.errors import InputError, RecvaeError, WorkError
from recvae.serving import metrics
from recvae.serving.logs import Log
from recvae.serving.settings import Settings

_ENDING = 5.0  # seconds beyond those for requests under way
_SPAWN = multiprocessing.get_context("spawn")  # torch does not survive a fork

Facts = Sequence[tuple[str, str, int, str]]  # name, title, items and version of each model


class Workers:
    """The processes that serve from ``listener``, each computing with the threads of the settings."""

    def __init__(self, settings: Settings, listener: socket.socket, log: Log) -> None:
        self._settings, self._listener, self._log = settings, listener, log
        self._processes: dict[SpawnProcess, Connection] = {}
        self._asked_by: int | None = None

    def run(self, on_ready: Callable[[Facts], None]) -> int:
        """Serve until a signal comes, and return the exit status; ``on_ready`` is called when all processes serve.

        Raises the error of a process that cannot load a run.
        """
        before = {number: signal.signal(number, self._end) for number in (signal.SIGTERM, signal.SIGINT)}
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._hang_up)
        try:
            with metrics.shared_by_workers():
                try:
                    self._serve(on_ready)
                finally:
                    self._stop()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        self._log.write("end", signal=self._asked_by)
        self._log.close()
        return 130 if self._asked_by == signal.SIGINT else 0

    def _serve(self, on_ready: Callable[[Facts], None]) -> None:
        for _ in range(self._settings.workers):
            self._start()
        facts: Facts = ()
        for process, connection in self._processes.items():
            while not connection.poll(0.1) and process.is_alive() and not self._ending():
                pass
            if self._ending():
                return
            facts = _facts(connection)
        on_ready(facts)
        while not self._ending():
            wait([process.sentinel for process in self._processes], timeout=0.5)
            for process in [process for process in self._processes if not process.is_alive()]:
                if self._ending():
                    return
                self._log.write("worker died", process=process.pid, status=process.exitcode)
                self._forget(process)
                time.sleep(1.0)  # a run that cannot be loaded now must not keep all cores busy
                self._start()

    def _ending(self) -> bool:
        return self._asked_by is not None

    def _start(self) -> None:
        here, there = _SPAWN.Pipe()
        process = _SPAWN.Process(target=_work, args=(self._settings, self._listener, there), name="recvae-worker")
        process.start()
        there.close()
        self._processes[process] = here

    def _forget(self, process: SpawnProcess) -> None:
        self._processes.pop(process).close()
        if process.pid is not None:
            metrics.forget_worker(process.pid)

    def _stop(self) -> None:
        """Ask the processes to end, and end those that do not in time."""
        for process in self._processes:
            process.terminate()
        until = time.monotonic() + self._settings.drain_within + _ENDING
        for process in list(self._processes):
            process.join(max(0.0, until - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
            self._forget(process)

    def _end(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._asked_by is not None:
            for process in self._processes:
                process.kill()
            os._exit(128 + number)
        self._asked_by = number

    def _hang_up(self, number: int, frame: FrameType | None) -> None:
        del frame
        for process in self._processes:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, number)


def _facts(connection: Connection) -> Facts:
    """Return what a process says when it serves; raise its error where it cannot."""
    try:
        said = connection.recv()
    except EOFError:
        raise WorkError("A worker process ended before it served. Its own message is above.") from None
    if isinstance(said, RecvaeError):
        raise said
    facts: Facts = said
    return facts


def _work(settings: Settings, listener: socket.socket, parent: Connection) -> None:
    """Serve, in a process of its own, until the process that started this one asks or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group, and the first process sees to it
    from recvae.serving.server import serve
    from recvae.training.export_folder import is_export
    from recvae.training.threads import limited

    def gone() -> None:
        try:
            parent.recv()
        except (EOFError, OSError):
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=gone, name="parent", daemon=True).start()
    torch = not all(is_export(folder) for folder in settings.runs.values())
    with limited(settings.threads, torch=torch):
        try:
            serve(settings, listener, Log(), lambda service: parent.send(service.facts()))
        except RecvaeError as error:
            parent.send(type(error)(str(error)) if isinstance(error, InputError | WorkError) else WorkError(str(error)))
