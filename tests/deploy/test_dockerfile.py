"""The Dockerfile's steps that can be checked without Docker; test_wheel.py runs the image's commands."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path, PurePosixPath

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from server.settings import ServerConfig

from ..commands import help_of
from .dockerfile import (
    DOCKERFILE,
    ENVIRONMENT,
    LAST,
    ROOT,
    STEPS,
    Step,
    context_files,
    context_sources,
    exec_form,
    ignored,
    inside,
    values,
)

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RUNS = [(step, command.split()) for step in STEPS if step.instruction == "RUN" for command in step.value.split("&&")]
PIP_INSTALLS = [(step, words) for step, words in RUNS if words[:2] == ["pip", "install"]]
(USERADD,) = [words for _, words in RUNS if words[0] == "useradd"]


@pytest.mark.parametrize("image", sorted(set(DOCKERFILE.parent_images)))
def test_base_image_python_is_supported(image: str) -> None:
    (version,) = re.findall(r"^python:(\d+\.\d+)-", image)
    assert version in SpecifierSet(PROJECT["requires-python"])


@pytest.mark.parametrize("source", sorted(context_sources()))
def test_copied_source_is_in_build_context(source: str) -> None:
    assert list(context_files(source))


def test_build_context_holds_copied_sources_only() -> None:
    context = {path.name for path in ROOT.iterdir() if not ignored(PurePosixPath(path.name))}
    assert context == context_sources()


def test_build_context_excludes_bytecode() -> None:
    assert not ignored(PurePosixPath("engine/worker/core.py"))
    assert ignored(PurePosixPath("engine/worker/__pycache__/core.cpython-311.pyc"))


@pytest.mark.parametrize(("step", "words"), PIP_INSTALLS, ids=[words[-1] for _, words in PIP_INSTALLS])
def test_pip_install_reads_copied_constraints(step: Step, words: list[str], build_root: Path, image_root: Path) -> None:
    path = step.workdir / words[words.index("--constraint") + 1]
    copied = inside((build_root, image_root)[step.stage], path)
    assert copied.read_bytes() == (ROOT / "constraints.txt").read_bytes()


def test_image_user_exists_and_is_not_root() -> None:
    user = values("USER")[-1]
    assert int(user) > 0  # a number, since the runAsNonRoot of Kubernetes cannot check a name
    assert user == USERADD[USERADD.index("--uid") + 1]


def test_image_user_runs_no_build_step() -> None:
    instructions = [step.instruction for step in STEPS if step.stage == LAST]
    assert "RUN" not in instructions[instructions.index("USER") :]


def test_downloaded_weights_are_in_volume_of_user() -> None:
    program = "from huggingface_hub.constants import HF_HUB_CACHE; print(HF_HUB_CACHE)"
    cache = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    (volume,) = values("VOLUME")
    assert PurePosixPath(cache.stdout.strip()).is_relative_to(volume)
    assert any({f"--owner={USERADD[-1]}", volume} <= set(words) for _, words in RUNS)


def test_entry_point_is_console_script() -> None:
    assert exec_form("ENTRYPOINT") == list(PROJECT["scripts"])


def test_exposed_port_is_server_port() -> None:
    assert values("EXPOSE") == [ENVIRONMENT["SANA_PORT"]]


def test_image_installs_c_compiler_for_triton() -> None:
    (packages,) = [words for _, words in RUNS if words[:2] == ["apt-get", "install"]]
    assert {"gcc", "libc6-dev"} <= set(packages)


def test_compose_service_matches_image() -> None:
    compose = ROOT / "deploy" / "compose.yaml"
    service = yaml.safe_load(compose.read_text())["services"]["sana"]
    assert (compose.parent / service["build"] / "Dockerfile").is_file()
    assert int(service["stop_grace_period"].removesuffix("s")) > ServerConfig.grace_seconds
    assert [port.rpartition(":")[2] for port in service["ports"]] == values("EXPOSE")
    assert [volume.rpartition(":")[2] for volume in service["volumes"]] == values("VOLUME")


def test_compose_and_image_variables_are_settings() -> None:
    text = (ROOT / "deploy" / "compose.yaml").read_text() + (ROOT / "Dockerfile").read_text()
    named = set(re.findall(r"\bSANA_[A-Z_]+", text))
    assert named
    assert named <= set(re.findall(r"\bSANA_[A-Z_]+", help_of("sana", "serve")))
