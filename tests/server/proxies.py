"""Real nginx, Caddy and HAProxy, with the configurations of docs/operations.md or changed ones."""

import contextlib
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from .live import ENVIRONMENT, ROOT

PROXIES = ["nginx", "caddy", "haproxy"]
PAGE = (ROOT / "docs" / "operations.md").read_text()
START_SECONDS = 30.0
NGINX = "daemon off; pid {folder}/pid; error_log stderr; events {{}} http {{ access_log off; {temporary} {snippet} }}"
TEMPORARY = "".join(
    f"{kind}_temp_path {{folder}}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
)


def documented(language: str) -> str:
    """The block of docs/operations.md in this language."""
    [snippet] = re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    return str(snippet)


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    """The text with each old part, which it must contain, replaced by the new one."""
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    return text


@contextlib.contextmanager
def running_proxy(proxy: str, folder: Path, snippet: str) -> Iterator[str]:
    """Base URL of the server through the proxy, whose configuration listens on port 8080."""
    if shutil.which(proxy) is None:
        pytest.skip(f"needs {proxy}")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    url = f"http://127.0.0.1:{port}" + ("/sana" if proxy == "nginx" else "")
    environment = {**ENVIRONMENT, "HOME": str(folder)}  # Caddy writes there
    command = command_of(proxy, folder, replaced(snippet, ("8080", str(port))))
    with (folder / f"{proxy}.log").open("w+") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            end = time.monotonic() + START_SECONDS
            while not is_ready(url):
                assert process.poll() is None, (folder / f"{proxy}.log").read_text()
                assert time.monotonic() < end, (folder / f"{proxy}.log").read_text()
                time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            process.wait(10)


def command_of(proxy: str, folder: Path, snippet: str) -> list[str]:
    """The proxy's command, with the snippet as the configuration."""
    file = folder / f"{proxy}.conf"
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


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready").status_code == 200
    except httpx.TransportError:
        return False
