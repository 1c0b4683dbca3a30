"""A server of our own to load, and what is seen of it from outside: latency of /health, memory, engine processes."""

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MEMORY_SECONDS = 1.0


@dataclass(frozen=True)
class Server:
    url: str
    pid: int

    def engines(self) -> list[int]:
        """Its engine processes; none while one is being restarted."""
        lists = Path(f"/proc/{self.pid}/task").glob("*/children")  # by the thread that started them
        found = [int(child) for each in lists for child in each.read_text().split()]
        return [child for child in found if b"spawn_main" in command_of(child)]

    def resident_bytes(self) -> int:
        """Of the server and its engines."""
        return sum(resident_bytes(pid) for pid in (self.pid, *self.engines()))


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has just ended
        return b""


def resident_bytes(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def serve(*flags: str, environment: dict[str, str] | None = None) -> Iterator[Server]:
    """A server with the demo model on the CPU."""
    command = [sys.executable, "-m", "server.cli", "serve", "--device", "cpu", "--port", "0", "--log-level", "error"]
    with subprocess.Popen(
        [*command, *flags], stdout=subprocess.PIPE, text=True, env=os.environ | (environment or {})
    ) as process:
        assert process.stdout is not None
        try:
            yield Server(re.findall(r"http://\S+", process.stdout.readline())[0], process.pid)
        finally:
            process.terminate()


HEALTH = """
import sys, time
from http.client import HTTPConnection
connection = HTTPConnection(sys.argv[1])
while True:
    started = time.perf_counter()
    connection.request("GET", "/health")
    answer = connection.getresponse()
    assert answer.read() and answer.status == 200
    print(time.perf_counter() - started, flush=True)
    time.sleep(0.01)
"""


@contextlib.contextmanager
def health_asked(url: str) -> Iterator[list[float]]:
    """Seconds of each answer, complete at the end; in a process of its own, since this one is busy itself."""
    seconds: list[float] = []
    command = [sys.executable, "-c", HEALTH, url.removeprefix("http://")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        reader = threading.Thread(target=lambda: seconds.extend(map(float, process.stdout or ())))
        reader.start()
        try:
            yield seconds
        finally:
            process.terminate()
            reader.join()


@contextlib.contextmanager
def memory_watched(server: Server) -> Iterator[list[int]]:
    """Resident bytes of the server and its engines, once a second."""
    samples: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(MEMORY_SECONDS):
            samples.append(server.resident_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield samples
    finally:
        done.set()
        watcher.join()
