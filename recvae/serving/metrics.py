"""The figures of a service for Prometheus; those of several worker processes together."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

from recvae.serving.served import Served

_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's variable, which counts when it is imported
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@contextmanager
def shared_by_workers() -> Iterator[None]:
    """Let the processes that are started in the body count together; for the process that starts them."""
    folder = tempfile.mkdtemp(prefix="recvae-metrics-")
    os.environ[_DIRECTORY] = folder
    try:
        yield
    finally:
        del os.environ[_DIRECTORY]
        shutil.rmtree(folder, ignore_errors=True)


def forget_worker(process: int) -> None:
    """Leave out, from now on, what is true of living workers only; for the process that started the worker."""
    from prometheus_client import multiprocess

    multiprocess.mark_process_dead(process)  # type: ignore[no-untyped-call]  # the library ships it without types


class Metrics:
    """Counters and histograms, and the text that shows them."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
        from prometheus_client.exposition import CONTENT_TYPE_LATEST
        from prometheus_client.multiprocess import MultiProcessCollector

        self.media_type, self._generate = CONTENT_TYPE_LATEST, generate_latest
        self._registry = registry = CollectorRegistry()
        kept = registry
        if _DIRECTORY in os.environ:  # the files of all workers are read, and no worker's own memory
            kept = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # as above
        self._requests = Counter(
            "recvae_requests", "Requests by route and status.", ["method", "route", "status"], registry=kept
        )
        self._latency = Histogram(
            "recvae_request_seconds", "Time from a request's head to its answer.", ["route"],
            buckets=SECONDS, registry=kept,
        )  # fmt: skip
        self._waited = Histogram(
            "recvae_queue_seconds", "Time that a question waited for the ranking thread.", buckets=SECONDS,
            registry=kept,
        )  # fmt: skip
        self._ranking = Histogram(
            "recvae_ranking_seconds", "Time that the ranking of a batch took.", buckets=SECONDS, registry=kept
        )
        self._batch = Histogram("recvae_batch_questions", "Questions ranked together.", buckets=ROWS, registry=kept)
        self._waiting = Gauge(
            "recvae_waiting_questions", "Questions that wait or are being ranked.", registry=kept,
            multiprocess_mode="livesum",
        )  # fmt: skip
        self._failures = Counter("recvae_failures", "Errors that are a bug or the machine's.", registry=kept)
        self._swaps = Counter("recvae_swaps", "New runs put in the place of old ones.", ["model"], registry=kept)
        self._refused = Counter("recvae_refused_swaps", "New runs that were refused.", ["model"], registry=kept)
        self._info = Gauge(
            "recvae_model_info", "1 for each process that serves this version of a model.",
            ["model", "version", "kind"], registry=kept, multiprocess_mode="livesum",
        )  # fmt: skip
        self._loaded = Gauge(
            "recvae_model_loaded_timestamp_seconds", "When the model was loaded; the oldest of the processes'.",
            ["model"], registry=kept, multiprocess_mode="livemin",
        )  # fmt: skip
        self._count = cache(self._requests.labels)  # a label's look-up costs as much as counting
        self._time = cache(self._latency.labels)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self._count(method, route, str(status)).inc()
        self._time(route).observe(seconds)

    def ranked(self, waited: Sequence[float], seconds: float) -> None:
        """Count a batch of questions that was ranked."""
        self._batch.observe(len(waited))
        self._ranking.observe(seconds)
        for each in waited:
            self._waited.observe(each)

    def failed(self) -> None:
        """Count an error that is a bug or the machine's."""
        self._failures.inc()

    def swapped(self, served: Served, before: Served | None) -> None:
        """Note a model that was loaded, and the one that it replaced."""
        self._swaps.labels(served.name)
        self._refused.labels(served.name)  # so that both are there, as 0, before the first
        if before is not None:
            self._swaps.labels(served.name).inc()
            self._info.labels(before.name, before.version, before.model.name).set(0)
        self._info.labels(served.name, served.version, served.model.name).set(1)
        self._loaded.labels(served.name).set(served.loaded.timestamp())

    def refused(self, name: str) -> None:
        """Count a run that was refused."""
        self._refused.labels(name).inc()

    def text(self, waiting: int) -> bytes:
        """Return all figures as Prometheus reads them; ``waiting``: questions that wait in this process."""
        self._waiting.set(waiting)
        lines = self._generate(self._registry).splitlines(keepends=True)
        return b"".join(
            line for line in lines if not (line.startswith(b"recvae_model_info{") and line.endswith(b" 0.0\n"))
        )
