"""The exam scores the images of a server or an engine, and reports them as a table and a contact sheet."""

import asyncio
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine import SanaError
from recipes.demo.world import Object, Scene, render
from server.evaluation.exam import ExamSettings, contact_sheet, examine, examine_url, shares, table, wilson
from server.evaluation.suite import tasks

from ..live import LiveServer, run_sana


def rendered(scene: Scene) -> bytes:
    out = io.BytesIO()
    Image.fromarray(render(scene, 128, 128)).save(out, "PNG")
    return out.getvalue()


def test_exam_passes_right_images_only(tmp_path: Path) -> None:
    """Images rendered by the world: once of the required scenes, once empty."""
    wanted = {task.prompt: task for task in tasks(4)}
    places = {1: [(0.5, 0.5)], 2: [(0.27, 0.5), (0.73, 0.5)], 3: [(0.19, 0.5), (0.5, 0.5), (0.81, 0.5)]}
    places[4] = [(0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73)]
    turned = {"right": (1, 0), "below": (1, 0)}

    async def right(prompt: str, seed: int) -> bytes:
        task = wanted[prompt]
        spots = places[len(task.looks)]
        if task.relation in ("above", "below"):
            spots = [(y, x) for x, y in spots]
        if task.relation in turned:
            spots = spots[::-1]
        objects = tuple(
            Object(shape or "circle", color or "red", x, y, 0.13)
            for (shape, color), (x, y) in zip(task.looks, spots, strict=True)
        )
        dark = any(o.color in ("black", "brown", "gray", "purple", "blue") for o in objects)
        white = any(o.color == "white" for o in objects)
        ground = "cream" if not white else "sky blue" if dark else "navy"
        return rendered(Scene(objects, (ground,)))

    async def wrong(prompt: str, seed: int) -> bytes:
        return rendered(Scene((), ("cream",)))

    settings = ExamSettings(each=4)
    good, bad = asyncio.run(examine(right, settings)), asyncio.run(examine(wrong, settings))
    assert (
        sum(m.passed for m in good) >= len(good) - 2
    )  # one or two may fail where an object hardly differs from its background
    assert not any(m.passed for m in bad)
    assert all(total == 4 for _, total in shares(bad).values())
    assert "overall" in table(good)
    (tmp_path / "sheet.png").write_bytes(contact_sheet(good))
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (2 * 136, 12 * 136, 3)
    assert (sheet[5, 2] == (46, 158, 80)).all()  # a green frame: the first task passed


@pytest.mark.parametrize(
    ("passed", "total", "low", "high"), [(0, 10, 0.0, 0.278), (10, 10, 0.722, 1.0), (15, 30, 0.331, 0.669)]
)
def test_wilson_interval_values(passed: int, total: int, low: float, high: float) -> None:
    assert wilson(passed, total) == (pytest.approx(low, abs=2e-3), pytest.approx(high, abs=2e-3))


def test_exam_seeds_are_consecutive() -> None:
    seen: dict[int, str] = {}

    async def generate(prompt: str, seed: int) -> bytes:
        seen[seed] = prompt
        return rendered(Scene((), ("cream",)))

    asyncio.run(examine(generate, ExamSettings(each=2, seed=100)))
    assert seen == {100 + i: task.prompt for i, task in enumerate(tasks(2))}


def test_exam_of_server_by_url(server: LiveServer) -> None:
    marks = asyncio.run(examine_url(server.url, ExamSettings(each=1, steps=2, size="128x128")))
    assert len(marks) == 6
    assert {m.image.shape for m in marks} == {(128, 128, 3)}


def test_exam_reports_server_error(server: LiveServer) -> None:
    with pytest.raises(SanaError, match="responded with 400"):
        asyncio.run(examine_url(server.url, ExamSettings(each=1, steps=2, size="16x130")))


def test_eval_command_starts_own_engine(tmp_path: Path) -> None:
    done = run_sana("eval", "--device", "cpu", "--each", "1", "--steps", "1", "--size", "64x64", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "attribute binding" in done.stdout
    assert (tmp_path / "sana-eval.png").exists()


def test_eval_command_unreachable_server(tmp_path: Path) -> None:
    done = run_sana("eval", "--url", "http://127.0.0.1:9", "--each", "1", cwd=tmp_path)
    assert done.returncode == 1
    assert "did not respond" in done.stderr
    assert "Traceback" not in done.stderr
