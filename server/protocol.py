"""HTTP/1.1 connections: uvicorn's protocol with timeouts, and with JSON errors for input that is not HTTP."""

import asyncio
import re
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from . import body
from .access import choose_id
from .http_errors import InvalidBody, RequestTooSlow, error_body, kind_of

HEAD_SECONDS = 15.0  # for a request line and its headers; uvicorn has no such timeout
ABSOLUTE_TARGET = re.compile(rb"https?://([^/?#]*)", re.IGNORECASE)


class StrictConnection(h11.Connection):
    """Refuses requests that a proxy could read differently, and accepts the absolute URIs meant for proxies."""

    def next_event(self) -> Any:
        event = super().next_event()
        return accept_head(event) if isinstance(event, h11.Request) else event


def accept_head(request: h11.Request) -> h11.Request:
    """The request with its target reduced to the path. Raises RemoteProtocolError for an ambiguous request."""
    names = {name for name, _ in request.headers}
    if {b"content-length", b"transfer-encoding"} <= names:  # RFC 9112, 6.3: how requests are smuggled
        raise h11.RemoteProtocolError("both Content-Length and Transfer-Encoding")
    if not request.http_version.startswith(b"1."):
        raise h11.RemoteProtocolError("not HTTP/1")
    absolute = ABSOLUTE_TARGET.match(request.target)
    if absolute is None:
        return request
    path = request.target[absolute.end() :]
    others = [(name, value) for name, value in request.headers if name != b"host"]
    return h11.Request(
        method=request.method,
        headers=[(b"host", absolute[1]), *others],
        target=path if path.startswith(b"/") else b"/" + path,
        http_version=request.http_version,
    )


class JSONH11Protocol(H11Protocol):
    """Answers input that is not HTTP with a JSON error and an id, and closes connections that are too slow."""

    awaited: str = ""
    timer: asyncio.TimerHandle | None = None

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.conn = StrictConnection(h11.SERVER)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self.stop_watching()
        super().connection_lost(exc)

    def watch(self) -> None:
        """Runs a timer while a request's head is awaited, or the rest of a body that was answered unread.

        Between requests uvicorn's own keep-alive timer runs, which stops at the first byte.
        """
        if self.conn.their_state is h11.IDLE:
            awaited, seconds, end = "head", HEAD_SECONDS, self.refuse_slow_head
        elif self.conn.their_state is h11.SEND_BODY and self.conn.our_state is h11.DONE:
            awaited, seconds, end = "body", body.BODY_SECONDS, self.transport.close
        else:
            self.stop_watching()
            return
        if awaited != self.awaited and not self.transport.is_closing():
            self.stop_watching()
            self.awaited, self.timer = awaited, self.loop.call_later(seconds, end)

    def stop_watching(self) -> None:
        self.awaited = ""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def refuse_slow_head(self) -> None:
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.refuse(RequestTooSlow(f"the request's head must arrive within {HEAD_SECONDS:g} s"))

    def _should_upgrade(self) -> bool:
        """False. uvicorn also ignores the header, but logs two warnings each time, which clients could flood."""
        return False

    def send_400_response(self, msg: str) -> None:
        self.refuse(InvalidBody(msg))

    def refuse(self, error: Exception) -> None:
        """Closes the connection, with an error response unless one has begun: a body can become invalid after it."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            content, status = error_body(error), HTTPStatus(kind_of(error).status)
            headers = {
                "content-type": "application/json",
                "content-length": str(len(content)),
                "connection": "close",
                "x-request-id": choose_id(""),
            }
            fields = [(name.encode(), value.encode()) for name, value in headers.items()]
            response = h11.Response(status_code=status, headers=fields, reason=status.phrase.encode())
            for event in (response, h11.Data(data=content), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
