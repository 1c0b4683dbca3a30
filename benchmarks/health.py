"""How fast /health answers while something else goes on."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator

PROBE = """
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
    """Seconds of each answer, complete at the end; in a process of its own, since the caller's is busy itself."""
    seconds: list[float] = []
    command = [sys.executable, "-c", PROBE, url.removeprefix("http://")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield seconds
        finally:
            process.terminate()
            seconds += [float(line) for line in (process.stdout or []) if line.endswith("\n")]
