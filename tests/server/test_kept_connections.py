"""Connections that a real nginx keeps open to the server between requests, with pauses as long as either side waits."""

import concurrent.futures
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn

from engine import EngineConfig
from server.app import create_app
from server.cli import server_config
from server.flags import serve_flags
from server.listening import listen
from server.protocol import JSONH11Protocol
from server.settings import ServerConfig

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
PROXY_SECONDS, SERVER_SECONDS = 1, 2  # 60 and 75, compressed
CONFIG = """
daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder}; uwsgi_temp_path {folder};
    scgi_temp_path {folder};
    upstream sana {{ server 127.0.0.1:{port}; keepalive 8; keepalive_timeout {seconds}s; }}
    server {{
        listen 127.0.0.1:{own_port};
        location / {{ proxy_pass http://sana; proxy_http_version 1.1; proxy_set_header Connection ""; }}
    }}
}}
"""


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[str]:
    """URL of an nginx in front of a server without an engine."""
    if NGINX is None:
        pytest.skip("needs nginx")
    app = create_app(ServerConfig(EngineConfig()))
    config = uvicorn.Config(
        app, http=JSONH11Protocol, ws="none", lifespan="off", log_config=None, timeout_keep_alive=SERVER_SECONDS
    )
    server = uvicorn.Server(config)
    [listener] = listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    with socket.create_server(("127.0.0.1", 0)) as free:
        own_port = free.getsockname()[1]
    port, path = listener.getsockname()[1], tmp_path / "nginx.conf"
    path.write_text(CONFIG.format(folder=tmp_path, port=port, own_port=own_port, seconds=PROXY_SECONDS))
    nginx = subprocess.Popen([NGINX, "-c", str(path), "-p", str(tmp_path)], stderr=subprocess.DEVNULL)
    url, end = f"http://127.0.0.1:{own_port}", time.monotonic() + 20
    while True:
        try:
            httpx.get(f"{url}/health")
            break
        except httpx.ConnectError:
            assert time.monotonic() < end
            time.sleep(0.05)
    yield url
    nginx.terminate()
    nginx.wait()
    server.should_exit = True
    thread.join()


def test_proxy_loses_no_request_after_pauses(proxy: str) -> None:
    """POST, which nginx does not repeat: 503 is from the server, which has no model, and 502 would be from nginx."""

    def post(pause: float) -> list[int]:
        statuses = []
        with httpx.Client() as client:
            for _ in range(5):
                statuses.append(client.post(f"{proxy}/v1/images/generations", json={"prompt": "a cat"}).status_code)
                time.sleep(pause)
        return statuses

    pauses = [seconds + shift / 100 for seconds in (PROXY_SECONDS, SERVER_SECONDS) for shift in (-4, -2, -1, 0, 1, 2)]
    with concurrent.futures.ThreadPoolExecutor(len(pauses)) as pool:
        assert [status for statuses in pool.map(post, pauses) for status in statuses] == [503] * 5 * len(pauses)


def test_keep_alive_default_exceeds_proxies() -> None:
    assert ServerConfig(EngineConfig()).keep_alive_seconds > 60
    assert server_config(serve_flags().parse_args(["--keep-alive-seconds", "620"]), {}).keep_alive_seconds == 620
