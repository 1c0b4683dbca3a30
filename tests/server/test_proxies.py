"""The configurations of docs/operations.md, run by the real proxies in front of a real server."""

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from .live import ROOT, LiveServer

PAGE = (ROOT / "docs" / "operations.md").read_text()
START_SECONDS = 30.0
SMALL = {"prompt": "a red circle", "size": "64x64", "num_inference_steps": 1}
NGINX = "daemon off; pid {folder}/pid; error_log stderr; events {{}} http {{ access_log off; {temporary} {snippet} }}"
TEMPORARY = "".join(
    f"{kind}_temp_path {{folder}}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def command_of(proxy: str, folder: Path, snippet: str) -> list[str]:
    """The proxy's command, with the snippet as the configuration."""
    file = folder / "configuration"
    if proxy == "nginx":
        snippet = NGINX.format(folder=folder, temporary=TEMPORARY.format(folder=folder), snippet=snippet)
    if proxy == "caddy":
        snippet = "{\n\tadmin off\n}\n" + snippet
    file.write_text(snippet)
    return {
        "nginx": ["nginx", "-c", str(file), "-p", str(folder)],
        "caddy": ["caddy", "run", "--config", str(file), "--adapter", "caddyfile"],
        "haproxy": ["haproxy", "-f", str(file)],
    }[proxy]


@pytest.fixture(params=["nginx", "caddy", "haproxy"])
def proxy_url(
    request: pytest.FixtureRequest, server: LiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Base URL of the server through the proxy."""
    proxy, port = request.param, free_port()
    if shutil.which(proxy) is None:
        pytest.skip(f"needs {proxy}")
    [snippet] = re.findall(rf"^```{proxy}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    snippet = snippet.replace("8080", str(port)).replace("127.0.0.1:8000", server.url.removeprefix("http://"))
    monkeypatch.setenv("HOME", str(tmp_path))  # Caddy writes there
    url = f"http://127.0.0.1:{port}" + ("/sana" if proxy == "nginx" else "")
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command_of(proxy, tmp_path, snippet), stdout=log, stderr=log)
    try:
        end = time.monotonic() + START_SECONDS
        while not is_ready(url):
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < end, (tmp_path / "log").read_text()
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(10)


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready").status_code == 200
    except httpx.TransportError:
        return False


def test_documented_proxy_forwards_everything(proxy_url: str) -> None:
    """A response, an image's URL that leads through the proxy again, and a stream that is not buffered."""
    with httpx.Client(base_url=proxy_url, timeout=120) as client:
        assert client.post("/v1/images/generations", json=SMALL).status_code == 200
        response = client.post("/v1/images/generations", json={**SMALL, "response_format": "url"})
        url = response.json()["data"][0]["url"]
        assert url.startswith(f"{proxy_url}/files/")
        assert client.get(url).content.startswith(b"\x89PNG")
        body = {**SMALL, "num_inference_steps": 100, "size": "256x256", "stream": True}
        with client.stream("POST", "/v1/images/generations", json=body) as stream:
            arrivals = [time.monotonic() for _ in stream.iter_bytes()]
        assert len(arrivals) > 10  # a buffered response would arrive in few pieces, all at the end
        assert arrivals[-1] - arrivals[0] > 0.1
