"""A local server to load, and how it looks from outside: latency of /health, memory, engine processes."""

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
        """Process ids of its engines; empty while one is being restarted."""
        lists = Path(f"/proc/{self.pid}/task").glob("*/children")  # one file per thread that started children
        found = [int(child) for each in lists for child in each.read_text().split()]
        return [child for child in found if b"spawn_main" in command_of(child)]

    def resident_bytes(self) -> int:
        """Resident memory of the server and its engines."""
        return sum(resident_bytes(pid) for pid in (self.pid, *self.engines()))


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # the process has just ended
        return b""


def resident_bytes(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def serve(*flags: str, environment: dict[str, str] | None = None) -> Iterator[Server]:
    """Runs `sana serve` with the demo model on the CPU; `environment` adds to this process's own."""
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
    response = connection.getresponse()
    assert response.read() and response.status == 200
    print(time.perf_counter() - started, flush=True)
    time.sleep(0.01)
"""


@contextlib.contextmanager
def probe_health(url: str) -> Iterator[list[float]]:
    """Latencies of /health in seconds, complete at the end. A separate process probes, because this one is busy."""
    seconds: list[float] = []
    command = [sys.executable, "-c", HEALTH, url.removeprefix("http://")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seconds.append(float(process.stdout.readline()))  # waited for, so that a short run has one as well
        reader = threading.Thread(target=lambda: seconds.extend(map(float, process.stdout or ())))
        reader.start()
        try:
            yield seconds
        finally:
            process.terminate()
            reader.join()


@contextlib.contextmanager
def sample_memory(server: Server) -> Iterator[list[int]]:
    """Resident memory of the server and its engines in bytes, sampled once a second."""
    samples = [server.resident_bytes()]
    done = threading.Event()

    def sample() -> None:
        while not done.wait(MEMORY_SECONDS):
            samples.append(server.resident_bytes())

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield samples
    finally:
        done.set()
        sampler.join()
