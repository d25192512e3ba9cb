"""A service to ask: in a thread of the test's process or in a process of its own, always over a real socket."""

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import httpx

from recvae.serving.http import Service
from recvae.serving.logs import Log
from recvae.serving.server import Process, listen
from recvae.serving.settings import Settings

PATIENCE = 60.0  # seconds after which a test that waits fails


class Here:
    """A service in a thread of this process."""

    def __init__(self, runs, **settings):
        self.lines = io.StringIO()
        self.log = Log(self.lines)
        self.service = Service(Settings(runs=runs, port=0, **settings), self.log)
        self.service.shelf.load()
        ready = threading.Event()
        listener = listen("127.0.0.1", 0)
        self.port = listener.getsockname()[1]
        self.process = Process(self.service, ready.set)
        self.thread = threading.Thread(target=self.process.run, args=([listener],), daemon=True)
        self.thread.start()
        assert ready.wait(PATIENCE)

    def close(self):
        self.process.stop()
        self.thread.join(PATIENCE)
        self.log.close()
        assert not self.thread.is_alive()

    def client(self, **more):
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=PATIENCE, **more)

    def events(self, kind):
        time.sleep(0.25)  # longer than the log keeps a line
        lines = [json.loads(line) for line in self.lines.getvalue().splitlines()]
        return [line for line in lines if line["event"] == kind]


@contextmanager
def here(runs, **settings):
    service = Here(runs, **settings)
    try:
        yield service
    finally:
        service.close()


class Served:
    """``recvae serve`` as a process; its log and its messages are files in ``folder``."""

    def __init__(self, folder, *arguments, ready=True):
        self.out, self.err = folder / "serve.out", folder / "serve.err"
        command = [sys.executable, "-m", "recvae", "serve", "--port", "0", *map(str, arguments)]
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL)
        self.port = self._port() if ready else 0

    def _port(self):
        end = time.monotonic() + 2 * PATIENCE
        while time.monotonic() < end and self.process.poll() is None:
            found = re.search(r"Serving at http://127\.0\.0\.1:(\d+)/", self.said)
            if found:
                return int(found[1])
            time.sleep(0.05)
        raise AssertionError(f"the service did not start: {self.said}")

    @property
    def said(self):
        return self.err.read_text()

    def client(self, **more):
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=PATIENCE, **more)

    def events(self, kind):
        lines = [json.loads(line) for line in self.out.read_text().splitlines()]
        return [line for line in lines if line["event"] == kind]

    def wait_for(self, kind, count=1):
        """Wait until the log has so many events of a kind, and return them."""
        end = time.monotonic() + PATIENCE
        while len(found := self.events(kind)) < count:
            assert time.monotonic() < end, f"no event '{kind}': {self.out.read_text()[-2000:]} {self.said}"
            time.sleep(0.05)
        return found

    def end(self, number=signal.SIGTERM):
        """Send a signal, and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(2 * PATIENCE)


@contextmanager
def served(folder, *arguments, **more):
    service = Served(folder, *arguments, **more)
    try:
        yield service
    finally:
        if service.process.poll() is None:
            if os.name == "posix":
                subprocess.run(["pkill", "-9", "-P", str(service.process.pid)], check=False)  # its own workers
            service.process.kill()
            service.process.wait(PATIENCE)


def raw(port, *parts, pause=0.0, shut=False, limit=1 << 20):
    """Send bytes as they are, part by part, and return all that comes back until the connection is closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        got = b""
        try:
            for place, part in enumerate(parts):
                if place:
                    time.sleep(pause)
                connection.sendall(part)
            if shut:
                connection.shutdown(socket.SHUT_WR)
            while len(got) < limit and (piece := connection.recv(65536)):
                got += piece
        except ConnectionError:  # closed by the service
            pass
        return got


def problem(answer, status):
    """Return the problem document of an answer, after a look at its form."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["status"] == status
    assert document["type"] == "about:blank"
    assert len(document["detail"]) > 20
    assert document["request_id"] == answer.headers["x-request-id"]
    return document
