"""A rendered image shows its scene."""

from random import Random

import numpy as np
import pytest

from recipes.demo.render import render
from recipes.demo.world import Object, Scene, sample_scene
from server.evaluation.grounds import BACKGROUNDS, LANDSCAPES, Ground
from server.evaluation.shapes import COLORS, SHAPES
from server.evaluation.things import KINDS, PATTERNS, THINGS, layers

CREAM = Ground("plain", ("cream",))


def one(shape: str, color: str = "black", radius: float = 0.4, pattern: str = "", ground: Ground = CREAM) -> Scene:
    return Scene((Object(shape, color, 0.501, 0.503, radius, pattern=pattern),), ground)


def scenes(count: int) -> list[Scene]:
    return [sample_scene(Random(seed)) for seed in range(count)]


def is_color(pixel: np.ndarray, name: str) -> bool:
    return bool(np.abs(pixel.astype(int) - COLORS[name]).max() <= 1)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "ring"])
def test_render_solid_shape_centre_has_its_color(shape: str) -> None:
    for color in COLORS:
        image = render(one(shape, color, 0.3), 64, 64)
        assert is_color(image[32, 32], color)
        assert tuple(image[1, 1]) == BACKGROUNDS["cream"]


def test_render_ring_has_a_hole() -> None:
    image = render(one("ring", "red"), 100, 100)
    assert tuple(image[50, 50]) == BACKGROUNDS["cream"]
    assert is_color(image[50, 50 + 29], "red")


@pytest.mark.parametrize("shape", SHAPES)
def test_render_shape_extent_and_anti_aliasing(shape: str) -> None:
    image = render(one(shape), 128, 128)
    rows, columns = np.nonzero(image[..., 0] < 100)
    for extent in (np.ptp(rows), np.ptp(columns)):
        assert 0.75 * 2 * 51 < extent < 1.15 * 2 * 51
    between = (image[..., 0] > 40) & (image[..., 0] < 240)
    assert 0 < between.sum() < 0.06 * image.shape[0] ** 2  # a thin outline of mixed pixels


def test_render_kinds_differ() -> None:
    images = [render(one(kind), 64, 64) for kind in KINDS]
    for i, a in enumerate(images):
        for b in images[:i]:
            assert (a != b).any(-1).mean() > 0.05


@pytest.mark.parametrize("thing", THINGS)
def test_render_thing_shows_all_its_layers(thing: str) -> None:
    image = render(one(thing, "purple", ground=Ground("plain", ("light pink",))), 256, 256)
    for layer in layers(thing):
        wanted = np.array(COLORS[layer.color_on("purple")])
        assert (np.abs(image - wanted.astype(float)).max(-1) <= 1).sum() > 40, layer


@pytest.mark.parametrize("pattern", PATTERNS)
def test_render_pattern_keeps_color_and_outline(pattern: str) -> None:
    plain, patterned = (render(one("square", "blue", pattern=p), 128, 128) for p in ("", pattern))
    second = BACKGROUNDS["cream"] if pattern == "outlined" else COLORS["white"]
    changed = (plain != patterned).any(-1)
    assert 0.1 < changed.mean() < 0.45
    assert (np.abs(patterned[changed].astype(int) - second).max(-1) <= 1).mean() > 0.7


def test_render_crop_equals_window_of_the_whole() -> None:
    for scene in scenes(20):
        whole = render(scene, 96, 96)
        assert np.array_equal(render(scene, 96, 96, (10, 20, 50, 40)), whole[10:60, 20:60])


def test_render_sizes_share_the_composition() -> None:
    for scene in scenes(10):
        large = render(scene, 128, 128).reshape(32, 4, 32, 4, 3).mean((1, 3))
        assert np.abs(large - render(scene, 32, 32)).mean() < 2.5


@pytest.mark.parametrize("kind", ["gradient", "halves"])
def test_render_two_colors_from_top_to_bottom(kind: str) -> None:
    image = render(one("circle", "red", 0.1, ground=Ground(kind, ("cream", "lavender"))), 200, 200).astype(int)
    assert np.abs(image[0, 0] - BACKGROUNDS["cream"]).max() <= 1
    assert np.abs(image[-1, 0] - BACKGROUNDS["lavender"]).max() <= 1
    assert (np.abs(image[80, 0] - BACKGROUNDS["cream"]).max() <= 1) == (kind == "halves")


@pytest.mark.parametrize("name", LANDSCAPES)
def test_render_landscape_has_sky_and_ground(name: str) -> None:
    image = render(one("star", "red", 0.1, ground=Ground("landscape", (name,))), 100, 150)
    sky, ground = LANDSCAPES[name]
    assert tuple(image[1, 1]) == sky
    assert tuple(image[-2, 1]) == ground


def test_render_unknown_shape_raises() -> None:
    with pytest.raises(ValueError, match="got 'spoon'"):
        render(one("spoon"), 8, 8)
