"""The map of a scene: object and background of each cell of the latent grid.

It supervises two networks that the diffusion loss alone teaches slowly: the text encoder before diffusion (reading.py),
and an early block of the transformer during it (representation alignment, arXiv 2410.06940, with this exact target
instead of the features of another network).
"""

import numpy as np
import torch
import torch.nn.functional as F

from server.evaluation.shapes import COLORS, SHAPES

from .world import BACKGROUNDS, Scene

SHAPE_CLASSES, COLOR_CLASSES, GROUND_CLASSES = len(SHAPES) + 1, len(COLORS) + 1, len(BACKGROUNDS)
CLASSES = (SHAPE_CLASSES, COLOR_CLASSES, GROUND_CLASSES)
MIN_RADIUS = 0.75  # in cells: a small object between four cell centres still covers them


def scene_cells(scene: Scene, height: int, width: int) -> np.ndarray:
    """int64 [height, width, 3]: shape and colour of the object covering the cell (0: none), nearest background."""
    y, x = np.mgrid[:height, :width] + 0.5
    unit = min(height, width)
    cells = np.zeros((height, width, 3), np.int64)
    names = list(BACKGROUNDS)
    cells[..., 2] = names.index(scene.backgrounds[-1])
    cells[: (height + 1) // 2, :, 2] = names.index(scene.backgrounds[0])
    nearest = np.full((height, width), np.inf)
    for item in scene.objects:
        distance = np.hypot(x - item.x * width, y - item.y * height)
        inside = (distance <= max(item.radius * unit, MIN_RADIUS)) & (distance < nearest)
        nearest[inside] = distance[inside]
        cells[inside, 0] = 1 + SHAPES.index(item.shape)
        cells[inside, 1] = 1 + list(COLORS).index(item.color)
    return cells


def cell_loss(logits: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of logits [..., sum(CLASSES)] against cells [..., 3]."""
    parts = logits.float().flatten(0, -2).split(CLASSES, dim=-1)
    wanted = cells.flatten(0, -2).unbind(-1)
    return torch.stack([F.cross_entropy(part, want) for part, want in zip(parts, wanted, strict=True)]).mean()
