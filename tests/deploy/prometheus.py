"""A real Prometheus with deploy/prometheus/prometheus.yaml, which scrapes one server more often than there."""

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from .dockerfile import ROOT

FOLDER = ROOT / "deploy" / "prometheus"
WAIT_SECONDS = 120.0  # for a busy machine


class Prometheus:
    """Its HTTP API."""

    def __init__(self, url: str) -> None:
        self.client = httpx.Client(base_url=url, timeout=30)

    def get(self, path: str, **params: str) -> Any:
        answer = self.client.get(f"/api/v1/{path}", params=params).json()
        assert answer["status"] == "success", (params, answer)
        return answer["data"]

    def query(self, expression: str) -> list[float]:
        """Values of the series that the expression has now."""
        return [float(series["value"][1]) for series in self.get("query", query=expression)["result"]]

    def wait(self, expression: str) -> None:
        """Waits until the expression has a series."""
        wait_for(lambda: bool(self.query(expression)), expression)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.2)


@contextlib.contextmanager
def running_prometheus(target: str, folder: Path) -> Iterator[Prometheus]:
    """Prometheus that scrapes `target`, a host and port, with its data and log in `folder`."""
    if shutil.which("prometheus") is None:
        pytest.skip("needs prometheus")
    config = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    config["global"] = {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"}
    config["rule_files"] = [str(FOLDER / name) for name in config["rule_files"]]
    [scrape] = config["scrape_configs"]
    [static] = scrape["static_configs"]
    assert static["targets"] == ["127.0.0.1:8000"]
    static["targets"], static["labels"] = [target], {"namespace": "sana", "pod": "sana-0"}  # as in Kubernetes
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    command = ["prometheus", f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data"]
    command += [f"--web.listen-address={address}"]
    log = folder / "prometheus.log"
    with log.open("w") as output, subprocess.Popen(command, cwd=folder, stdout=output, stderr=output) as process:
        prometheus = Prometheus(f"http://{address}")

        def ready() -> bool:
            assert process.poll() is None, log.read_text()
            with contextlib.suppress(httpx.TransportError):
                return prometheus.client.get("/-/ready").status_code == 200
            return False

        try:
            wait_for(ready, "Prometheus is not ready")
            yield prometheus
        finally:
            prometheus.client.close()
            process.terminate()
