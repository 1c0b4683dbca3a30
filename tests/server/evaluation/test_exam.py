"""The exam scores the images of a server or an engine, and reports them as a table and a contact sheet."""

import asyncio
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine import SanaError
from recipes.demo.render import render
from recipes.demo.world import COUNT_LAYOUTS, PLACES, Object, Scene
from server.evaluation.exam import ExamSettings, Mark, contact_sheet, examine, examine_url, shares, table, wilson
from server.evaluation.grounds import LANDSCAPES, Ground, defaults
from server.evaluation.suite import KINDS, tasks
from server.evaluation.task import Task, Wanted

from ..live import LiveServer, run_sana


def rendered(scene: Scene) -> bytes:
    out = io.BytesIO()
    Image.fromarray(render(scene, 128, 128)).save(out, "PNG")
    return out.getvalue()


def scene_of(task: Task) -> Scene:
    """A scene that shows what a task asks for."""
    wanted, name = task.objects or (Wanted("circle", "red"),), task.ground or ("cream", "cream")
    landscape = name[0] in LANDSCAPES
    spots = [*COUNT_LAYOUTS[max(2, len(wanted))][1]] if len(wanted) > 1 else [(0.5, 0.5)]
    radius, radii = (0.13 if len(wanted) > 1 else 0.24), (0.38, 0.15)
    if task.place:
        spots = [PLACES[task.place]]
    if task.relation == "inside":
        spots = [(0.5, 0.5)] * 2
    elif task.relation in ("above", "below"):
        spots = [(0.25, 0.15), (0.5, 0.65)] if landscape else [(0.5, 0.25), (0.5, 0.75)]
    if task.relation in ("right", "below"):
        spots.reverse()
    objects = tuple(
        Object(
            w.shape or "", w.color or "", x, y, radii[i] if task.relation == "inside" else radius, "", w.pattern or ""
        )
        for i, (w, (x, y)) in enumerate(zip(wanted, spots, strict=True))
    )
    if not task.ground:
        looks = [(o.shape, o.color) for o in objects[: 1 if task.relation == "inside" else None]]
        return Scene(objects, Ground("plain", (defaults(looks)[0],)))
    return Scene(objects, Ground("landscape", name[:1]) if landscape else Ground("halves", name))


def test_exam_passes_right_images_only(tmp_path: Path) -> None:
    """Images rendered by the world: once of the required scenes, once empty."""
    wanted = {task.prompt: task for task in tasks(5)}

    async def right(prompt: str, seed: int) -> bytes:
        return rendered(scene_of(wanted[prompt]))

    async def wrong(prompt: str, seed: int) -> bytes:
        return rendered(Scene((), Ground("plain", ("red",))))

    settings = ExamSettings(each=5)
    good, bad = asyncio.run(examine(right, settings)), asyncio.run(examine(wrong, settings))
    assert [m.task.prompt for m in good if not m.passed] == []
    assert not any(m.passed for m in bad if m.task.objects)
    assert shares(good) == dict.fromkeys(KINDS[:-1], (5, 5)) | {KINDS[-1]: (1, 1)}  # five phrasings are one group
    assert "overall" in table(good)
    (tmp_path / "sheet.png").write_bytes(contact_sheet(good))
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (4 * 136, 12 * 136, 3)
    assert (sheet[5, 2] == (46, 158, 80)).all()  # a green frame: the first task passed


def test_shares_of_a_group_require_all_of_it() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    marks = [Mark(Task(KINDS[-1], "", None, group=g), image, ok) for g, ok in ((1, True), (1, False), (2, True))]
    marks += [Mark(Task(KINDS[0], "", None), image, ok) for ok in (True, False, False)]
    found = shares(marks)
    assert (found[KINDS[-1]], found[KINDS[0]], found[KINDS[1]]) == ((1, 2), (1, 3), (0, 0))


@pytest.mark.parametrize(
    ("passed", "total", "low", "high"), [(0, 10, 0.0, 0.278), (10, 10, 0.722, 1.0), (15, 30, 0.331, 0.669)]
)
def test_wilson_interval_values(passed: int, total: int, low: float, high: float) -> None:
    assert wilson(passed, total) == (pytest.approx(low, abs=2e-3), pytest.approx(high, abs=2e-3))


def test_exam_seeds_are_consecutive() -> None:
    seen: dict[int, str] = {}

    async def generate(prompt: str, seed: int) -> bytes:
        seen[seed] = prompt
        return rendered(Scene((), Ground("plain", ("cream",))))

    asyncio.run(examine(generate, ExamSettings(each=2, seed=100)))
    assert seen == {100 + i: task.prompt for i, task in enumerate(tasks(2))}


def test_exam_of_server_by_url(server: LiveServer) -> None:
    marks = asyncio.run(examine_url(server.url, ExamSettings(each=1, steps=2, size="128x128")))
    assert len(marks) == len(KINDS)
    assert {m.image.shape for m in marks} == {(128, 128, 3)}


def test_exam_reports_server_error(server: LiveServer) -> None:
    with pytest.raises(SanaError, match="responded with 400"):
        asyncio.run(examine_url(server.url, ExamSettings(each=1, steps=2, size="16x130")))


def test_eval_command_starts_own_engine(tmp_path: Path) -> None:
    done = run_sana("eval", "--device", "cpu", "--each", "1", "--steps", "1", "--size", "64x64", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "five phrasings" in done.stdout
    assert (tmp_path / "sana-eval.png").exists()


def test_eval_command_unreachable_server(tmp_path: Path) -> None:
    done = run_sana("eval", "--url", "http://127.0.0.1:9", "--each", "1", cwd=tmp_path)
    assert done.returncode == 1
    assert "did not respond" in done.stderr
    assert "Traceback" not in done.stderr
