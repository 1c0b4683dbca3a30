"""Clients that half-close after their request are answered; clients that leave are noticed as soon as before."""

import asyncio
import contextlib
import http.client
import io
import json
import socket
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from urllib.parse import urlsplit

import pytest
import uvicorn
from fastapi import Request
from starlette.responses import Response, StreamingResponse

from engine import EngineConfig
from server.app import create_app
from server.listening import listen
from server.protocol import JSONH11Protocol
from server.routes.images import wait_for_disconnect
from server.settings import ServerConfig

from .live import LiveServer

BODY = {"prompt": "a cat", "size": "256x256", "num_inference_steps": 8}
SLOW_SECONDS = 2.0


def message(body: dict[str, object], request_id: str, version: str = "1.1", headers: str = "") -> bytes:
    content = json.dumps(body)
    head = (
        f"POST /v1/images/generations HTTP/{version}\r\nhost: a\r\nx-request-id: {request_id}\r\n{headers}"
        f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    return (head + content).encode()


def connect(server: LiveServer) -> socket.socket:
    address = urlsplit(server.url)
    return socket.create_connection((address.hostname, address.port), timeout=60)


class Source(io.BytesIO):
    """Received bytes as http.client reads them: it closes each response's file."""

    def makefile(self, mode: str) -> "Source":
        return self

    def close(self) -> None:
        pass


def read_responses(connection: socket.socket, count: int) -> list[tuple[int, bytes]]:
    """Status and body of each response, by a parser that skips only 100 Continue; then the server must close."""
    connection.shutdown(socket.SHUT_WR)
    with connection.makefile("rb") as stream:
        source = Source(stream.read())
    responses = []
    for _ in range(count):
        response = http.client.HTTPResponse(source, method="POST")  # type: ignore[arg-type]
        response.begin()
        responses.append((response.status, response.read()))
    assert source.read() == b""
    return responses


REQUESTS = {
    "image": [message(BODY, "half-image")],
    "connection: close": [message(BODY, "half-close", headers="connection: close\r\n")],
    "stream": [message({**BODY, "stream": True, "partial_images": 1}, "half-stream")],
    "one after the other": [message(BODY, "half-first"), message({**BODY, "n": 2}, "half-second")],
    "refused": [message({"prompt": ""}, "half-refused")],
}


@pytest.mark.parametrize("sent", REQUESTS.values(), ids=REQUESTS)
def test_half_closing_client_is_answered(server: LiveServer, sent: list[bytes]) -> None:
    with connect(server) as connection:
        connection.sendall(b"".join(sent))
        responses = read_responses(connection, len(sent))
    for status, content in responses:
        assert status == (400 if b'"prompt": ""' in sent[0] else 200)
        assert status == 400 or b'"b64_json"' in content
    if b'"stream"' in sent[0]:
        assert b"image_generation.completed" in responses[0][1]


class SlowApp:
    """The server's application with two routes that take a second, and how each of their requests ended."""

    def __init__(self) -> None:
        self.app = create_app(ServerConfig(EngineConfig()))
        self.ends: list[str] = []
        self.app.add_api_route("/stream", self.stream)
        self.app.add_api_route("/whole", self.whole)

    async def stream(self) -> StreamingResponse:
        async def parts() -> AsyncGenerator[bytes]:
            yield b"first "
            try:
                await asyncio.sleep(SLOW_SECONDS)
            except asyncio.CancelledError:
                self.ends.append("left")
                raise
            self.ends.append("answered")
            yield b"last"

        return StreamingResponse(parts())

    async def whole(self, request: Request) -> Response:
        leaving = asyncio.create_task(wait_for_disconnect(request))
        await asyncio.wait((leaving,), timeout=SLOW_SECONDS)
        self.ends.append("left" if leaving.done() else "answered")
        leaving.cancel()
        return Response(b"first last")


@pytest.fixture
def slow() -> Iterator[tuple[SlowApp, int]]:
    """A slow application and its port."""
    slow = SlowApp()
    config = uvicorn.Config(slow.app, http=JSONH11Protocol, ws="none", lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    [listener] = listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield slow, listener.getsockname()[1]
    server.should_exit = True
    thread.join()


LEAVERS = [("stream", "1.1"), ("whole", "1.1"), ("stream", "1.0"), ("whole", "1.0")]


@pytest.mark.parametrize(("path", "version"), LEAVERS)
def test_client_that_leaves_is_noticed_at_once(slow: tuple[SlowApp, int], path: str, version: str) -> None:
    """Nothing is due to be sent to it."""
    app, port = slow
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(f"GET /{path} HTTP/{version}\r\nhost: a\r\n\r\n".encode())
        received = b""
        while path == "stream" and b"first" not in received:
            received += connection.recv(65536)
        time.sleep(0.2)
    left = time.monotonic()
    while not app.ends:
        time.sleep(0.01)
    assert time.monotonic() - left < SLOW_SECONDS / 2
    assert app.ends == ["left"]


@pytest.mark.parametrize("path", ["stream", "whole"])
def test_client_that_closes_after_half_close_is_noticed(slow: tuple[SlowApp, int], path: str) -> None:
    """As HAProxy does: the first probe arrives before the socket is closed."""
    app, port = slow
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(f"GET /{path} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
        time.sleep(0.1)
        connection.shutdown(socket.SHUT_WR)
        time.sleep(0.2)
        connection.settimeout(0.1)
        with contextlib.suppress(TimeoutError):
            while connection.recv(65536):  # closing with unread data would reset the connection
                pass
    while not app.ends:
        time.sleep(0.01)
    assert app.ends == ["left"]


@pytest.mark.parametrize("paths", [["stream"], ["whole"], ["whole", "stream"], ["stream", "stream"]])
def test_half_closing_client_gets_slow_answer(slow: tuple[SlowApp, int], paths: list[str]) -> None:
    app, port = slow
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall("".join(f"GET /{path} HTTP/1.1\r\nhost: a\r\n\r\n" for path in paths).encode())
        time.sleep(0.3)
        assert read_responses(connection, len(paths)) == [(200, b"first last")] * len(paths)
    assert app.ends == ["answered"] * len(paths)


def test_half_close_with_incomplete_body_ends_request(server: LiveServer) -> None:
    with connect(server) as connection:
        connection.sendall(message(BODY, "half-body")[:-5])
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(65536) == b""
    server.logged("half-body POST /v1/images/generations 499")
