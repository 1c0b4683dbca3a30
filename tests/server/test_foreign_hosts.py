"""A server on a host without Triton and without what macOS or Windows lack: those systems themselves were not run."""

import os
import subprocess
import sys
from pathlib import Path

import httpx

from .live import ENVIRONMENT, ROOT, LiveServer

FOREIGN = {**ENVIRONMENT, "PYTHONPATH": f"{Path(__file__).parent / 'foreign'}{os.pathsep}{ENVIRONMENT['PYTHONPATH']}"}
BODY = {"prompt": "a red circle", "size": "128x128", "seed": 7, "num_inference_steps": 4}


def test_host_without_triton_same_image(server: LiveServer, tmp_path: Path) -> None:
    (expected,) = httpx.post(f"{server.url}/v1/images/generations", json=BODY, timeout=120).json()["data"]
    with LiveServer(tmp_path / "log", "--model", "demo", environment=FOREIGN) as foreign:
        (image,) = httpx.post(f"{foreign.url}/v1/images/generations", json=BODY, timeout=120).json()["data"]
    assert image["b64_json"] == expected["b64_json"]
    assert foreign.status == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_broken_triton_is_not_taken_for_absent(tmp_path: Path) -> None:
    (tmp_path / "triton.py").write_text("import no_such_part_of_triton\n")
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ENVIRONMENT['PYTHONPATH']}"}
    program = [sys.executable, "-c", "import kernels.to_uint8"]
    child = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert "no_such_part_of_triton" in child.stderr
