"""The Dockerfile's build without Docker: the wheel, a clean environment with it, and the server started from there."""

import os
import re
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .distributions import RUNTIME, link_distribution, names_with_dependencies
from .dockerfile import ENVIRONMENT, LAST, STEPS, copy_files, exec_form, inside, values, words_inside

TIMEOUT_SECONDS = 300  # a loaded machine takes minutes for an image


@dataclass(frozen=True)
class Environment:
    """A virtual environment with our wheel, and an empty working directory that is also the home."""

    python: Path
    folder: Path

    @property
    def variables(self) -> dict[str, str]:
        """The image's ENV, with a home and a cache that this machine has."""
        path = f"{self.python.parent}{os.pathsep}{os.environ['PATH']}"
        local = {"PATH": path, "HOME": str(self.folder), "HF_HOME": str(self.folder), "HF_HUB_OFFLINE": "1"}
        return {**ENVIRONMENT, **local}

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.folder,
            env={**self.variables, **variables},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )


@pytest.fixture(scope="session")
def build_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File system of the build stage: its COPY steps, then its `pip wheel`."""
    root = tmp_path_factory.mktemp("build")
    copy_files(root, 0, {})
    (step,) = [step for step in STEPS if step.stage == 0 and step.value.startswith("pip wheel ")]
    command = [sys.executable, "-m", *words_inside(root, step.value)]
    subprocess.run(command, cwd=inside(root, step.workdir), check=True, capture_output=True, timeout=120)
    return root


@pytest.fixture(scope="session")
def image_root(build_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File system of the last stage, as far as its COPY steps fill it."""
    root = tmp_path_factory.mktemp("image")
    copy_files(root, LAST, {"build": build_root})
    return root


@pytest.fixture(scope="session")
def wheel(image_root: Path) -> Path:
    """The wheel that the last stage installs."""
    (path,) = image_root.rglob("*.whl")
    return path


@pytest.fixture(scope="session")
def environment(image_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The last stage's Python: our wheel, and links to the distributions it requires."""
    root = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root)], check=True, timeout=60)
    python = root / "bin" / "python"
    for name in names_with_dependencies(RUNTIME):
        link_distribution(name, root / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages")
    (command,) = [value for value in values("RUN") if value.endswith(".whl")]
    words = words_inside(image_root, command)[1:]
    pip = [sys.executable, "-m", "pip", "--python", str(python), *words, "--no-index", "--no-input"]
    subprocess.run(pip, check=True, capture_output=True, timeout=120)
    return Environment(python, tmp_path_factory.mktemp("elsewhere"))


@pytest.fixture
def server(environment: Environment) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The image's ENTRYPOINT and CMD on a free port: the process, once it is ready, and its port."""
    command = [*exec_form("ENTRYPOINT"), *exec_form("CMD")]
    executable = environment.python.parent / command[0]
    log = environment.folder / "server.log"
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            command,
            executable=executable,
            cwd=environment.folder,
            env={**environment.variables, "SANA_PORT": "0"},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            line = process.stdout.readline()  # empty if the process exits before it is ready
            port = re.search(r"http://127\.0\.0\.1:(\d+)", line)
            assert port, f"{line!r}, then:\n{log.read_text()}"
            with socket.create_connection(("127.0.0.2", int(port[1]))):
                pass  # a container must listen on all its addresses
            yield process, port[1]
        finally:
            process.terminate()
