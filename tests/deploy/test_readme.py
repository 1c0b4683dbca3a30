"""What the README says can be done, done."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from . import dockerfile
from .conftest import Environment
from .dockerfile import ROOT

README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
CODE = "\n".join([block for _, block in BLOCKS] + re.findall(r"`([^`\n]+)`", README))
COMMANDS = sorted(
    {
        (words[0], flag)
        for words in (line.split("#")[0].split() for line in re.findall(r"\bsana ([a-z].*)", CODE))
        for flag in words[1:]
        if flag.startswith("-")
    }
)


def block(language: str, part: str) -> str:
    (found,) = [text for name, text in BLOCKS if name == language and part in text]
    return found


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\bmake ([a-z]+)", CODE))))
def test_make_targets_exist(target: str) -> None:
    assert re.search(rf"^{target}:", MAKEFILE, flags=re.MULTILINE)
    assert target in re.findall(r"^\.PHONY: (.*)", MAKEFILE, flags=re.MULTILINE)[0].split()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"\b([A-Z]+)=", "\n".join(re.findall(r"make .*", CODE))))))
def test_make_variables_exist(name: str) -> None:
    assert re.search(rf"^{name} \??=", MAKEFILE, flags=re.MULTILINE)


@pytest.mark.parametrize(("command", "flag"), COMMANDS)
def test_flags_exist(command: str, flag: str, environment: Environment) -> None:
    answer = environment.run(str(environment.python.parent / "sana"), command, "--help")
    assert re.search(rf"(^|\s){flag}\b", answer.stdout), answer


@pytest.mark.parametrize("path", ["constraints.txt", "pyproject.toml", "deploy/compose.yaml", "LICENSE"])
def test_named_files_exist(path: str) -> None:
    assert path in README
    assert (ROOT / path).is_file()


def test_the_container_keeps_its_weights_in_the_volume() -> None:
    assert f"-v sana-weights:{dockerfile.environment()['HF_HOME']}" in README


def test_both_clients_get_their_picture(environment: Environment, server: tuple[subprocess.Popen[str], str]) -> None:
    _, port = server
    python = block("python", "OpenAI(").replace(":8000", f":{port}")
    answer = environment.run(sys.executable, "-c", python)  # our Python: the server's has no client
    assert answer.returncode == 0, answer.stderr
    assert read_picture(environment.folder) > 0
    if shutil.which("curl") is None:
        pytest.skip("the first client drew; the second needs curl")
    answer = environment.run("bash", "-euc", block("sh", "curl").replace(":8000", f":{port}"))
    assert answer.returncode == 0, answer.stderr
    assert read_picture(environment.folder) > 0


def test_generate_draws_without_a_server(environment: Environment) -> None:
    (line,) = re.findall(r"\.venv/bin/(sana generate .*)", README)
    answer = environment.run("bash", "-euc", line)
    assert answer.returncode == 0, answer.stderr
    assert read_picture(environment.folder) > 0


def read_picture(folder: Path) -> int:
    """Bytes of circle.png, which is then removed."""
    content = (folder / "circle.png").read_bytes()
    (folder / "circle.png").unlink()
    assert content.startswith(b"\x89PNG")
    return len(content)
