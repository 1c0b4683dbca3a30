"""HTTP/1.1 on a connection, as uvicorn speaks it, with an end to waiting and JSON for what is not HTTP."""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from .access import choose_id
from .errors import InvalidBody, RequestTooSlow, error_body, kind_of

HEAD_SECONDS = 15.0  # for a request line and its headers; uvicorn alone waits for ever


class JSONH11Protocol(H11Protocol):
    """Answers what is not even HTTP as everything else is answered: in JSON, with an id."""

    head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.watch_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self.stop_watching()
        super().connection_lost(exc)

    def watch_head(self) -> None:
        """A timer runs while a request's head is awaited; between requests uvicorn's own keep-alive timer does."""
        if self.conn.their_state is not h11.IDLE:
            self.stop_watching()
        elif self.head_timer is None and not self.transport.is_closing():
            self.head_timer = self.loop.call_later(HEAD_SECONDS, self.refuse_slow_head)

    def stop_watching(self) -> None:
        if self.head_timer is not None:
            self.head_timer.cancel()
            self.head_timer = None

    def refuse_slow_head(self) -> None:
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.refuse(RequestTooSlow(f"the request's head did not arrive within {HEAD_SECONDS:g} s"))

    def send_400_response(self, msg: str) -> None:
        self.refuse(InvalidBody(msg))

    def refuse(self, error: Exception) -> None:
        content = error_body(error)
        headers = {
            "content-type": "application/json",
            "content-length": str(len(content)),
            "connection": "close",
            "x-request-id": choose_id(""),
        }
        fields = [(name.encode(), value.encode()) for name, value in headers.items()]
        response = h11.Response(status_code=kind_of(error).status, headers=fields)
        for event in (response, h11.Data(data=content), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
