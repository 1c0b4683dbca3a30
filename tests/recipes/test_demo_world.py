"""The demo model's world: scenes are valid, and their objects can be seen."""

from collections import Counter
from random import Random

import pytest

from recipes.demo.world import COUNT_LAYOUTS, PLACES, Scene, sample_scene
from server.evaluation.grounds import BACKGROUNDS, LANDSCAPES, Ground, contrast, defaults, visible
from server.evaluation.shapes import COLORS
from server.evaluation.suite import held_out
from server.evaluation.things import KINDS, PATTERNS, THINGS


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [sample_scene(Random(seed)) for seed in range(1500)]


def test_scene_is_deterministic() -> None:
    assert all(sample_scene(Random(seed)) == sample_scene(Random(seed)) for seed in range(20))


def test_scenes_contain_everything(scenes: list[Scene]) -> None:
    items = [item for scene in scenes for item in scene.objects]
    assert {item.shape for item in items} == set(KINDS)
    assert {item.color for item in items} == set(COLORS)
    assert {item.pattern for item in items} == {"", *PATTERNS}
    assert {scene.relation for scene in scenes} == {"", "left", "above", "between", "inside", "sky"}
    assert {scene.place for scene in scenes} == {"", *PLACES}
    assert {name for scene in scenes for name in scene.ground.names} == {*BACKGROUNDS, *LANDSCAPES}
    assert {scene.count for scene in scenes} == {0, 1, *COUNT_LAYOUTS}


def test_scene_relations_match_positions(scenes: list[Scene]) -> None:
    for scene in scenes:
        x, y = ([getattr(item, axis) for item in scene.objects] for axis in "xy")
        if scene.relation == "left":
            assert x[1] - x[0] > 0.35
        elif scene.relation == "above":
            assert y[1] - y[0] > 0.35
        elif scene.relation == "between":
            assert x == sorted(x)
        elif scene.relation == "sky":
            assert y[1] < 0.25 < y[0]
        elif scene.relation == "inside":
            assert abs(x[0] - x[1]) + scene.objects[1].radius < scene.objects[0].radius


def test_scene_objects_contrast_and_stay_inside(scenes: list[Scene]) -> None:
    for scene in scenes:
        for item in scene.objects:
            assert item.radius * 0.95 < min(item.x, item.y, 1 - item.x, 1 - item.y) + 0.01, item
        if scene.relation == "inside":
            assert contrast(scene.objects[0].color, scene.objects[1].color)
        else:
            assert all(visible((item.shape, item.color), scene.ground) for item in scene.objects), scene


def test_scenes_of_training_are_not_held_out(scenes: list[Scene]) -> None:
    for scene in scenes:
        looks = [(item.shape, item.color) for item in scene.objects]
        assert not held_out(looks, scene.objects[0].size, scene.ground.names)
    unseen = [sample_scene(Random(seed), unseen=True) for seed in range(40)]
    assert all(held_out([(o.shape, o.color) for o in s.objects], s.objects[0].size, s.ground.names) for s in unseen)


def test_backgrounds_are_any_color_but_often_a_default(scenes: list[Scene]) -> None:
    kinds = Counter(scene.ground.kind for scene in scenes)
    assert set(kinds) == {"plain", "gradient", "halves", "landscape"}
    plain = [s for s in scenes if s.ground.kind == "plain"]
    usual = [s for s in plain if s.ground.names[0] in defaults((o.shape, o.color) for o in s.objects)]
    assert 0.4 < len(usual) / len(plain) < 0.85


def test_default_backgrounds_of_white_objects_are_dark() -> None:
    assert defaults([("circle", "white")]) == ["light blue"] or "white" not in defaults([("circle", "white")])
    assert defaults([("circle", "red")])[0] == "white"
    assert all(visible(("cloud", "white"), Ground("plain", (name,))) for name in defaults([("cloud", "white")]))


def test_things_of_their_usual_color_are_never_held_out() -> None:
    assert not any(held_out([("tree", "green")], size, (name,)) for size in ("", "small") for name in BACKGROUNDS)
    assert any(held_out([("tree", "blue")], "", (name,)) for name in BACKGROUNDS)
    assert len(THINGS) == 10
