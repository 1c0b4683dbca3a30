"""The detector finds the objects of rendered scenes."""

from random import Random

import pytest

from recipes.demo.world import Object, Scene, render, sample_scene
from server.evaluation.detector import detect


@pytest.mark.parametrize("size", [128, 256])
def test_detector_finds_rendered_objects(size: int) -> None:
    right = total = 0
    for seed in range(40):
        scene = sample_scene(Random(seed))
        seen = detect(render(scene, size, size))
        total += 1
        wanted = sorted((o.shape, o.color) for o in scene.objects)
        right += wanted == sorted((d.shape, d.color) for d in seen)
    assert right / total >= 0.95


def test_detector_locates_objects() -> None:
    scene = Scene((Object("circle", "red", 0.25, 0.4, 0.15), Object("square", "blue", 0.75, 0.6, 0.15)), ("cream",))
    found = {d.shape: d for d in detect(render(scene, 128, 128))}
    assert found["circle"].x == pytest.approx(0.25, abs=0.02)
    assert found["square"].y == pytest.approx(0.6, abs=0.02)
