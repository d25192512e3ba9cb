"""Bodies of requests: read within a limit of size and of time, and checked."""

import asyncio
from typing import TypeVar

from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request

from recvae.serving.problems import Refusal, of_validation
from recvae.serving.schema import Body
from recvae.serving.settings import Settings

_DISCARDED, _DISCARDED_WITHIN = 64 << 20, 2.0  # bytes and seconds of a body that is too large
_CLOSE = {"Connection": "close"}
Kind = TypeVar("Kind", bound=Body)


async def read(request: Request, settings: Settings) -> bytes:
    """Return the JSON body of a request.

    Raises :class:`Refusal` for another content type (415), a body that is too large (413) or does not arrive in time
    (408), and ClientDisconnect where the client went away.
    """
    head: dict[bytes, bytes] = request.scope["head"]
    kind = head.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
    if kind != "application/json":
        given = f"not as {kind[:60]!r}" if kind else "and name the type"
        raise Refusal(415, f"Send the body as JSON, {given}: Content-Type: application/json", headers=_CLOSE)
    if head.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Refusal(415, "Send the body as it is: no Content-Encoding is understood.", headers=_CLOSE)
    length = head.get(b"content-length", b"")
    if length.isdigit() and int(length[:20]) > settings.max_body:
        raise await _too_large(request, settings, int(length[:20]))
    cycle = request.scope["state"].get("cycle")
    if cycle is not None and not cycle.more_body and not cycle.disconnected:  # no time-out is needed, which costs time
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        whole: bytes = message["body"]
        if len(whole) > settings.max_body:
            raise await _too_large(request, settings, len(whole))
        return whole
    parts, size = [], 0
    try:
        async with asyncio.timeout(settings.body_within):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                part = message.get("body", b"")
                size += len(part)
                if size > settings.max_body:
                    break
                parts.append(part)
                if not message.get("more_body", False):
                    return part if len(parts) == 1 else b"".join(parts)
    except TimeoutError:
        sentence = f"The body did not arrive within {settings.body_within:g} seconds. Send it again, and faster."
        raise Refusal(408, sentence, headers=_CLOSE) from None
    raise await _too_large(request, settings, size)


async def _too_large(request: Request, settings: Settings, size: int) -> Refusal:
    """Return the refusal of a body that is too large, after the rest was taken from a client that sends it.

    A connection that is closed while the client sends is reset, and the client would not see the answer.
    """
    if size <= _DISCARDED and "expect" not in request.headers:
        try:
            async with asyncio.timeout(_DISCARDED_WITHIN):
                while (message := await request.receive()).get("more_body", False):
                    size += len(message["body"])
                    if size > _DISCARDED:
                        break
        except TimeoutError:
            pass
    return Refusal(
        413,
        f"The body is larger than {settings.max_body:,} bytes, the most that this service takes. Send less at a time.",
        headers=_CLOSE,
    )


def parsed(kind: type[Kind], body: bytes) -> Kind:
    """Return a body as a ``kind``; raise :class:`Refusal` where it is none."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise of_validation(error, kind) from None
