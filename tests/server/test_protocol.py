"""Slow, ambiguous and invalid HTTP over real sockets: uvicorn with our protocol in a thread, without an engine."""

import asyncio
import contextlib
import inspect
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from engine import EngineConfig
from server import body, http_parser, listening, protocol, serving
from server.app import create_app
from server.settings import ServerConfig

HEAD = b"POST /v1/images/generations HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 40\r\n"


OVERRIDDEN = [
    (protocol.JSONH11Protocol, H11Protocol, "connection_made"),
    (protocol.JSONH11Protocol, H11Protocol, "data_received"),
    (protocol.JSONH11Protocol, H11Protocol, "connection_lost"),
    (protocol.JSONH11Protocol, H11Protocol, "eof_received"),
    (protocol.JSONH11Protocol, H11Protocol, "on_response_complete"),
    (protocol.JSONH11Protocol, H11Protocol, "_should_upgrade"),
    (protocol.JSONH11Protocol, H11Protocol, "send_400_response"),
    (serving.Server, uvicorn.Server, "capture_signals"),
    (serving.Server, uvicorn.Server, "handle_exit"),
]


@pytest.mark.parametrize(("ours", "theirs", "name"), OVERRIDDEN, ids=[name for _, _, name in OVERRIDDEN])
def test_uvicorn_still_has_overridden_method(ours: type, theirs: type, name: str) -> None:
    """Otherwise the override would never be called, and nothing else might notice."""
    assert hasattr(theirs, name), f"uvicorn {uvicorn.__version__} has no {theirs.__name__}.{name}: adapt {ours}"
    parameters, expected = (list(inspect.signature(getattr(kind, name)).parameters) for kind in (ours, theirs))
    assert parameters == expected, (
        f"uvicorn {uvicorn.__version__} calls {theirs.__name__}.{name} otherwise: adapt {ours}"
    )


def test_uvicorn_still_has_the_attributes_used() -> None:
    async def attributes() -> dict[str, object]:
        connection = protocol.JSONH11Protocol(
            uvicorn.Config(create_app(ServerConfig(EngineConfig()))), ServerState(), {}
        )
        return vars(connection)

    used = {"conn", "loop", "transport", "flow", "cycle", "scope", "headers", "config", "timeout_keep_alive"}
    missing = used - asyncio.run(attributes()).keys()
    assert not missing, f"uvicorn {uvicorn.__version__} has no {missing} in H11Protocol: adapt server/protocol.py"


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Port of a server that waits half a second for a head or a body."""
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(body, "BODY_SECONDS", 0.5)
    app = create_app(ServerConfig(EngineConfig()))
    config = uvicorn.Config(app, http=protocol.JSONH11Protocol, ws="none", lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    [listener] = listening.listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join()


def read_all(connection: socket.socket) -> bytes:
    response = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            response += chunk
    return response


def exchange(port: int, sent: bytes) -> bytes:
    """Everything received until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(sent)
        return read_all(connection)


def read_error(connection: socket.socket) -> bytes:
    """One error response; the connection stays open."""
    response = b""
    while not response.endswith(b"}}"):
        response += connection.recv(65536)
    return response


def drip(connection: socket.socket) -> None:
    for _ in range(100):
        connection.sendall(b"x")
        time.sleep(0.1)


def check_refusal(response: bytes, status: int) -> dict[str, Any]:
    """The error of a response that closes its connection."""
    head, _, content = response.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode())
    assert b"x-request-id: req_" in head
    assert b"connection: close" in head.lower()
    assert b"content-type: application/json" in head
    error = json.loads(content)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    return error


@pytest.mark.parametrize(
    ("sent", "words"),
    [(b"", "head"), (b"POST /v1", "head"), (HEAD, "head"), (HEAD + b'\r\n{"prompt"', "body")],
)
def test_slow_head_or_body_gets_408(port: int, sent: bytes, words: str) -> None:
    started = time.monotonic()
    error = check_refusal(exchange(port, sent), 408)
    assert time.monotonic() - started < 15
    assert words in error["message"]
    assert error["code"] == "request_timeout"


def test_slow_body_after_response_closes_connection(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"POST /nope HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n")
        assert read_error(connection).startswith(b"HTTP/1.1 404 ")
        with pytest.raises(ConnectionError):
            drip(connection)


def test_unread_upload_drained_and_answered(port: int) -> None:
    """A client reads no response while it sends; afterwards the connection stays usable."""
    sent = b"POST /v1/images/nope HTTP/1.1\r\nhost: a\r\ncontent-length: 20000000\r\n\r\n" + bytes(20_000_000)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(sent)
        assert read_error(connection).startswith(b"HTTP/1.1 404 ")
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


POST = b"POST /v1/images/generations HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
CHUNKED = POST + b"transfer-encoding: chunked\r\n"
INVALID_HTTP = {
    "HTTP/0.9": b"GET /health\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/3": b"GET /health HTTP/3.0\r\nhost: a\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "no host": b"GET /health HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /health HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
    "NUL in target": b"GET /he\0alth HTTP/1.1\r\nhost: a\r\n\r\n",
    "NUL in header": b"GET /health HTTP/1.1\r\nhost: a\r\nx: a\0b\r\n\r\n",
    "8 bits in target": b"GET /\xff HTTP/1.1\r\nhost: a\r\n\r\n",
    "space before colon": b"GET /health HTTP/1.1\r\nhost : a\r\n\r\n",
    "two lengths": POST + b"content-length: 4\r\ncontent-length: 5\r\n\r\n{   }",
    "length -1": POST + b"content-length: -1\r\n\r\n{}",
    "length +2": POST + b"content-length: +2\r\n\r\n{}",
    "length 0x2": POST + b"content-length: 0x2\r\n\r\n{}",
    "length of 30 digits": POST + b"content-length: " + b"9" * 30 + b"\r\n\r\n{}",
    "length and chunks": POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": CHUNKED + b"content-length: 5\r\n\r\n0\r\n\r\n",
    "gzip, chunked": POST + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": CHUNKED + b"transfer-encoding: identity\r\n\r\n0\r\n\r\n",
    "chunk of zz": CHUNKED + b"\r\nzz\r\n{}",
    "chunk of -2": CHUNKED + b"\r\n-2\r\n{}",
    "chunk of 30 digits": CHUNKED + b"\r\n" + b"f" * 30 + b"\r\n{}",
    "chunk too short": CHUNKED + b"\r\n1\r\n{}\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("sent", INVALID_HTTP.values(), ids=INVALID_HTTP)
def test_ambiguous_request_closes_connection(port: int, sent: bytes) -> None:
    """Bytes that follow on the connection are never read as another request."""
    assert check_refusal(exchange(port, sent + b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n"), 400)["code"] is None


def test_invalid_body_after_response_closes_connection(port: int, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"POST /nope HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        assert read_error(connection).startswith(b"HTTP/1.1 404 ")
        connection.sendall(b"zz\r\n")
        assert read_all(connection) == b""
    assert [record for record in caplog.records if record.exc_info] == []


@pytest.mark.parametrize(
    ("target", "path"),
    [(b"http://b:80/nope?x", "/nope"), (b"HTTPS://b/nope", "/nope"), (b"http://b", "/"), (b"http://b?x", "/")],
)
def test_absolute_uri_reduced_to_path(port: int, target: bytes, path: str) -> None:
    """RFC 9112, 3.2.2: a server must accept them. No route accepts PUT, so the error names the path."""
    response = exchange(port, b"PUT " + target + b" HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    assert json.loads(response.partition(b"\r\n\r\n")[2])["error"]["message"].startswith(
        f"{'Not Found' if path == '/nope' else 'Method Not Allowed'}: PUT {path}"
    )


def test_pipelined_requests_answered_in_order(port: int) -> None:
    health = b"GET /health HTTP/1.1\r\nhost: a\r\n"
    response = exchange(
        port, health + b"\r\n" + b"HEAD /nope HTTP/1.1\r\nhost: a\r\n\r\n" + health + b"connection: close\r\n\r\n"
    )
    assert [part[:3] for part in response.split(b"HTTP/1.1 ")[1:]] == [b"200", b"404", b"200"]


@pytest.mark.parametrize("blank", [b"\r\n", b"\r\n\r\n", b"\n"])
def test_empty_lines_before_request_ignored(port: int, blank: bytes) -> None:
    """Some clients send one after a body, in the same segment or in the next."""
    post = POST + b"content-length: 2\r\n\r\n{}"
    last = b"GET /health HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(blank + post + blank)
        assert read_error(connection).startswith(b"HTTP/1.1 400 ")  # a prompt is missing
        connection.sendall(blank + last)
        assert read_all(connection).startswith(b"HTTP/1.1 200 ")
    assert exchange(port, blank + post + blank + last).count(b"HTTP/1.1 ") == 2


def test_upgrade_header_ignored_and_not_logged(port: int, caplog: pytest.LogCaptureFixture) -> None:
    upgrade = (
        b"connection: upgrade, close\r\nupgrade: websocket\r\nsec-websocket-key: x\r\nsec-websocket-version: 13\r\n"
    )
    response = exchange(port, b"GET /health HTTP/1.1\r\nhost: a\r\n" + upgrade + b"\r\n")
    assert response.startswith(b"HTTP/1.1 200 ")
    assert "upgrade" not in caplog.text.lower()


def test_idle_connections_closed_without_blocking(port: int) -> None:
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20)) for _ in range(300)]
        assert exchange(port, b"GET /health HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").startswith(
            b"HTTP/1.1 200 "
        )
        assert all(read_all(connection).startswith(b"HTTP/1.1 408 ") for connection in idle)


def test_keep_alive_between_requests(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        for _ in range(2):
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n")
            response = b""
            while not response.endswith(b'{"status":"ok"}'):
                response += connection.recv(65536)
            assert response.startswith(b"HTTP/1.1 200 ")
            time.sleep(0.8)


GET = b"GET /health HTTP/1.1\r\nhost: a\r\nconnection: close\r\n"
LIMIT = http_parser.MAX_HEAD_BYTES
TOO_LARGE = {
    "many headers": GET + b"".join(b"x-%d: y\r\n" % k for k in range(20_000)) + b"\r\n",
    "long header": GET + b"x: " + b"y" * 1_000_000 + b"\r\n\r\n",
    "long path": b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n",
    "long query": b"GET /health?" + b"a" * LIMIT + b" HTTP/1.1\r\nhost: a\r\n\r\n",
    "one byte more": GET + b"x: " + b"y" * (LIMIT + 1 - len(GET) - 7) + b"\r\n\r\n",
}


def send_in(pieces: int, head: bytes, connection: socket.socket) -> None:
    size = -(-len(head) // pieces)
    for start in range(0, len(head), size):
        connection.sendall(head[start : start + size])
        time.sleep(0.02)


@pytest.mark.parametrize("pieces", [1, 2, 7])
@pytest.mark.parametrize("head", TOO_LARGE.values(), ids=TOO_LARGE)
def test_too_large_head_gets_431(port: int, caplog: pytest.LogCaptureFixture, head: bytes, pieces: int) -> None:
    with (
        caplog.at_level("INFO", "sana.access"),
        socket.create_connection(("127.0.0.1", port), timeout=20) as connection,
    ):
        send_in(pieces, head, connection)
        response = read_all(connection)
        assert str(LIMIT) in check_refusal(response, 431)["message"]
    assert re.search(r"^req_\w{24} GET /(health|a{199}) 431 \d+\.\d ms$", logged(response, caplog))


@pytest.mark.parametrize("pieces", [1, 2, 7])
def test_head_within_limit_served_in_any_segments(port: int, pieces: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        send_in(pieces, GET + b"x: " + b"y" * (LIMIT - len(GET) - 7) + b"\r\n\r\n", connection)
        assert read_all(connection).startswith(b"HTTP/1.1 200 ")


def logged(response: bytes, caplog: pytest.LogCaptureFixture) -> str:
    """The line of this response in the access log, which has one line for each."""
    found = re.search(rb"x-request-id: (\S+)", response)
    assert found is not None
    [line] = [record.getMessage() for record in caplog.records if found[1].decode() in record.getMessage()]
    assert len([record for record in caplog.records if record.name == "sana.access"]) == 1
    return line


REFUSALS = {
    "no HTTP": (b"\x16\x03\x01\x02\r\n\r\n", "- - 400"),
    "no host": (b"GET /health?key HTTP/1.1\r\n\r\n", "GET /health 400"),
    "slow": (b"PUT /x HTTP/1.1\r\nhost:", "PUT /x 408"),
    "nothing": (b"", "- - 408"),
    "chunks": (POST + b"x-request-id: mine\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "mine POST /v1/images/"),
}


@pytest.mark.parametrize(("sent", "line"), REFUSALS.values(), ids=REFUSALS)
def test_refusal_by_parser_has_one_log_line(
    port: int, caplog: pytest.LogCaptureFixture, sent: bytes, line: str
) -> None:
    with caplog.at_level("INFO", "sana.access"):
        response = exchange(port, sent)
        metrics = exchange(port, b"GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    caplog.records[:] = [record for record in caplog.records if "/metrics" not in record.getMessage()]
    assert line in logged(response, caplog)
    assert b'sana_http_responses_total{route="unknown",status="%b"} 1.0' % response[9:12] in metrics


def test_accepted_connections_set_nodelay() -> None:
    with (
        listening.listen("127.0.0.1", 0)[0] as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="needs Linux")
def test_stalled_client_dropped_by_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "STALLED_SECONDS", 1)
    with (
        listening.listen("127.0.0.1", 0)[0] as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        accepted.settimeout(20)
        with pytest.raises(TimeoutError, match="Connection timed out"):  # from the kernel, not the socket's own timeout
            accepted.sendall(bytes(1 << 26))
