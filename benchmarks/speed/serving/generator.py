"""A client that keeps a server on this machine busy, and counts its answers and how long each took.

In a closed loop each connection asks again as soon as it has its answer. In an open loop requests come at random
moments (a Poisson process), however slow the server is: a request that finds no free connection waits for one, and
every time is counted from the moment at which the request was due, so that a server that stalls cannot hide it by
stalling its client. One thread, with blocking sockets and epoll: a request costs some 30 µs of the cores it shares.
"""

import gc
import itertools
import math
import select
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

MOST_CONNECTIONS = 256  # of an open loop
PATIENCE = 10.0  # seconds after the last request in which answers are still waited for
HOST = "127.0.0.1"
Heard = Callable[[int, int, bytes], None]  # is given a request's place, the status of its answer, and its body


def post(path: str, body: bytes) -> bytes:
    """Return the bytes of a request with a body of JSON."""
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


@dataclass
class Outcome:
    """The answers to the requests of ``seconds``: the times of those of status 200, and how many have each status."""

    seconds: float
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)  # 0: the server hung up, or did not answer in time
    in_time: int = 0  # answers of status 200 before the seconds were over

    def count(self, status: int, seconds: float, in_time: bool) -> None:
        """Note an answer that came ``seconds`` after its request was due."""
        self.statuses[status] += 1
        if status == 200:
            self.latencies.append(seconds)
            self.in_time += in_time

    @property
    def rate(self) -> float:
        """Answers of status 200 a second."""
        return self.in_time / self.seconds

    @property
    def failed(self) -> int:
        """The number of requests without an answer of status 200."""
        return self.statuses.total() - self.statuses[200]

    def quantile(self, share: float) -> float:
        """Return the seconds in which this share of the answers came; one that never came took for ever."""
        return float(np.quantile(self.latencies, share, method="higher")) if self.latencies else math.inf


class Connection:
    """A socket, the request whose answer it waits for, and what has come of that answer."""

    def __init__(self, port: int, poll: select.epoll) -> None:
        self.port, self.poll = port, poll
        self.due, self.place, self.waits = 0.0, 0, False
        self._connect()

    def _connect(self) -> None:
        self.socket = socket.create_connection((HOST, self.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.poll.register(self.socket, select.EPOLLIN)
        self.kept = b""

    def close(self) -> None:
        self.poll.unregister(self.socket)
        self.socket.close()

    def ask(self, request: bytes, place: int, due: float) -> None:
        self.due, self.place, self.waits = due, place, True
        self.socket.sendall(request)

    def hear(self) -> tuple[int, bytes] | None:
        """Return status and body once an answer is complete; status 0 where the server hung up instead of answering."""
        try:
            came = self.socket.recv(1 << 18)
        except ConnectionError:
            came = b""
        self.kept += came
        head, between, body = self.kept.partition(b"\r\n\r\n")
        head = head.lower()
        if came and not (between and len(body) >= int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])):
            return None
        self.kept = b""
        if not came or b"connection: close" in head:
            self.close()
            self._connect()
            if not self.waits:
                return None
        self.waits = False
        return (int(head[9:12]), body) if came else (0, b"")


def drive(
    port: int,
    requests: Sequence[bytes],
    connections: int,
    seconds: float,
    rate: float | None = None,
    heard: Heard | None = None,
) -> Outcome:
    """Send the requests in turn for some seconds: in a closed loop, or in an open one at ``rate`` a second."""
    outcome, clock = Outcome(seconds), time.perf_counter
    with ExitStack() as stack:
        poll = stack.enter_context(select.epoll())
        gc.collect()
        gc.disable()  # or it would stop the client now and then
        stack.callback(gc.enable)
        made = [Connection(port, poll) for _ in range(connections)]
        for connection in made:
            stack.callback(connection.close)
        free, sent, start = deque(made), 0, clock()
        by_number = {connection.socket.fileno(): connection for connection in made}
        stop = start + seconds
        dues = itertools.repeat(start) if rate is None else _dues(start, stop, rate)
        due = next(dues)
        while True:
            now = clock()
            if rate is None and now >= stop:
                due = math.inf
            while free and due <= now:
                place, sent = sent % len(requests), sent + 1
                free.popleft().ask(requests[place], place, now if rate is None else due)
                due = next(dues)
            if (due == math.inf and len(free) == connections) or now > stop + PATIENCE:
                break
            until = min(due if free else math.inf, stop + PATIENCE)
            select.select([poll], [], [], max(until - now, 0.0))  # in microseconds: epoll's own wait is in milliseconds
            for number, _ in poll.poll(0):
                connection = by_number.pop(number)
                answer = connection.hear()
                by_number[connection.socket.fileno()] = connection  # another socket, where the server hung up
                if answer is None:
                    continue
                status, body = answer
                outcome.count(status, clock() - connection.due, in_time=clock() <= stop)
                if heard is not None:
                    heard(connection.place, status, body)
                free.append(connection)
    never = connections - len(free) + sum(1 for _ in itertools.takewhile(math.isfinite, itertools.chain([due], dues)))
    outcome.statuses[0] += never
    outcome.latencies += [math.inf] * never
    return outcome


def _dues(start: float, stop: float, rate: float) -> Iterator[float]:
    """Yield the moments of a Poisson process, and then for ever infinity."""
    draw = np.random.default_rng(0)
    while start < stop:
        start += float(draw.exponential(1 / rate))
        if start < stop:
            yield start
    while True:
        yield math.inf
