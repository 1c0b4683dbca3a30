"""The map of a scene: object and background of each cell."""

import numpy as np
import pytest
import torch

from recipes.demo.cells import CLASSES, GROUNDS, SURFACES, cell_loss, scene_cells
from recipes.demo.world import Object, Scene
from server.evaluation.grounds import Ground
from server.evaluation.shapes import COLORS
from server.evaluation.things import KINDS

CREAM = Ground("plain", ("cream",))
PAIR = Scene(
    (Object("star", "red", 0.25, 0.5, 0.17), Object("cat", "blue", 0.75, 0.5, 0.17, pattern="striped")),
    Ground("halves", ("cream", "teal")),
)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (4, 4), (16, 16), (8, 12)])
def test_scene_cells_hold_each_object_on_its_side(height: int, width: int) -> None:
    cells = scene_cells(PAIR, height, width)
    left, right = cells[:, : width // 2], cells[:, width // 2 :]
    assert set(np.unique(left[..., 0])) == {0, 1 + KINDS.index("star")}
    assert set(np.unique(right[..., 0])) == {0, 1 + KINDS.index("cat")}
    assert set(np.unique(left[..., 1])) == {0, 1 + list(COLORS).index("red")}
    assert set(np.unique(right[..., 3])) == {0, SURFACES.index("striped")}
    assert ((cells[..., 0] > 0) == (cells[..., 1] > 0)).all()


def test_scene_cells_split_a_background_of_two_colors() -> None:
    ground = scene_cells(PAIR, 8, 8)[..., 2]
    assert (ground[:4] == GROUNDS.index("cream")).all()
    assert (ground[4:] == GROUNDS.index("teal")).all()


def test_scene_cells_show_the_object_in_front() -> None:
    inside = Scene((Object("circle", "red", 0.5, 0.5, 0.4), Object("star", "blue", 0.5, 0.5, 0.15)), CREAM, "inside")
    cells = scene_cells(inside, 8, 8)
    assert cells[4, 4, 0] == 1 + KINDS.index("star")
    assert cells[4, 1, 0] == 1 + KINDS.index("circle")


def test_scene_cells_small_object_covers_four_cells() -> None:
    cells = scene_cells(Scene((Object("circle", "red", 0.5, 0.5, 0.14),), CREAM), 4, 4)
    assert (cells[1:3, 1:3, 0] > 0).all()
    assert (cells[..., 0] > 0).sum() == 4


def test_cell_loss_of_the_right_map_is_zero() -> None:
    cells = torch.from_numpy(scene_cells(PAIR, 8, 8)).flatten(0, 1)
    right = torch.cat(
        [torch.nn.functional.one_hot(cells[:, i], count) for i, count in enumerate(CLASSES)], dim=-1
    ).float()
    assert cell_loss(30 * right, cells) < 1e-3
    assert cell_loss(torch.zeros_like(right), cells) == pytest.approx(np.log(CLASSES).mean(), rel=1e-4)
