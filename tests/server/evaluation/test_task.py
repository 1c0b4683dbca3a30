"""A task is passed by exactly what it asks for."""

import pytest

from recipes.demo.render import render
from recipes.demo.world import PLACES, Object, Scene
from server.evaluation.grounds import Ground
from server.evaluation.task import Task, Wanted

CIRCLE, SQUARE = Wanted("circle", "red"), Wanted("square", "blue")
CREAM = Ground("plain", ("cream",))


def passed(task: Task, *objects: Object, relation: str = "", ground: Ground = CREAM) -> bool:
    return task.passed(render(Scene(objects, ground, relation), 128, 128))


def pair(ax: float, ay: float, bx: float, by: float) -> tuple[Object, Object]:
    return Object("circle", "red", ax, ay, 0.17), Object("square", "blue", bx, by, 0.17)


@pytest.mark.parametrize("relation", ["left", "right", "above", "below"])
def test_task_position_accepts_its_direction_only(relation: str) -> None:
    arranged = {
        "left": pair(0.27, 0.5, 0.73, 0.5),
        "right": pair(0.73, 0.5, 0.27, 0.5),
        "above": pair(0.5, 0.27, 0.5, 0.73),
        "below": pair(0.5, 0.73, 0.5, 0.27),
    }
    for shown, objects in arranged.items():
        assert passed(Task("position", "", (CIRCLE, SQUARE), relation), *objects) == (shown == relation)
    diagonal = pair(0.25, 0.2, 0.75, 0.8)
    assert passed(Task("two objects", "", (SQUARE, CIRCLE)), *diagonal)


def test_task_binds_colors_to_shapes() -> None:
    objects = pair(0.27, 0.5, 0.73, 0.5)
    assert not passed(Task("two objects", "", (Wanted("circle", "blue"), Wanted("square", "red"))), *objects)
    assert passed(Task("two objects", "", (Wanted(None, "blue"), Wanted("circle", None))), *objects)
    assert not passed(Task("single object", "", (CIRCLE,)), *objects)  # and there must be no others


def test_task_counting_requires_all_copies() -> None:
    stars = [Object("star", "green", x, 0.5, 0.13) for x in (0.2, 0.5, 0.8)]
    assert passed(Task("counting", "", (Wanted("star", "green"),) * 3), *stars)
    assert not passed(Task("counting", "", (Wanted("star", "green"),) * 2), *stars)
    assert not passed(Task("counting", "", (Wanted("star", "red"),) * 3), *stars)


def test_task_between_and_inside() -> None:
    row = [Object(shape, "red", x, 0.5, 0.135) for shape, x in (("circle", 0.18), ("star", 0.5), ("heart", 0.82))]
    wanted = {shape: Wanted(shape, "red") for shape in ("circle", "star", "heart")}
    assert passed(Task("position", "", (wanted["heart"], wanted["star"], wanted["circle"]), "between"), *row)
    assert not passed(Task("position", "", (wanted["star"], wanted["heart"], wanted["circle"]), "between"), *row)
    nested = Object("heart", "red", 0.5, 0.5, 0.38), Object("ring", "white", 0.5, 0.5, 0.15)
    heart, ring = Wanted("heart", "red"), Wanted("ring", "white")
    assert passed(Task("position", "", (heart, ring), "inside"), *nested)
    assert not passed(Task("position", "", (ring, heart), "inside"), *nested)


@pytest.mark.parametrize("place", PLACES)
def test_task_place_accepts_its_part_of_the_image(place: str) -> None:
    for shown, (x, y) in PLACES.items():
        within = shown == place or (place in shown.split() and place != "center")
        assert passed(Task("position", "", (CIRCLE,), place=place), Object("circle", "red", x, y, 0.16)) == within


def test_task_judges_the_background() -> None:
    item = Object("circle", "red", 0.5, 0.5, 0.25)
    halves = Ground("halves", ("white", "navy"))
    assert passed(Task("background", "", None, ground=("white", "navy")), item, ground=halves)
    assert not passed(Task("background", "", None, ground=("navy", "white")), item, ground=halves)
    assert not passed(Task("single object", "", (CIRCLE,), ground=("white", "white")), item)
    assert passed(Task("single object", "", (CIRCLE,), ground=("cream", "cream")), item)


def test_task_requires_the_pattern() -> None:
    item = Object("circle", "red", 0.5, 0.5, 0.3, pattern="striped")
    assert passed(Task("pattern", "", (Wanted("circle", "red", "striped"),)), item)
    assert not passed(Task("pattern", "", (Wanted("circle", "red", "dotted"),)), item)
    assert not passed(Task("single object", "", (CIRCLE,)), item)
