"""Connections that real proxies keep open to a server between requests, with pauses as long as either side waits."""

import concurrent.futures
import http.client
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from engine import EngineConfig
from server.cli import server_config
from server.flags import serve_flags
from server.settings import ServerConfig

from .conftest import MODEL
from .live import LiveServer
from .proxies import PROXIES, documented, replaced, running_proxy

PROXY_SECONDS, SERVER_SECONDS = 0.5, 1  # 60 and 75, compressed
CLIENTS, REQUESTS = 100, 5
IMAGE = {"prompt": "a cat", "size": "32x32", "num_inference_steps": 1}
COMPRESSED = {
    "nginx": ("keepalive 16;", f"keepalive 16; keepalive_timeout {PROXY_SECONDS * 1000:.0f}ms;"),
    "caddy": ("transport http {", f"transport http {{\n\t\t\tkeepalive {PROXY_SECONDS}s"),
    "haproxy": (" check\n", " check pool-purge-delay 66ms\n"),  # after which it closes half of them; by default 5 s
}


@pytest.fixture(scope="module")
def impatient_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server that closes idle connections after a second."""
    log = tmp_path_factory.mktemp("impatient") / "log"
    with LiveServer(log, "--model", MODEL, "--keep-alive-seconds", str(SERVER_SECONDS)) as server:
        yield server


@pytest.mark.parametrize("proxy", PROXIES)
def test_proxy_loses_no_request_after_pauses(proxy: str, impatient_server: LiveServer, tmp_path: Path) -> None:
    """POST alone, which proxies do not repeat. Most are refused by the server, to be cheap; the last gets an image."""
    address = impatient_server.url.removeprefix("http://")
    snippet = replaced(documented(proxy), ("127.0.0.1:8000", address), COMPRESSED[proxy])

    def post(number: int) -> list[int]:
        pause = (PROXY_SECONDS, SERVER_SECONDS)[number % 2] + (number % 13 - 6) / 200
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        time.sleep(number / CLIENTS)
        statuses = []
        for k in range(REQUESTS):
            body = IMAGE if k == REQUESTS - 1 and number % 5 == 0 else {**IMAGE, "n": 0}
            headers = {"content-type": "application/json"}
            connection.request("POST", urlsplit(url).path + "/v1/images/generations", json.dumps(body), headers)
            with connection.getresponse() as response:
                response.read()
            assert response.headers["x-request-id"]  # from the server; a proxy's own 400 has none
            statuses.append(response.status)
            time.sleep(pause)
        connection.close()
        return statuses

    with running_proxy(proxy, tmp_path, snippet) as url, concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        statuses = Counter(status for answered in pool.map(post, range(CLIENTS)) for status in answered)
    assert statuses == {400: CLIENTS * REQUESTS - CLIENTS // 5, 200: CLIENTS // 5}


def test_keep_alive_default_exceeds_proxies() -> None:
    assert ServerConfig(EngineConfig()).keep_alive_seconds > 60
    assert server_config(serve_flags().parse_args(["--keep-alive-seconds", "620"]), {}).keep_alive_seconds == 620
