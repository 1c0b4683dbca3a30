"""The Makefile's decisions, seen through `make --dry-run` and through stand-ins for unfit machines."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from .dockerfile import ROOT

CPU_INDEX = "download.pytorch.org/whl/cpu"


def make(*words: str, cwd: Path, path: str = os.environ["PATH"]) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": path, "HOME": str(cwd), "HOST": "x86_64-conda-linux-gnu"}  # as conda's compilers set it
    return subprocess.run(["make", *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


def script(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what `make` reads, with no .venv yet."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "tests" / "clients", tmp_path / "tests" / "clients", ignore=shutil.ignore_patterns("node_*"))
    return tmp_path


def test_without_a_driver_torch_comes_from_the_cpu_index(checkout: Path) -> None:
    tools = checkout / "bin"
    tools.mkdir()
    for tool in ("make", "sh"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    plan = make("--dry-run", "install", cwd=checkout, path=str(tools)).stdout
    (line,) = [line for line in plan.splitlines() if CPU_INDEX in line]
    assert line.endswith(" torch")
    assert "--no-deps" in line


def test_with_a_driver_torch_comes_from_the_package_index(checkout: Path) -> None:
    script(checkout / "nvidia-smi", "")
    plan = make("--dry-run", "install", cwd=checkout, path=f"{checkout}:{os.environ['PATH']}").stdout
    assert CPU_INDEX not in plan
    assert "pip install" in plan


@pytest.mark.parametrize("target", ["install", "serve", "test"])
def test_every_command_sets_itself_up_from_the_pins(checkout: Path, target: str) -> None:
    plan = make("--dry-run", target, cwd=checkout).stdout
    installs = [line for line in plan.splitlines() if "pip install" in line]
    assert installs
    assert all("-c constraints.txt" in line for line in installs)


def test_the_second_run_installs_nothing_until_the_pins_change(checkout: Path) -> None:
    stamp = checkout / ".venv" / "installed"
    stamp.parent.mkdir()
    stamp.touch()
    assert "pip install" not in make("--dry-run", "install", cwd=checkout).stdout
    os.utime(stamp, (0, 0))
    assert "pip install" in make("--dry-run", "install", cwd=checkout).stdout


def test_an_old_python_is_refused_in_one_line(checkout: Path) -> None:
    answer = make("install", f"PYTHON={script(checkout / 'old', 'exit 1')}", cwd=checkout)
    assert answer.returncode != 0
    assert answer.stderr.startswith("Python 3.11 or newer is needed")
    assert not (checkout / ".venv").exists()


def test_a_python_without_venv_is_refused_in_one_line(checkout: Path) -> None:
    bare = script(checkout / "bare", 'case "$2" in *ensurepip*) exit 1;; *) exit 0;; esac')
    answer = make("install", f"PYTHON={bare}", cwd=checkout)
    assert answer.returncode != 0
    assert "apt install python3-venv" in answer.stderr.splitlines()[0]
    assert not (checkout / ".venv").exists()


def test_serve_passes_its_variables_on(checkout: Path) -> None:
    plan = make("--dry-run", "serve", "MODEL=a/b", "PORT=1", "HOST=h", "ARGS=--dtype bfloat16", cwd=checkout).stdout
    assert ".venv/bin/sana serve --model a/b --host h --port 1 --dtype bfloat16" in plan


def test_serve_listens_on_this_machine_alone_by_default(checkout: Path) -> None:
    plan = make("--dry-run", "serve", cwd=checkout).stdout
    assert ".venv/bin/sana serve --model demo --host 127.0.0.1 --port 8000" in plan


def test_ci_calls_make_test() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert "make test" in (ROOT / ".ci" / "run").read_text()
