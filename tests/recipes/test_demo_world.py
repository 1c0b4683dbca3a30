"""The demo model's world: a rendered image shows its scene."""

from random import Random

import numpy as np
import pytest

from recipes.demo.world import BACKGROUNDS, CONTRAST, Object, Scene, render, sample_scene
from server.evaluation.shapes import COLORS, SHAPES

SOLID = tuple(shape for shape in SHAPES if shape != "ring")


def scenes(count: int) -> list[Scene]:
    return [sample_scene(Random(seed)) for seed in range(count)]


def is_color(pixel: np.ndarray, name: str) -> bool:
    return bool(np.abs(pixel.astype(int) - COLORS[name]).max() <= 1)


def blobs(mask: np.ndarray) -> int:
    """Number of connected regions of a mask, by flood fill."""
    left, found = {(int(r), int(c)) for r, c in zip(*np.nonzero(mask), strict=True)}, 0
    while left:
        found += 1
        front = [left.pop()]
        while front:
            row, column = front.pop()
            for near in ((row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)):
                if near in left:
                    left.remove(near)
                    front.append(near)
    return found


def test_scene_and_image_are_deterministic() -> None:
    for seed in range(20):
        a, b = sample_scene(Random(seed)), sample_scene(Random(seed))
        assert a == b
        assert np.array_equal(render(a, 64, 64), render(b, 64, 64))


@pytest.mark.parametrize("shape", SOLID)
@pytest.mark.parametrize("color", COLORS)
def test_render_solid_shape_centre_has_its_color(shape: str, color: str) -> None:
    image = render(Scene((Object(shape, color, 0.5, 0.5, 0.3),), ("sky blue",)), 64, 64)
    assert is_color(image[32, 32], color)
    assert tuple(image[1, 1]) == BACKGROUNDS["sky blue"]


def test_render_ring_has_a_hole() -> None:
    image = render(Scene((Object("ring", "red", 0.5, 0.5, 0.4),), ("cream",)), 100, 100)
    assert tuple(image[50, 50]) == BACKGROUNDS["cream"]
    assert is_color(image[50, 50 + 29], "red")


@pytest.mark.parametrize("shape", SHAPES)
def test_render_shape_extent_and_anti_aliasing(shape: str) -> None:
    image = render(Scene((Object(shape, "black", 0.501, 0.503, 0.4),), ("cream",)), 128, 128)
    dark = image.mean(-1) < 128
    rows, columns = np.nonzero(dark)
    for extent in (np.ptp(rows), np.ptp(columns)):
        assert 0.75 * 2 * 51 < extent < 1.15 * 2 * 51
    between = (image[..., 0] > 40) & (image[..., 0] < 240)
    assert 0 < between.sum() < 0.06 * image.shape[0] ** 2  # a thin outline of mixed pixels


def test_render_shapes_differ() -> None:
    images = [render(Scene((Object(s, "black", 0.5, 0.5, 0.4),), ("cream",)), 64, 64) for s in SHAPES]
    for i, a in enumerate(images):
        for b in images[:i]:
            assert (a != b).any(-1).mean() > 0.05


def test_scene_relations_match_positions() -> None:
    for scene in scenes(300):
        if scene.relation == "left":
            assert scene.objects[1].x - scene.objects[0].x > 0.35
        elif scene.relation == "above":
            assert scene.objects[1].y - scene.objects[0].y > 0.35


def test_scene_count_equals_visible_objects() -> None:
    seen = set()
    for scene in scenes(80):
        if scene.count < 2 or scene.objects[0].shape == "ring":
            continue
        image = render(scene, 128, 128).astype(float)
        color = np.subtract(COLORS[scene.objects[0].color], image)
        ground = np.min([np.abs(image - BACKGROUNDS[b]).sum(-1) for b in scene.backgrounds], axis=0)
        mask = np.abs(color).sum(-1) < 0.5 * ground  # nearer to the object than to the background
        assert blobs(mask) == scene.count == len(scene.objects)
        seen.add(scene.count)
    assert seen == {2, 3, 4}


def test_scene_objects_contrast_and_stay_inside() -> None:
    for scene in scenes(300):
        for item in scene.objects:
            assert item.radius * 0.9 < min(item.x, item.y, 1 - item.x, 1 - item.y)
            for name in scene.backgrounds:
                assert np.linalg.norm(np.subtract(BACKGROUNDS[name], COLORS[item.color])) > CONTRAST


def test_scenes_contain_every_shape_and_color() -> None:
    items = [item for scene in scenes(400) for item in scene.objects]
    assert {item.shape for item in items} == set(SHAPES)
    assert {item.color for item in items} == set(COLORS)


def test_render_crop_equals_window_of_the_whole() -> None:
    for scene in scenes(10):
        whole = render(scene, 96, 96)
        assert np.array_equal(render(scene, 96, 96, (10, 20, 50, 40)), whole[10:60, 20:60])


def test_render_sizes_share_the_composition() -> None:
    for scene in scenes(10):
        large = render(scene, 128, 128).reshape(32, 4, 32, 4, 3).mean((1, 3))
        assert np.abs(large - render(scene, 32, 32)).mean() < 2.0


def test_render_gradient_from_top_to_bottom() -> None:
    image = render(Scene((Object("circle", "red", 0.5, 0.5, 0.1),), ("cream", "lavender")), 200, 200)
    assert np.abs(image[0, 0].astype(int) - BACKGROUNDS["cream"]).max() <= 1
    assert np.abs(image[-1, 0].astype(int) - BACKGROUNDS["lavender"]).max() <= 1


def test_render_unknown_shape_raises() -> None:
    with pytest.raises(ValueError, match="got 'spoon'"):
        render(Scene((Object("spoon", "red", 0.5, 0.5, 0.1),), ("cream",)), 8, 8)
