"""HTTP/1.1 connections: uvicorn's protocol with timeouts, and with JSON errors for input that is not HTTP."""

import asyncio
import contextlib
import time
from http import HTTPStatus
from typing import Any, cast

import h11
from fastapi import FastAPI

from . import body
from .access import choose_id, log_response
from .half_close import HalfCloseProtocol
from .http_errors import InvalidBody, RequestTooSlow, error_body, kind_of
from .http_parser import StrictConnection, request_line

HEAD_SECONDS = 15.0  # for a request line and its headers; uvicorn has no such timeout
LINGER_SECONDS = 2.0
"""Time in which the rest of a refused request is read and dropped: closing before would discard the response."""


class JSONH11Protocol(HalfCloseProtocol):
    """Answers input that is not HTTP with a JSON error and an id, and closes connections that are too slow."""

    awaited: str = ""
    timer: asyncio.TimerHandle | None = None
    refused = False

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.conn: StrictConnection = StrictConnection()
        self.began = time.monotonic()  # of the request that is being received

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.watch()

    def data_received(self, data: bytes) -> None:
        if self.refused:
            return
        if self.conn.their_state is h11.IDLE and self.awaited != "head":
            self.began = time.monotonic()
        super().data_received(data)
        self.watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self.stop_watching()
        super().connection_lost(exc)

    def watch(self) -> None:
        """Runs a timer while a request's head is awaited, or the rest of a body that was answered unread.

        Between requests uvicorn's own keep-alive timer runs, which stops at the first byte. After such a body it does
        not: ours replaces it.
        """
        if self.refused:
            return
        if self.conn.their_state is h11.IDLE and self.cycle is not None and not self.conn.head:
            awaited, seconds, end = "request", float(self.timeout_keep_alive), self.transport.close
        elif self.conn.their_state is h11.IDLE:
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
        self.refuse(self.conn.refusal or InvalidBody(msg))

    def refuse(self, error: Exception) -> None:
        """Closes the connection, with an error response unless one has begun: a body can become invalid after it."""
        if self.transport.is_closing():
            return
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()
            return
        self.refused = True
        self.stop_watching()
        if self.cycle is None or self.cycle.response_complete:
            method, path = request_line(self.conn.head)
            request_id = choose_id("")
        else:  # the head was valid and the body is not
            method, path = self.scope["method"], self.scope["raw_path"].decode("latin-1")
            request_id = self.stop_cycle()
        content, status = error_body(error), HTTPStatus(kind_of(error).status)
        headers = {
            "content-type": "application/json",
            "content-length": str(len(content)),
            "connection": "close",
            "x-request-id": request_id,
        }
        fields = [(name.encode(), value.encode()) for name, value in headers.items()]
        response = h11.Response(status_code=status, headers=fields, reason=status.phrase.encode())
        for event in (response, h11.Data(data=content), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        log_response(request_id, method, path, status, time.monotonic() - self.began)
        cast(FastAPI, self.config.app).state.metrics.count_response("unknown", status)
        self.flow.resume_reading()
        with contextlib.suppress(OSError):  # the client has reset the connection
            self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def stop_cycle(self) -> str:
        """Lets the running application see a disconnect, without a log line of its own. Returns the request's id."""
        state = self.scope["state"]
        offered = next((value.decode("latin-1") for name, value in self.headers if name == b"x-request-id"), "")
        state["refused"] = True
        self.cycle.disconnected, self.cycle.waiting_for_100_continue = True, False
        self.cycle.message_event.set()
        return str(state.setdefault("request_id", choose_id(offered)))
