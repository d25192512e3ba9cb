"""The process that serves: its socket, its signals, its event loop and its threads; and several of such processes."""

import asyncio
import ctypes
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from recvae.errors import InputError
from recvae.serving.batching import Ranker
from recvae.serving.http import Front, Service
from recvae.serving.logs import Log
from recvae.serving.protocol import Protocol
from recvae.serving.reload import POLL_EVERY
from recvae.serving.routes import application
from recvae.serving.settings import Settings

TURN = 5e-4  # seconds of Python after which one of the two threads that answer lets the other go on
OF_ITS_OWN = 8 << 20  # bytes of a tensor that gets memory of its own: weights, and not the scores of a batch
KEPT = 16 << 20  # bytes of free memory that stay with the process, for the scores of the next batch
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # the names of the bounds in glibc's malloc.h
HANG_UP = getattr(signal, "SIGHUP", None)  # Windows has none


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; raise :class:`InputError` where the address cannot be had."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        try:
            if os.name == "posix":  # a port whose last connections are still closing; elsewhere it means another thing
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(2048)
        except BaseException:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"The service cannot listen at {host}, port {port}: {reason}. Choose another --port or --host."
        ) from error
    listener.set_inheritable(True)
    return listener


def url(listener: socket.socket) -> str:
    """Return the address at which a browser finds the service."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


class Process(uvicorn.Server):
    """One process that serves from a socket until it is asked to end; then it finishes what is under way."""

    def __init__(self, service: Service, on_ready: Callable[[], None]) -> None:
        settings = service.settings
        self.service, self._on_ready = service, on_ready
        self.asked_by: int | None = None  # the signal that asked the process to end
        self._woken, self._again = threading.Event(), False
        Protocol.head_within = settings.head_within
        super().__init__(
            uvicorn.Config(
                Front(service, application(service)),
                http=Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=settings.keep_alive,  # type: ignore[arg-type]  # seconds of any kind
                timeout_graceful_shutdown=settings.drain_within,  # type: ignore[arg-type]  # uvicorn types whole seconds; fractions work
                backlog=2048,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the ranking thread and the watch, and take connections."""
        service, settings = self.service, self.service.settings
        loop = asyncio.get_running_loop()
        service.ranker = Ranker(loop, service, most_waiting=settings.max_queue, rows_at_once=settings.rows_at_once)
        self._watch = threading.Thread(target=self._watch_runs, name="watch", daemon=True)
        self._watch.start()
        await super().startup(sockets)
        service.ready = True
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what is under way."""
        self.service.ready = False
        await super().shutdown(sockets)
        self.service.ranker.close(timeout=1.0)

    def _watch_runs(self) -> None:
        """Look for replaced run folders, every second or when asked to."""
        while not self.should_exit:
            self._woken.wait(POLL_EVERY if self.service.settings.watch else None)
            asked, self._again = self._again, False
            self._woken.clear()
            if not self.should_exit:
                self.service.shelf.look(again=asked)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let SIGTERM and Ctrl-C end the service in order, the second of them at once, and SIGHUP look for new runs."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGTERM, signal.SIGINT)
        asks = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]  # a worker ignores Ctrl-C
        before = {number: signal.signal(number, self.handle_exit) for number in asks}
        if HANG_UP is not None:
            before[HANG_UP] = signal.signal(HANG_UP, self._look_again)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end; at the second signal, end at once."""
        del frame
        if self.should_exit:
            os._exit(128 + sig)
        self.asked_by = sig
        self.stop()

    def stop(self) -> None:
        """Begin to end: take no more connections, and finish what is under way."""
        self.service.ready = False
        self.should_exit = True
        self._woken.set()

    def _look_again(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._again = True
        self._woken.set()


def _set_up_memory() -> None:
    """Let the memory of a model that was replaced go back to the system at once, where the C library is glibc.

    Left alone, glibc raises its bound to the size of what was freed, and keeps weights of later models in its heap.
    With that bound alone it would give back and fetch again the memory of each batch's scores, which takes a tenth of
    the time of ranking. One heap serves all threads: each would keep the most that it ever needed in a heap of its own.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, OF_ITS_OWN)
        mallopt(_M_TRIM_THRESHOLD, KEPT)
        mallopt(_M_ARENA_MAX, 1)


def serve(settings: Settings, listener: socket.socket, log: Log, on_ready: Callable[[Service], None]) -> int:
    """Load the runs and serve them from ``listener`` until a signal comes; return the exit status.

    0 after SIGTERM, 130 after Ctrl-C. Raises the errors of :func:`recvae.serving.reload.read_served`.
    """
    service = Service(settings, log)
    _set_up_memory()
    service.shelf.load()
    sys.setswitchinterval(TURN)
    process = Process(service, lambda: on_ready(service))
    process.run([listener])
    log.write("end", signal=process.asked_by)
    log.close()
    return 130 if process.asked_by == signal.SIGINT else 0
