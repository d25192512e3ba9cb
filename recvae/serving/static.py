"""The page and its files: read once, and served from memory under a policy that lets them ask nobody else."""

import hashlib
import mimetypes
from collections.abc import Awaitable, Callable
from importlib.resources import files

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


def add(app: FastAPI) -> None:
    """Add the page at ``/`` and its files under ``/page/``."""
    for file in files("recvae.serving").joinpath("page").iterdir():
        suffix = f".{file.name.rpartition('.')[2]}"
        if not file.is_file() or not (suffix in _TYPES or mimetypes.guess_type(file.name)[0]):
            continue
        path = "/" if file.name == "index.html" else f"/page/{file.name}"
        kind = _TYPES.get(suffix) or mimetypes.guess_type(file.name)[0] or ""
        app.router.routes.append(Route(path, _answer(file.read_bytes(), kind), methods=["GET"]))


def _answer(content: bytes, kind: str) -> Callable[[Request], Awaitable[Response]]:
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache", "Content-Security-Policy": POLICY}

    async def answer(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=kind)

    return answer
