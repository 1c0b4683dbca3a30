"""The configurations of docs/operations.md, run by the real proxies in front of a real server."""

import concurrent.futures
import contextlib
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from .conftest import MODEL
from .live import LiveServer
from .proxies import PROXIES, documented, replaced, running_proxy

SMALL = {"prompt": "a red circle", "size": "64x64", "num_inference_steps": 1}
SERVER = "127.0.0.1:8000"


def address(server: LiveServer) -> str:
    return server.url.removeprefix("http://")


@pytest.fixture(params=PROXIES)
def proxy_url(request: pytest.FixtureRequest, server: LiveServer, tmp_path: Path) -> Iterator[str]:
    """Base URL of the server through the proxy."""
    proxy = request.param
    with running_proxy(proxy, tmp_path, replaced(documented(proxy), (SERVER, address(server)))) as url:
        yield url


def test_documented_proxy_forwards_everything(proxy_url: str) -> None:
    """A response, an image's URL that leads through the proxy again, and a stream that is not buffered."""
    with httpx.Client(base_url=proxy_url, timeout=120) as client:
        assert client.post("/v1/images/generations", json=SMALL).status_code == 200
        response = client.post("/v1/images/generations", json={**SMALL, "response_format": "url"})
        url = response.json()["data"][0]["url"]
        assert url.startswith(f"{proxy_url}/files/")
        assert client.get(url).content.startswith(b"\x89PNG")
        wrong = client.get("/v1/v1/models").json()["error"]["message"]
        assert wrong.endswith(f"base URL to {proxy_url}/v1")
        body = {**SMALL, "num_inference_steps": 100, "size": "256x256", "stream": True}
        with client.stream("POST", "/v1/images/generations", json=body) as stream:
            arrivals = [time.monotonic() for _ in stream.iter_bytes()]
        assert len(arrivals) > 10  # a buffered response would arrive in few pieces, all at the end
        assert arrivals[-1] - arrivals[0] > 0.1


def test_proxy_passes_on_that_client_left(proxy_url: str, server: LiveServer) -> None:
    """Otherwise the device works for nobody: HAProxy needs `option abortonclose`, and Caddy no `flush_interval -1`."""
    body = {**SMALL, "size": "256x256", "num_inference_steps": 100, "n": 10}
    request_id = f"left-{proxy_url.rpartition(':')[2].replace('/', '-')}"
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{proxy_url}/v1/images/generations", json=body, headers={"x-request-id": request_id}, timeout=1)
    server.logged(f"{request_id} POST /v1/images/generations 499")


BALANCED = {
    "nginx": (
        (f"server {SERVER};", "server FIRST; server SECOND;"),
        ("proxy_buffering off;", "proxy_buffering off; proxy_next_upstream error timeout http_503 non_idempotent;"),
    ),
    "caddy": ((f"{SERVER} {{", "FIRST SECOND {\n\t\thealth_uri /ready\n\t\thealth_interval 200ms"),),
    "haproxy": (
        (
            f"server sana {SERVER} check",
            "balance roundrobin\n    default-server inter 200ms\n"
            "    server first FIRST check\n    server second SECOND check",
        ),
    ),
}
"""Changes of the documented configurations for two servers, with checks ten times as often as by default."""


def test_rolling_stop_under_load_refuses_nobody(server: LiveServer, tmp_path: Path) -> None:
    """Every request is answered, or told to come again, while one of two servers stops behind each proxy."""
    flags = ["--drain-seconds", "3"]
    stopped = threading.Event()

    def post_until_stopped(url: str) -> list[httpx.Response]:
        answers: list[httpx.Response] = []
        with httpx.Client(base_url=url, timeout=60) as client:
            while not stopped.is_set():
                answers.append(client.post("/v1/images/generations", json=SMALL))
        return answers

    with contextlib.ExitStack() as stack:
        leaving = stack.enter_context(LiveServer(tmp_path / "log", "--model", MODEL, *flags))
        places = (("FIRST", address(leaving)), ("SECOND", address(server)))
        urls = [
            stack.enter_context(running_proxy(proxy, tmp_path, replaced(documented(proxy), *BALANCED[proxy], *places)))
            for proxy in PROXIES
        ]
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(2 * len(urls)))
        clients = [pool.submit(post_until_stopped, url) for url in urls for _ in range(2)]
        time.sleep(1)
        leaving.process.send_signal(signal.SIGTERM)
        assert leaving.wait() == 0
        time.sleep(1)  # now behind the proxies is only one server
        stopped.set()
        answers = [answer for client in clients for answer in client.result()]
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses.keys() <= {200, 429, 503}
    assert all(int(answer.headers["retry-after"]) > 0 for answer in answers if answer.status_code != 200)
    assert statuses[200] >= len(clients)
