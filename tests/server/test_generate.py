"""`sana generate` run as a command."""

import asyncio
import os
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from engine import EngineClient, EngineConfig, EngineUnavailable, GenerationParams, SanaError
from server.cli import main
from server.generate import write_images

from .conftest import MODEL
from .live import ENVIRONMENT, SANA, run_sana
from .test_writing import file_size_limited_to

FLAGS = ["--model", MODEL, "--device", "cpu", "--size", "64x64", "--guidance", "1"]


def test_generate_writes_numbered_files(tmp_path: Path) -> None:
    ended = run_sana(
        "generate", "a red circle", *FLAGS, "--steps", "2", "--seed", "7", "--negative-prompt", "", "-n", "2",
        "--out", "cat.png", cwd=tmp_path,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert sorted(ended.stdout.split()) == ["cat-1.png", "cat-2.png"]  # two threads encode: either file may be first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cat-1.png", "cat-2.png"]
    first, second = ((tmp_path / name).read_bytes() for name in ("cat-1.png", "cat-2.png"))
    assert first.startswith(b"\x89PNG\r\n\x1a\n")
    assert first != second
    assert "4/4" in ended.stderr
    assert "64x64, 2 steps, guidance 1, seeds 7 to 8" in ended.stderr


def test_generate_checks_output_before_loading(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for out in (tmp_path / "absent" / "cat.png", tmp_path):
        assert main(["generate", "a cat", "--model", MODEL, "--out", str(out)]) == 1
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith(f"sana: cannot write {out}: ")


def test_generate_error_is_one_line_without_files(tmp_path: Path) -> None:
    """One engine for all cases, because loading it is slow."""
    small = GenerationParams("a cat", 64, 64, num_inference_steps=1, guidance_scale=1.0, seed=0)

    async def check() -> None:
        engine = EngineClient(EngineConfig(model=MODEL, device="cpu"))
        await engine.start()
        try:
            with (
                file_size_limited_to(1000),
                pytest.raises(SanaError, match=r"cannot write .*/cat\.png: File too large$"),
            ):
                await write_images(engine, small, tmp_path / "cat.png")
            for wrong, words in (
                (replace(small, prompt=""), "prompt is empty"),
                (replace(small, prompt="x" * 100_000), "at most 32000 characters"),
                (replace(small, width=0, height=0), "nearest valid size is 32x32"),
                (replace(small, width=31, height=1000), "nearest valid size is 32x1000"),
                (replace(small, width=8192, height=8192), "nearest valid size is 4096x4096"),
                (replace(small, n=0), "n must be between 1 and 10, got 0"),
                (replace(small, num_inference_steps=0), "num_inference_steps must be between 1 and 100, got 0"),
                (replace(small, num_inference_steps=1000), "num_inference_steps must be between 1 and 100, got 1000"),
            ):
                with pytest.raises(SanaError, match=f"^[^\n]*{words}[^\n]*$"):
                    await write_images(engine, wrong, tmp_path / "cat.png")
            assert list(tmp_path.iterdir()) == []
            await write_images(engine, small, tmp_path / "cat.png")  # the engine still works
            assert [path.name for path in tmp_path.iterdir()] == ["cat.png"]
            running = asyncio.create_task(
                write_images(engine, replace(small, n=10, num_inference_steps=100), tmp_path / "no.png")
            )
            while not engine.queued_images:
                await asyncio.sleep(0.01)
            await engine.stop()
            with pytest.raises(EngineUnavailable, match="stopping"):
                await running
        finally:
            await engine.stop()

    asyncio.run(check())


def test_generate_ctrl_c_leaves_no_file(tmp_path: Path) -> None:
    command = [*SANA, "generate", "a cat", "--model", MODEL, "--device", "cpu", "--steps", "100", "-n", "10"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    assert process.stderr is not None
    seen = b""
    while b"step/s]" not in seen:  # the progress bar: it is generating
        seen += os.read(process.stderr.fileno(), 4096)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to the engine process too
    _, rest = process.communicate(timeout=30)
    assert process.returncode == 130
    assert rest.decode().splitlines()[-1] == "sana: stopped"
    assert b"Traceback" not in seen + rest
    assert list(tmp_path.iterdir()) == []


def test_generate_repaints_an_image_within_its_mask(tmp_path: Path) -> None:
    image, mask = Image.new("RGB", (64, 96), (200, 30, 30)), Image.new("L", (64, 96))
    mask.paste(255, (0, 48, 64, 96))
    image.save(tmp_path / "in.png")
    mask.save(tmp_path / "mask.png")
    flags = ["--model", MODEL, "--device", "cpu", "--steps", "4", "--strength", "0.5", "--seed", "1"]
    ended = run_sana(
        "generate", "a blue square", *flags, "--image", "in.png", "--mask", "mask.png", "--out", "out.png", cwd=tmp_path
    )
    assert ended.returncode == 0, ended.stderr
    assert "2/2" in ended.stderr  # steps from the middle of the schedule
    with Image.open(tmp_path / "out.png") as out:
        assert out.crop((0, 0, 64, 48)).tobytes() == image.crop((0, 0, 64, 48)).tobytes()


def test_generate_checks_images_before_loading(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "a cat", "--model", MODEL, "--image", str(tmp_path / "absent.png")]) == 1
    assert capsys.readouterr().err == f"sana: cannot read {tmp_path}/absent.png: No such file or directory\n"
    assert main(["generate", "a cat", "--model", MODEL, "--mask", "mask.png"]) == 1
    assert "--image FILE" in capsys.readouterr().err
