"""Clients that send FIN after their request: one that only half-closed is answered, and one that left is noticed.

TCP tells the server the same in both cases, but a closed socket resets the connection when data arrives. So the server
sends what every client skips: 100 Continue before a response, or a leading zero of the next chunk's length inside one.
It does so several times, because a proxy may send FIN some time before it closes the socket. HTTP/1.0 has neither;
there FIN means that the client, often a proxy, has left.
"""

import socket

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

PROBES = 4
"""Go's client accepts at most five responses with a status of 1xx, and one may have answered Expect."""
PROBE_SECONDS = 0.02  # most responses are complete before
LATER_PROBE_SECONDS = 0.5
MAX_CHECK_SECONDS = 1.0


class HalfCloseProtocol(H11Protocol):
    """Keeps the connection open for the response when the client has sent FIN after a complete request."""

    half_closed = False

    def eof_received(self) -> bool:  # type: ignore[override]
        if self.cycle is None or self.cycle.response_complete or self.scope["http_version"] == "1.0":
            return False
        if self.conn.their_state not in (h11.DONE, h11.MUST_CLOSE):  # the body is incomplete
            return False
        if not self.half_closed:  # after a pause, FIN is read again
            self.half_closed = True
            self.loop.call_later(PROBE_SECONDS, self.probe, PROBES, LATER_PROBE_SECONDS)
            self.check_left(PROBE_SECONDS)
        return True

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.half_closed and self.cycle.response_complete:  # else a pipelined request follows
            self.transport.close()

    def probe(self, count: int, pause: float) -> None:
        """Sends `count` probes, with growing pauses in between."""
        if count == 0 or self.transport.is_closing() or self.cycle.response_complete:
            return
        if not self.cycle.response_started:
            event = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
            self.transport.write(self.conn.send(event))
        elif self.scope["state"].get("chunked"):
            self.transport.write(b"0")
        self.loop.call_later(pause, self.probe, count - 1, 4 * pause)

    def check_left(self, seconds: float) -> None:
        """Closes the connection once the client has reset it; asyncio no longer looks, since FIN was read."""
        if self.transport.is_closing():
            return
        if self.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
        else:
            self.loop.call_later(seconds, self.check_left, min(2 * seconds, MAX_CHECK_SECONDS))
