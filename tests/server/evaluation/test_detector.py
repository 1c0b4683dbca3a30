"""The detector finds the objects and the background of rendered scenes, and only whole objects."""

from random import Random

import numpy as np
import pytest

from recipes.demo.render import render
from recipes.demo.world import Object, Scene, sample_scene
from server.evaluation.detector import detect, detect_inside, shown_ground
from server.evaluation.grounds import Ground
from server.evaluation.shapes import COLORS

CREAM = Ground("plain", ("cream",))


@pytest.mark.parametrize("size", [128, 256])
def test_detector_finds_rendered_objects_and_grounds(size: int) -> None:
    wrong = []
    for seed in range(40):
        scene = sample_scene(Random(seed))
        image = render(scene, size, size)
        seen = detect_inside(image) if scene.relation == "inside" else detect(image)
        wanted = sorted((o.shape, o.color, o.pattern) for o in scene.objects)
        ground = scene.ground.names[0], scene.ground.names[-1]
        if sorted((d.shape, d.color, d.pattern) for d in seen) != wanted or shown_ground(image) != ground:
            wrong.append(seed)
    assert not wrong


def test_detector_locates_objects() -> None:
    scene = Scene((Object("circle", "red", 0.25, 0.4, 0.15), Object("car", "blue", 0.75, 0.6, 0.15)), CREAM)
    found = {d.shape: d for d in detect(render(scene, 128, 128))}
    assert found["circle"].x == pytest.approx(0.25, abs=0.02)
    assert found["car"].y == pytest.approx(0.6, abs=0.03)


def test_detector_of_noisy_image_is_unchanged() -> None:
    """Generated images are a little rough."""
    image = render(Scene((Object("house", "red", 0.5, 0.5, 0.3),), CREAM), 256, 256).astype(float)
    rough = (image + np.random.default_rng(0).normal(0, 8, image.shape)).clip(0, 255).astype(np.uint8)
    assert [(d.shape, d.color) for d in detect(rough)] == [("house", "red")]


def test_detector_requires_the_parts_of_a_thing() -> None:
    image = render(Scene((Object("car", "red", 0.5, 0.5, 0.3),), CREAM), 256, 256)
    wheels = (np.abs(image.astype(int) - COLORS["black"]).max(-1) <= 1)[..., None]
    assert [d.shape for d in detect(image)] == ["car"]
    for instead in (np.array(COLORS["red"]), image[0, 0]):
        assert "car" not in [d.shape for d in detect(np.where(wheels, instead, image).astype(np.uint8))]


def test_detector_takes_no_blob_for_a_shape() -> None:
    axis = np.linspace(-1, 1, 128)
    cross = (np.abs(axis)[:, None] < 0.1) | (np.abs(axis)[None] < 0.1)
    image = np.where(
        cross[..., None] & (np.abs(axis)[:, None, None] < 0.7) & (np.abs(axis)[None, :, None] < 0.7), 0, 255
    )
    assert [d.shape for d in detect(image.astype(np.uint8))] == [""]


def test_shown_ground_tells_white_from_cream() -> None:
    for name in ("white", "cream", "light gray"):
        image = render(Scene((Object("star", "red", 0.5, 0.5, 0.3),), Ground("plain", (name,))), 128, 128)
        assert shown_ground(image) == (name, name)
