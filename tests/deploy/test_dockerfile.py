"""Every step of the Dockerfile that can be judged without running it; test_wheel.py runs the others."""

import re
import shlex
import tomllib

import pytest
import yaml

from .dockerfile import LAST, ROOT, STEPS, context_copies, copied_files, environment, exec_form, ignored, texts

PIP_INSTALLS = [
    command for step in STEPS if step.word == "RUN" for command in step.text.split("&&") if "pip inst" in command
]


def test_two_stages_share_one_pinned_base() -> None:
    bases = [step.text.split(" AS ")[0] for step in STEPS if step.word == "FROM"]
    assert len(bases) == 2
    assert len(set(bases)) == 1
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", bases[0])


def test_the_base_is_a_python_we_support() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (version,) = re.findall(r"python:3\.(\d+)-", texts("FROM")[0])
    (least,) = re.findall(r">=3\.(\d+)", project["requires-python"])
    assert int(version) >= int(least)


@pytest.mark.parametrize(
    "source",
    sorted({name for stage in (0, 1) for text in context_copies(stage) for name in text.split()[:-1]}),
)
def test_what_is_copied_exists_and_is_not_ignored(source: str) -> None:
    assert list(copied_files(source))


@pytest.mark.parametrize(
    "path", [".git/HEAD", ".venv/bin/sana", "tests/conftest.py", "recipes/demo/world.py", "engine/__pycache__/x.pyc"]
)
def test_the_build_context_stays_small(path: str) -> None:
    assert ignored(type(ROOT)(path))


@pytest.mark.parametrize("command", PIP_INSTALLS)
def test_pip_installs_the_pinned_versions(command: str) -> None:
    words = shlex.split(command)
    constraints = words[words.index("--constraint") + 1]
    copied_to = "." if constraints == "constraints.txt" else "/"
    assert constraints.removeprefix("/") == "constraints.txt"
    assert any(
        step.word == "COPY" and "constraints.txt" in step.text and step.text.endswith((copied_to, "./"))
        for step in STEPS
    )


def test_the_wheel_goes_from_one_stage_to_the_other() -> None:
    assert any("--wheel-dir /wheels" in text for text in texts("RUN", 0))
    assert "--from=build /wheels /wheels" in texts("COPY")
    assert any("/wheels/*.whl" in text for text in texts("RUN"))


def test_the_user_is_not_root_and_set_last_before_running() -> None:
    assert texts("USER") == ["1000"]  # a number: Kubernetes' runAsNonRoot cannot read names
    words = [step.word for step in STEPS if step.stage == LAST]
    assert "RUN" not in words[words.index("USER") :]
    assert any("useradd --uid 1000" in text for text in texts("RUN"))


def test_weights_live_in_a_volume_the_user_owns() -> None:
    assert texts("VOLUME") == [environment()["HF_HOME"]]
    assert any(f"--owner=sana {environment()['HF_HOME']}" in text for text in texts("RUN"))


def test_the_gpu_comes_through_the_container_runtime() -> None:
    assert environment()["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert environment()["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"


def test_the_entry_point_is_the_console_script() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert exec_form("ENTRYPOINT") == list(scripts)
    assert exec_form("CMD") == ["serve", "--host", "0.0.0.0"]


def test_the_health_check_asks_the_exposed_port() -> None:
    assert texts("EXPOSE")[0] in exec_form("HEALTHCHECK")[-1]
    assert exec_form("HEALTHCHECK")[0] == "python"


def test_compose_agrees_with_the_image() -> None:
    compose = ROOT / "deploy" / "compose.yaml"
    service = yaml.safe_load(compose.read_text())["services"]["sana"]
    assert (compose.parent / service["build"] / "Dockerfile").is_file()
    assert service["command"][:3] == exec_form("CMD")
    assert [port.rpartition(":")[2] for port in service["ports"]] == texts("EXPOSE")
    assert [volume.rpartition(":")[2] for volume in service["volumes"]] == texts("VOLUME")


def test_triton_finds_a_compiler_that_finds_its_headers() -> None:
    (packages,) = [text for text in texts("RUN") if "apt-get install" in text]
    assert {"gcc", "libc6-dev"} <= set(packages.split())
