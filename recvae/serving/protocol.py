"""uvicorn's HTTP protocol, with limits for clients that are slow or send no HTTP."""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from recvae.serving.problems import MEDIA_TYPE, Refusal

MOST_HEAD = 64 << 10  # bytes of a request line and headers


class Protocol(HttpToolsProtocol):
    """A connection: a request's head must arrive within some time and some bytes."""

    head_within = 10.0  # seconds; set for all connections when the service starts

    _timer: asyncio.TimerHandle | None = None
    _head = 0  # bytes that came since the head began
    _in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn names this transport
        """Begin to wait for the first request's head."""
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on; end the connection where a head is too large."""
        if self._in_head:
            self._head += len(data)
        super().data_received(data)
        if self._in_head and self._head and not self.transport.is_closing():  # a part of a head
            if self._head > MOST_HEAD:
                self._end(Refusal(431, f"The request's head is larger than {MOST_HEAD:,} bytes."))
            elif self._timer is None:
                self._wait_for_head()

    def on_headers_complete(self) -> None:
        """Begin to answer."""
        self._in_head, self._head = False, 0
        self._stop_waiting()
        super().on_headers_complete()
        self.scope["state"]["cycle"] = self.cycle  # which knows whether the whole body is there

    def on_message_complete(self) -> None:
        """Wait for the next request's head."""
        self._in_head = True
        super().on_message_complete()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection; also one whose client does not read its answers."""
        if not self.transport.is_closing() and self.transport.get_write_buffer_size():
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        self._end(Refusal(400, "This is not an HTTP request."))

    def _wait_for_head(self) -> None:
        self._timer = self.loop.call_later(self.head_within, self._too_slow)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            if self._head:
                self._end(Refusal(408, f"The request's head did not arrive within {self.head_within:g} seconds."))
            else:
                self.transport.close()

    def _end(self, refusal: Refusal) -> None:
        """Answer with a problem outside of the application, and close."""
        self._stop_waiting()
        body = refusal.body("")
        head = f"HTTP/1.1 {refusal.status} {refusal.document('')['title']}\r\ncontent-type: {MEDIA_TYPE}\r\n"
        self.transport.write(f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
        self.transport.close()
