"""A real `sana serve` in its own process, on a free port."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import httpx

START_SECONDS = 300.0  # generous, for a busy machine
STOP_SECONDS = 30.0
ACCEPT_SECONDS = 30.0
SANA = [sys.executable, "-m", "server.cli"]
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("SANA_")},
    "PYTHONPATH": str(ROOT),
}


def images_seen(url: str) -> float:
    """Images that the server has accepted and not dropped: queued, running or finished."""
    counted = re.findall(
        r"^sana_(?:queued_images|running_images|images_total) (\S+)", httpx.get(f"{url}/metrics").text, re.M
    )
    return sum(map(float, counted))


@contextmanager
def request_under_way(url: str, request_id: str, body: dict[str, Any], key: str = "any") -> Iterator[None]:
    """A client whose request is accepted inside, which reads nothing and disconnects at the end."""
    address = urlsplit(url)
    content = json.dumps(body)
    head = (
        f"POST /v1/images/generations HTTP/1.1\r\nhost: {address.netloc}\r\nx-request-id: {request_id}\r\n"
        f"authorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    before, end = images_seen(url), time.monotonic() + ACCEPT_SECONDS
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall((head + content).encode())
        while (seen := images_seen(url)) <= before:
            before = min(before, seen)  # an earlier request may just be leaving
            assert time.monotonic() < end, f"request {request_id} was not accepted"
            time.sleep(0.02)
        yield


def run_sana(*flags: str, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """`sana` with these flags and environment variables, run to its end."""
    command, environment = [*SANA, *flags], {**ENVIRONMENT, **variables}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=START_SECONDS)


class LiveServer:
    """Context manager: the server is up inside, gone outside. `status` is how it ended."""

    def __init__(self, log: Path, *flags: str, environment: dict[str, str] = ENVIRONMENT) -> None:
        self.log = log
        with log.open("w") as stderr:
            command = [*SANA, "serve", "--devices", "cpu", "--port", "0", *flags]
            self.process = subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True, start_new_session=True
            )
        self.url = ""
        self.status: int | None = None

    def __enter__(self) -> "LiveServer":
        assert self.process.stdout is not None
        watchdog = threading.Timer(START_SECONDS, self.process.kill)
        watchdog.start()
        line = self.process.stdout.readline()
        watchdog.cancel()
        found = re.search(r"http://\S+", line)
        if found is None:
            self.stop()
            raise AssertionError(f"the server did not start: {line!r}\n{self.log.read_text()}")
        self.url = found[0]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def logged(self, words: str, seconds: float = 20.0) -> str:
        """The log, once it contains `words`: a request is logged after its response was sent."""
        end = time.monotonic() + seconds
        while words not in (log := self.log.read_text()):
            assert time.monotonic() < end, f"no {words!r} in the log:\n{log}"
            time.sleep(0.05)
        return log

    def stop(self) -> None:
        """Sends SIGTERM and waits for the end."""
        if self.status is None:
            self.process.terminate()
            self.wait()

    def wait(self) -> int:
        """Waits for the end and returns the exit status."""
        try:
            self.status = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.status = self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.status
