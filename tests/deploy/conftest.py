"""What the Dockerfile builds, built here: the wheel, a clean environment with it, and the server started from that."""

import os
import re
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .distributions import RUNTIME, link_distribution, names_with_dependencies
from .dockerfile import ROOT, copy_into, exec_form, texts

READY_SECONDS = 120


@dataclass(frozen=True)
class Environment:
    """A virtual environment that holds our wheel, and a folder and a home that hold nothing."""

    python: Path
    folder: Path

    @property
    def variables(self) -> dict[str, str]:
        path = f"{self.python.parent}{os.pathsep}{os.environ['PATH']}"
        return {"PATH": path, "HOME": str(self.folder), "HF_HOME": str(self.folder), "HF_HUB_OFFLINE": "1"}

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.folder, env=self.variables, capture_output=True, text=True, timeout=READY_SECONDS
        )


@pytest.fixture(scope="session")
def build_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What stands in the build stage's working directory after its COPY steps."""
    folder = tmp_path_factory.mktemp("src")
    copy_into(folder, stage=0)
    return folder


@pytest.fixture(scope="session")
def wheel(build_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made by the build stage's own command."""
    target = tmp_path_factory.mktemp("wheels")
    (command,) = [text for text in texts("RUN", stage=0) if text.startswith("pip wheel ")]
    words = [str(target) if word == "/wheels" else word for word in shlex.split(command)]
    subprocess.run([sys.executable, "-m", *words], cwd=build_folder, check=True, capture_output=True, timeout=120)
    (path,) = target.iterdir()
    return path


@pytest.fixture(scope="session")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The last stage's Python: our wheel and what it declares, linked here from where the tests have it."""
    root = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root], check=True, timeout=60)
    python = root / "bin" / "python"
    for name in names_with_dependencies(RUNTIME):
        link_distribution(name, root / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages")
    (command,) = [text for text in texts("RUN") if text.endswith(" /wheels/*.whl")]
    words = command.replace("/wheels/*.whl", str(wheel)).replace("/constraints.txt", str(ROOT / "constraints.txt"))
    pip = [sys.executable, "-m", "pip", "--python", str(python), *shlex.split(words)[1:], "--no-index", "--no-input"]
    subprocess.run(pip, check=True, capture_output=True, timeout=120)
    return Environment(python, tmp_path_factory.mktemp("elsewhere"))


@pytest.fixture
def server(environment: Environment) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The image's ENTRYPOINT and CMD, on a free port: the process, once it has said that it serves, and its port."""
    command = [*exec_form("ENTRYPOINT"), *exec_form("CMD"), "--port", "0"]
    executable = environment.python.parent / command[0]
    log = environment.folder / "server.log"
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            command,
            executable=executable,
            cwd=environment.folder,
            env=environment.variables,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            line = process.stdout.readline()  # ends with the process, if it never serves
            port = re.search(r"http://0\.0\.0\.0:(\d+)", line)
            assert port, f"{line!r}, then:\n{log.read_text()}"
            yield process, port[1]
        finally:
            process.terminate()
