"""The detector reads back what the world drew; the score asks for all of it."""

from random import Random

import pytest

from recipes.demo.detector import detect
from recipes.demo.evaluate import Task, scores, tasks
from recipes.demo.world import Object, Scene, render, sample_scene


@pytest.mark.parametrize("size", [128, 256])
def test_what_was_drawn_is_found(size: int) -> None:
    right = total = 0
    for seed in range(40):
        scene = sample_scene(Random(seed))
        seen = detect(render(scene, size, size))
        total += 1
        wanted = sorted((o.shape, o.color) for o in scene.objects)
        right += wanted == sorted((d.shape, d.color) for d in seen)
    assert right / total >= 0.95


def test_positions_are_read() -> None:
    scene = Scene((Object("circle", "red", 0.25, 0.4, 0.15), Object("square", "blue", 0.75, 0.6, 0.15)), ("cream",))
    found = {d.shape: d for d in detect(render(scene, 128, 128))}
    assert found["circle"].x == pytest.approx(0.25, abs=0.02)
    assert found["square"].y == pytest.approx(0.6, abs=0.02)


def test_tasks_are_strict() -> None:
    circle, square = Object("circle", "red", 0.27, 0.5, 0.17), Object("square", "blue", 0.73, 0.5, 0.17)
    picture = render(Scene((circle, square), ("cream",)), 128, 128)
    looks = (("circle", "red"), ("square", "blue"))
    assert Task("position", "", looks, "left").passed(picture)
    assert not Task("position", "", looks, "right").passed(picture)
    assert not Task("position", "", looks, "above").passed(picture)
    assert Task("attribute binding", "", looks[::-1]).passed(picture)
    assert not Task("attribute binding", "", (("circle", "blue"), ("square", "red"))).passed(picture)
    assert not Task("counting", "", ((None, None),)).passed(picture)


def test_every_kind_is_asked_and_scored() -> None:
    empty = render(Scene((), ("cream",)), 64, 64)
    table = scores([(task, empty) for task in tasks(3)])
    assert table == dict.fromkeys(table, (0, 3))
    assert set(table) == {"single object", "color", "two objects", "attribute binding", "position", "counting"}
