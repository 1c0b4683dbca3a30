"""`sana batch`: files of prompts, stopped and run again."""

import asyncio
import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from engine import EngineConfig, SanaError
from server.cli import main
from server.prompt_files import generate_prompts, parse_entry

from .conftest import MODEL
from .live import ENVIRONMENT, SANA
from .test_writing import file_size_limited_to

CONFIG = EngineConfig(model=MODEL, device="cpu")
DEFAULTS = {"size": "64x64", "num_inference_steps": 1}
PROMPTS = """a red circle

{"prompt": "a blue square", "seed": 3, "n": 2, "custom_id": "two"}
{"custom_id": "four", "method": "POST", "url": "/v1/x", "body": {"prompt": "a", "output_format": "webp"}}
{"prompt": "a", "size": "1x1"}
{"prompt": "a", "custom_id": "two"}
{broken
"""


def test_prompt_file_generated_and_errors_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "prompts.jsonl", tmp_path / "out"
    file.write_text(PROMPTS)
    images = ["000001.png", "four.webp", "two-1.png", "two-2.png"]
    assert asyncio.run(generate_prompts(CONFIG, file, out, DEFAULTS)) == 1
    assert sorted(path.name for path in out.iterdir()) == sorted([*images, "errors.jsonl"])
    errors = [json.loads(line) for line in (out / "errors.jsonl").read_text().splitlines()]
    assert sorted(error["line"] for error in errors) == [5, 6, 7]
    assert "3 of 6 prompts are done" in capsys.readouterr().err


def test_interrupted_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(f"a red circle {i}" for i in range(60)))
    command = [*SANA, "batch", "prompts.txt", "--model", MODEL, "--device", "cpu", "--size", "128x128", "--steps", "4"]
    out = tmp_path / "images"
    process = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while not list(out.glob("*.png")):
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert "sana: stopped" in process.communicate(timeout=60)[1]
    assert process.returncode == 130
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.png")}
    assert 0 < len(before) < 60
    before.popitem()[0].unlink()
    ended = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert "60 of 60 prompts are done" in ended.stderr
    assert len(list(out.glob("*.png"))) == 60
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_full_disk_ends_run_with_reason(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a cat")
    with file_size_limited_to(1000), pytest.raises(SanaError, match="File too large"):
        asyncio.run(generate_prompts(CONFIG, tmp_path / "a", tmp_path / "out", DEFAULTS))


@pytest.mark.parametrize("content", [None, b"", b"\n \n", b"\xff"])
def test_unusable_file_named_before_loading(
    tmp_path: Path, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "prompts"
    if content is not None:
        file.write_bytes(content)
    assert main(["batch", str(file), "--model", MODEL, "--out", str(tmp_path / "out")]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("sana: ")
    assert str(file) in line


@pytest.mark.parametrize("custom_id", ["../a", "", ".hidden", "a/b", "a" * 200, 7])
def test_custom_id_that_is_no_file_name_refused(custom_id: object) -> None:
    assert "custom_id" in parse_entry(1, json.dumps({"custom_id": custom_id, "prompt": "a"})).error
