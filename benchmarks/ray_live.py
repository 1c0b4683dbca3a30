"""The Ray application to load: `serve run` in a cluster of its own on this machine, `serve deploy`, its processes."""

import contextlib
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import yaml

from .live import command_of

ROOT = Path(__file__).parents[1]
SERVE = Path(sys.executable).parent / "serve"
START_SECONDS, STOP_SECONDS = 300.0, 60.0
POLL_SECONDS = 0.2
TOKEN = secrets.token_hex(16)
"""The cluster's token: Ray refuses calls of its dashboard without one."""
MARK = "SANA_BENCHMARK_FOLDER"
"""Variable that all processes of a cluster inherit, so that those of other clusters are left alone."""


def demo_config(folder: Path, replicas: int = 2) -> dict[str, Any]:
    """deploy/ray/demo.yaml with a free port and its files in `folder`."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "ray" / "demo.yaml").read_text())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        config["http_options"]["port"] = free.getsockname()[1]
    application = config["applications"][0]
    application["args"] |= {"SANA_FILES": str(folder / "files"), "SANA_LOG_LEVEL": "warning"}
    application["deployments"][1]["num_replicas"] = replicas
    return config


@dataclass
class RayApplication:
    """A running application; `config` is what was deployed last."""

    folder: Path
    config: dict[str, Any]
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.folder / "serve.log"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.config['http_options']['port']}"

    @property
    def engine(self) -> dict[str, Any]:
        """The part of `config` that describes the deployment `engine`."""
        return self.config["applications"][0]["deployments"][1]

    def write_config(self) -> Path:
        file = self.folder / "application.yaml"
        file.write_text(yaml.safe_dump(self.config))
        return file

    @property
    def dashboard(self) -> str:
        return re.findall(r"http://127\.0\.0\.1:\d+", self.log.read_text())[0]

    def deploy(self) -> None:
        """Applies a changed `config`, as an operator does: replicas whose settings changed are rolled."""
        command = [str(SERVE), "deploy", str(self.write_config()), "-a", self.dashboard]
        variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
        with self.log.open("a") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log, env=os.environ | variables)

    def engines(self) -> list[int]:
        """Process ids of the engine replicas."""
        return [pid for pid in processes(self.folder) if command_of(pid).startswith(b"ray::ServeReplica:sana:engine")]

    def wait_for(self, engines: int, without: Collection[str] = ()) -> float:
        """Waits until so many engine replicas have loaded the model, and returns the seconds it took.

        Args:
            without: ids of replicas that must have ended, as those of a version that is rolled out of use.
        """
        started = time.monotonic()
        while True:
            replicas = self.engine_replicas()
            if list(replicas.values()) == ["RUNNING"] * engines and not replicas.keys() & set(without):
                return time.monotonic() - started
            if time.monotonic() - started > START_SECONDS:
                raise TimeoutError(f"the engine replicas are {replicas} and not {engines}; see {self.log}")
            time.sleep(POLL_SECONDS)

    def engine_replicas(self) -> dict[str, str]:
        """States of the engine replicas by id, as Ray Serve sees them."""
        headers = {"authorization": f"Bearer {TOKEN}"}
        response = httpx2.get(f"{self.dashboard}/api/serve/applications/", headers=headers, timeout=STOP_SECONDS)
        deployments = response.raise_for_status().json()["applications"]["sana"]["deployments"]
        replicas = deployments.get("engine", {}).get("replicas", [])  # none while a new version is built
        return {replica["replica_id"]: replica["state"] for replica in replicas}


@contextlib.contextmanager
def serve_on_ray(config: dict[str, Any], folder: Path) -> Iterator[RayApplication]:
    """Runs the application until the end of the block; `config` is that of a YAML file of Ray Serve."""
    application = RayApplication(folder, config)
    with tempfile.TemporaryDirectory(
        prefix="ray-", ignore_cleanup_errors=True
    ) as scratch:  # paths of sockets are short
        variables = {
            MARK: str(folder),
            "RAY_TMPDIR": scratch,
            "RAY_AUTH_TOKEN": TOKEN,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # else 15, which any other program of this machine starves
            "RAY_raylet_start_wait_time_s": "120",  # for a busy machine
            "RAY_agent_register_timeout_ms": "120000",
            "PYTHONPATH": str(ROOT),
        }
        with application.log.open("w") as log:
            command = [str(SERVE), "run", str(application.write_config())]
            run = subprocess.Popen(command, cwd=ROOT, env=os.environ | variables, stdout=log, stderr=log)
        try:
            wait_until_ready(application, run)
            yield application
        finally:
            run.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                run.wait(STOP_SECONDS)
            for pid in processes(folder):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def processes(folder: Path) -> list[int]:
    """Process ids of the cluster that was started with `folder` as MARK."""
    mark, found = f"{MARK}={folder}\0".encode(), []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # it has just ended
            if process.name.isdecimal() and mark in (process / "environ").read_bytes():
                found.append(int(process.name))
    return found


def wait_until_ready(application: RayApplication, run: "subprocess.Popen[bytes]") -> None:
    started = time.monotonic()
    while True:
        with contextlib.suppress(httpx2.TransportError):
            if httpx2.get(f"{application.url}/ready", timeout=STOP_SECONDS).status_code == httpx2.codes.OK:
                return
        if run.poll() is not None or time.monotonic() - started > START_SECONDS:
            raise RuntimeError(f"the application did not start:\n{application.log.read_text()[-4000:]}")
        time.sleep(POLL_SECONDS)
