"""The Makefile's decisions: `make --dry-run`, and scripts that stand in for unsuitable Pythons."""

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
    """Copies of the files that `make` reads, without a .venv."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "tests" / "clients", tmp_path / "tests" / "clients", ignore=shutil.ignore_patterns("node_*"))
    return tmp_path


def test_torch_without_driver_comes_from_cpu_index(checkout: Path) -> None:
    tools = checkout / "bin"
    tools.mkdir()
    for tool in ("make", "sh"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    plan = make("--dry-run", "install", cwd=checkout, path=str(tools)).stdout
    (line,) = [line for line in plan.splitlines() if CPU_INDEX in line]
    assert line.endswith(" torch")
    assert "--no-deps" in line


def test_torch_with_driver_comes_from_package_index(checkout: Path) -> None:
    script(checkout / "nvidia-smi", "")
    plan = make("--dry-run", "install", cwd=checkout, path=f"{checkout}:{os.environ['PATH']}").stdout
    assert CPU_INDEX not in plan
    assert "pip install" in plan


@pytest.mark.parametrize("target", ["install", "serve", "test"])
def test_target_installs_pinned_versions(checkout: Path, target: str) -> None:
    plan = make("--dry-run", target, cwd=checkout).stdout
    installs = [line for line in plan.splitlines() if "pip install" in line]
    assert installs
    assert all("-c constraints.txt" in line for line in installs)


def test_newest_versions_are_not_pinned(checkout: Path) -> None:
    plan = make("--dry-run", "test-newest", cwd=checkout).stdout
    (line,) = [line for line in plan.splitlines() if "--editable" in line]
    assert "--upgrade-strategy eager" in line
    assert "constraints.txt" not in line
    assert ".venv/" not in plan


def test_install_repeats_only_after_pins_change(checkout: Path) -> None:
    stamp = checkout / ".venv" / "installed"
    stamp.parent.mkdir()
    stamp.touch()
    assert "pip install" not in make("--dry-run", "install", cwd=checkout).stdout
    os.utime(stamp, (0, 0))
    assert "pip install" in make("--dry-run", "install", cwd=checkout).stdout


def test_old_python_is_rejected_in_one_line(checkout: Path) -> None:
    answer = make("install", f"PYTHON={script(checkout / 'old', 'exit 1')}", cwd=checkout)
    assert answer.returncode != 0
    assert answer.stderr.startswith("Python must be 3.11 or newer")
    assert not (checkout / ".venv").exists()


def test_python_without_venv_is_rejected_in_one_line(checkout: Path) -> None:
    bare = script(checkout / "bare", 'case "$2" in *ensurepip*) exit 1;; *) exit 0;; esac')
    answer = make("install", f"PYTHON={bare}", cwd=checkout)
    assert answer.returncode != 0
    assert "apt install python3-venv" in answer.stderr.splitlines()[0]
    assert not (checkout / ".venv").exists()


def test_serve_passes_variables_as_flags(checkout: Path) -> None:
    plan = make("--dry-run", "serve", "MODEL=a/b", "PORT=1", "HOST=h", "ARGS=--dtype bfloat16", cwd=checkout).stdout
    assert ".venv/bin/sana serve --model a/b --host h --port 1 --dtype bfloat16" in plan


def test_serve_without_variables_leaves_settings_to_sana(checkout: Path) -> None:
    plan = make("--dry-run", "serve", cwd=checkout).stdout.split()
    assert plan[-2:] == [".venv/bin/sana", "serve"]


def test_ci_script_runs_make_test(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    for name in ("make", "dpkg"):  # every package counts as installed
        script(tmp_path / name, f'echo "{name} $*" >> {calls}')
    variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run([ROOT / ".ci" / "run"], cwd=tmp_path, env=variables, check=True, timeout=60)
    assert calls.read_text().splitlines()[-1] == "make test"


def test_ci_script_failure_is_reported(tmp_path: Path) -> None:
    script(tmp_path / "make", "exit 1")
    script(tmp_path / "dpkg", "")
    variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert subprocess.run([ROOT / ".ci" / "run"], cwd=tmp_path, env=variables, timeout=60).returncode != 0
