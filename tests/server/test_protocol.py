"""Connections that wait for ever, over real sockets: a uvicorn of our kind in a thread, without an engine."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn

from engine import EngineConfig
from server import body, protocol, serving
from server.app import create_app
from server.config import ServerConfig

HEAD = b"POST /v1/images/generations HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 40\r\n"


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Of a server that waits half a second for a head or a body."""
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(body, "BODY_SECONDS", 0.5)
    app = create_app(ServerConfig(EngineConfig()))
    config = uvicorn.Config(app, http=protocol.JSONH11Protocol, ws="none", lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    listener = serving.listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join()


def read_all(connection: socket.socket, until: bytes | None = None) -> bytes:
    """To the end of the connection, or, where it stays open, to these last words."""
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        while (until is None or not answer.endswith(until)) and (chunk := connection.recv(65536)):
            answer += chunk
    return answer


@pytest.mark.parametrize(
    ("sent", "words"),
    [(b"", "head"), (b"POST /v1", "head"), (HEAD, "head"), (HEAD + b'\r\n{"prompt"', "body")],
)
def test_what_does_not_arrive_is_408(port: int, sent: bytes, words: str) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(sent)
        started = time.monotonic()
        answer = read_all(connection, until=b"}}" if words == "body" else None)
        assert time.monotonic() - started < 15
    head, _, content = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"x-request-id: req_" in head
    error = json.loads(content)["error"]
    assert words in error["message"]
    assert error["code"] == "request_timeout"


def test_a_connection_may_rest_between_requests(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        for _ in range(2):
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n")
            answer = b""
            while not answer.endswith(b'{"status":"ok"}'):
                answer += connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200 ")
            time.sleep(0.8)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /health HTTP/1.1\r\nhost: a\r\n" + b"".join(b"x-%d: y\r\n" % k for k in range(20_000)) + b"\r\n",
        b"GET /health HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 1_000_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n",
    ],
    ids=["many", "long", "path"],
)
def test_header_bombs_are_refused_in_json(port: int, head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(head)
        answer = read_all(connection)
    assert answer == b"" or (answer.startswith(b"HTTP/1.1 400 ") and b'"error"' in answer)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_an_answer_of_two_segments_does_not_wait_for_an_acknowledgement() -> None:
    with (
        serving.listen("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="needs Linux")
def test_the_kernel_drops_a_client_that_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "STALLED_SECONDS", 1)
    with (
        serving.listen("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        accepted.settimeout(20)
        with pytest.raises(TimeoutError, match="Connection timed out"):  # the kernel's own, not the socket's
            accepted.sendall(bytes(1 << 26))
