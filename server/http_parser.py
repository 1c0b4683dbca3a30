"""h11's parser with our rules: one limit for every head, no ambiguous requests, and absolute URIs as proxies send."""

import re
from typing import Any

import h11

from .http_errors import HeadTooLarge, InvalidBody

MAX_HEAD_BYTES = 64 << 10  # cookies of 16 KiB and signed URLs of 8 KiB occur
TOO_LARGE = 431  # h11's hint on an incomplete head
ABSOLUTE_TARGET = re.compile(rb"https?://([^/?#]*)", re.IGNORECASE)
REQUEST_LINE = re.compile(rb"\s*([!-~]{1,20}) ([!->@-~]{1,200})")  # the path ends before "?"


class StrictConnection(h11.Connection):
    """Refuses requests that a proxy could read differently, and accepts the absolute URIs meant for proxies.

    Attributes:
        head: what has arrived of a head that is incomplete or invalid.
        refusal: why the input is invalid, after next_event has raised RemoteProtocolError.
    """

    def __init__(self) -> None:
        super().__init__(h11.SERVER, MAX_HEAD_BYTES)
        self.head = b""
        self.refusal: Exception | None = None

    def next_event(self) -> Any:
        in_head = self.their_state is h11.IDLE
        if in_head:
            # RFC 9112, 2.2: some clients send an empty line after a body. h11 refuses it before a request.
            blank = len(self.trailing_data[0]) - len(self.trailing_data[0].lstrip(b"\r\n"))
            self._receive_buffer.maybe_extract_at_most(blank)
            self.head = self.trailing_data[0]
        try:
            event = super().next_event()
            if isinstance(event, h11.Request):
                # h11 limits only what is incomplete, so that the result would depend on the segments of the network.
                if len(self.head) - len(self.trailing_data[0]) > MAX_HEAD_BYTES:
                    raise h11.RemoteProtocolError("too large", error_status_hint=TOO_LARGE)
                event = accept_head(event)
                self.head = b""
        except h11.RemoteProtocolError as error:
            if in_head and error.error_status_hint == TOO_LARGE:
                self.refusal = HeadTooLarge(f"the request line and headers must not exceed {MAX_HEAD_BYTES} bytes")
            else:
                self.refusal = InvalidBody(f"the request is not valid HTTP: {error}")
            raise
        return event


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


def request_line(head: bytes) -> tuple[str, str]:
    """Method and path of an invalid head, for the log; "-" if it has none."""
    match = REQUEST_LINE.match(head)
    return (match[1].decode(), match[2].decode()) if match else ("-", "-")
