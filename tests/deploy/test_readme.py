"""The README's programs, run as printed; tests/test_docs.py checks the names in it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Environment
from .dockerfile import ENVIRONMENT, ROOT

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)


def block(language: str, part: str) -> str:
    (found,) = [text for name, text in BLOCKS if name == language and part in text]
    return found


def test_container_command_mounts_weights_volume() -> None:
    assert f"-v sana-weights:{ENVIRONMENT['HF_HOME']}" in README


def test_python_and_curl_examples_save_image(
    environment: Environment, server: tuple[subprocess.Popen[str], str]
) -> None:
    _, port = server
    python = block("python", "OpenAI(").replace(":8000", f":{port}")
    answer = environment.run(sys.executable, "-c", python)  # our Python: the server's has no client
    assert answer.returncode == 0, answer.stderr
    assert take_image(environment.folder) > 0
    if shutil.which("curl") is None:
        pytest.skip("the Python example passed; the other needs curl")
    answer = environment.run("bash", "-euc", block("sh", "curl").replace(":8000", f":{port}"))
    assert answer.returncode == 0, answer.stderr
    assert take_image(environment.folder) > 0


def test_generate_example_saves_image(environment: Environment) -> None:
    """And the one that repaints it."""
    lines = re.findall(r"\.venv/bin/(sana generate .*)", README)
    assert len(lines) == 2
    answer = environment.run("bash", "-euc", "\n".join(lines))
    assert answer.returncode == 0, answer.stderr
    assert take_image(environment.folder) > 0
    assert (environment.folder / "edit.png").read_bytes().startswith(b"\x89PNG")


def take_image(folder: Path) -> int:
    """Size of circle.png in bytes; removes the file."""
    content = (folder / "circle.png").read_bytes()
    (folder / "circle.png").unlink()
    assert content.startswith(b"\x89PNG")
    return len(content)
