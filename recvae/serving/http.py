"""The service as an ASGI application: what is done for every request, before and after the route that answers it.

A request gets an id, is checked for its token, is counted, timed and logged, and always gets an answer: where a route
fails, a problem document. The routes are in :mod:`recvae.serving.routes`.
"""

import hashlib
import hmac
import os
import re
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from recvae.serving import problems
from recvae.serving.batching import Ranker
from recvae.serving.logs import Log
from recvae.serving.metrics import Metrics
from recvae.serving.problems import Refusal
from recvae.serving.reload import Shelf
from recvae.serving.served import Served
from recvae.serving.settings import Settings

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_CLOSED = 499  # in the log and the figures: the client went away before it had an answer
_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]


class Service:
    """The parts that answer together, and the events that are counted and logged."""

    ranker: Ranker  # set when the event loop runs

    def __init__(self, settings: Settings, log: Log) -> None:
        self.settings, self.log = settings, log
        self.metrics = Metrics()
        self.shelf = Shelf(settings.runs, settings.device, settings.threads, self)
        self.ready = False
        self.token = None if settings.token is None else _digest(settings.token.encode())

    def facts(self) -> list[tuple[str, str, int, str]]:
        """Return name, title, number of items and version of each model."""
        return [(one.name, one.title, one.model.n_items, one.version) for one in self.shelf]

    def ranked(self, batch: int, waited: Sequence[float], seconds: float) -> None:
        """Count a batch."""
        self.metrics.ranked(waited, seconds)

    def failed(self, error: BaseException) -> None:
        """Count and log an error that is a bug or the machine's."""
        self.metrics.failed()
        self.log.write("failure", error=f"{type(error).__name__}: {error}", traceback=traceback.format_exception(error))

    def swapped(self, served: Served, before: Served | None) -> None:
        """Count and log a model that was loaded."""
        self.metrics.swapped(served, before)
        facts = {"model": served.name, "version": served.version, "kind": served.title, "items": served.model.n_items}
        if before is None:
            self.log.write("model loaded", **facts)
        else:
            self.log.write("model swapped", **facts, before=before.version)

    def refused(self, name: str, folder: Path, reason: str) -> None:
        """Count and log a run that was refused."""
        self.metrics.refused(name)
        version = served.version if (served := self.shelf.get(name)) else None
        self.log.write("swap refused", model=name, folder=str(folder), reason=reason, version=version)

    def admits(self, path: str, given: bytes) -> bool:
        """Return whether a request for ``path`` with this Authorization header may be answered."""
        if self.token is None or path == "/" or path.startswith(("/page/", "/health/")):
            return True
        kind, _, token = given.partition(b" ")
        return kind.lower() == b"bearer" and hmac.compare_digest(_digest(token.strip()), self.token)


def _digest(token: bytes) -> bytes:
    """Return a digest: two are compared in the same time whatever the length of what was given."""
    return hashlib.sha256(token).digest()


class Front:
    """The ASGI application: wraps the routes of ``app``."""

    def __init__(self, service: Service, app: FastAPI) -> None:
        self._service, self._app = service, app
        app.add_exception_handler(Refusal, _refused)
        app.add_exception_handler(HTTPException, _not_routed)
        self._prefix, self._number = os.urandom(6).hex(), 0
        # Routes without a name in their path are called at once: FastAPI's own way to them takes as long as the rest.
        self._direct = {
            (method, route.path): route
            for route in app.routes
            if isinstance(route, APIRoute) and "{" not in route.path
            for method in route.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        began = time.perf_counter()
        service = self._service
        headers = scope["head"] = dict(scope["headers"])
        request_id = self._id(headers.get(b"x-request-id", b""))
        scope["request_id"] = request_id
        status = 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode()), *_HEADERS]
            await send(message)

        method = scope["method"]
        if method == "HEAD":  # as GET; the server leaves the body out
            scope = {**scope, "method": "GET"}
        try:
            if service.admits(scope["path"], headers.get(b"authorization", b"")):
                route = self._direct.get((scope["method"], scope["path"]))
                if route is None:
                    await self._app(scope, receive, sent)
                else:
                    scope["route"] = route
                    try:
                        response = await route.endpoint(Request(scope, receive))
                    except Refusal as error:
                        response = _response(error, request_id)
                    status = response.status_code
                    headers_out = [*response.raw_headers, (b"x-request-id", request_id.encode()), *_HEADERS]
                    await send({"type": "http.response.start", "status": status, "headers": headers_out})
                    await send({"type": "http.response.body", "body": response.body})
            else:
                wrong = "is not the right one" if b"authorization" in headers else "is missing"
                refusal = Refusal(
                    401,
                    f"The token {wrong}. Send it as: Authorization: Bearer TOKEN",
                    headers={"WWW-Authenticate": "Bearer"},
                )
                await _response(refusal, request_id)(scope, receive, sent)
        except ClientDisconnect:
            status = _CLOSED
        except Exception as error:  # noqa: BLE001 - a bug in one request must not end the service
            service.failed(error)
            if not status:
                await _response(Refusal(500, "This request failed; see the log."), request_id)(scope, receive, sent)
        seconds = time.perf_counter() - began
        path = getattr(scope.get("route"), "path", "none")
        service.metrics.request(method, path, status, seconds)
        if service.settings.access_log:
            client = scope.get("client")
            service.log.write(
                "request",
                id=request_id,
                client=client[0] if client else None,
                method=method,
                path=scope["path"],
                status=status,
                ms=round(seconds * 1000, 3),
                **scope.get("facts", {}),
            )

    def _id(self, given: bytes) -> str:
        """Return the id that a request brings where it is harmless, else a new one."""
        if given and _REQUEST_ID.fullmatch(given):
            return given.decode()
        self._number += 1
        return f"{self._prefix}-{self._number}"


def _response(refusal: Refusal, request_id: str) -> Response:
    return Response(refusal.body(request_id), refusal.status, refusal.headers, problems.MEDIA_TYPE)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _response(error, request.scope["request_id"])


async def _not_routed(request: Request, error: Exception) -> Response:
    """Answer a request that no route takes."""
    assert isinstance(error, HTTPException)
    path = request.url.path[:200]
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        sentence = f"{path} does not take {request.method}{f', but {allowed}' if allowed else ''}."
    else:
        sentence = f"There is nothing at {path}. See /openapi.json."
    return _response(Refusal(error.status_code, sentence, headers=error.headers), request.scope["request_id"])
