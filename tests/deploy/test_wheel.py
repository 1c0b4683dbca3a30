"""The wheel that the Dockerfile builds, installed and started outside the repository."""

import re
import signal
import subprocess
import threading
import tomllib
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from .conftest import Environment
from .dockerfile import ROOT, STEPS, exec_form, inside

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
PACKAGES = ("engine", "kernels", "server")


def health_check(environment: Environment, port: str) -> int:
    """Exit status of the image's HEALTHCHECK for a server on `port`."""
    program, *arguments = exec_form("HEALTHCHECK")
    return environment.run(str(environment.python.parent / program), *arguments, SANA_PORT=port).returncode


def test_wheel_holds_copied_packages_only(wheel: Path, build_root: Path) -> None:
    (source,) = {inside(build_root, step.workdir) for step in STEPS if step.stage == 0 and step.instruction == "COPY"}
    files = [path for name in PACKAGES for path in (source / name).rglob("*") if path.is_file()]
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = [name for name in archive.namelist() if ".dist-info/" in name]
    assert names == {str(path.relative_to(source)) for path in files}
    assert any(name.endswith("/LICENSE") for name in metadata)


def test_wheel_holds_demo_checkpoint(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "engine/demo/model_index.json" in names
    assert any(re.fullmatch(r"engine/demo/transformer/.*\.safetensors", name) for name in names)


def test_wheel_runs_on_any_platform(wheel: Path) -> None:
    assert wheel.name == f"sana_serve-{VERSION}-py3-none-any.whl"


def test_imports_come_from_wheel(environment: Environment) -> None:
    answer = environment.run(
        str(environment.python), "-c", "import server, engine, kernels as k; print(server, engine, k)"
    )
    assert answer.stdout.count(str(environment.python.parents[1])) == len(PACKAGES), answer
    assert str(ROOT) not in answer.stdout


def test_version_flag_prints_project_version(environment: Environment) -> None:
    answer = environment.run(str(environment.python.parent / "sana"), "--version")
    assert answer.stdout == f"sana {VERSION}\n"


def test_health_check_passes_until_sigterm(environment: Environment, server: tuple[subprocess.Popen[str], str]) -> None:
    process, port = server
    assert health_check(environment, port) == 0
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0
    assert health_check(environment, port) != 0


class LoadingServer(BaseHTTPRequestHandler):
    """A server that still loads its model."""

    def do_GET(self) -> None:
        self.send_response(503)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def loading_port() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), LoadingServer) as loading:
        thread = threading.Thread(target=loading.serve_forever)
        thread.start()
        yield str(loading.server_port)
        loading.shutdown()
        thread.join()


def test_health_check_fails_while_loading(environment: Environment, loading_port: str) -> None:
    assert health_check(environment, loading_port) != 0
