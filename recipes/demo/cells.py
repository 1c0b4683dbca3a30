"""The map of a scene: object and background of each cell of the latent grid.

It supervises two networks that the diffusion loss alone teaches slowly: the text encoder before diffusion (reading.py),
and an early block of the transformer during it (representation alignment, arXiv 2410.06940, with this exact target
instead of the features of another network).
"""

import numpy as np
import torch
import torch.nn.functional as F

from server.evaluation.grounds import BACKGROUNDS, HORIZON, LANDSCAPES
from server.evaluation.shapes import COLORS
from server.evaluation.things import KINDS, PATTERNS

from .world import Scene

GROUNDS = (*BACKGROUNDS, *LANDSCAPES)
SURFACES = ("", *PATTERNS)
CLASSES = (len(KINDS) + 1, len(COLORS) + 1, len(GROUNDS), len(SURFACES))
MIN_RADIUS = 0.75  # in cells: a small object between four cell centres still covers them


def scene_cells(scene: Scene, height: int, width: int) -> np.ndarray:
    """int64 [height, width, 4]: shape and colour of the object covering the cell (0: none), background, pattern."""
    y, x = np.mgrid[:height, :width] + 0.5
    unit = min(height, width)
    cells = np.zeros((height, width, 4), np.int64)
    names = scene.ground.names
    edge = round((HORIZON if scene.ground.kind == "landscape" else 0.5) * height)
    cells[..., 2] = GROUNDS.index(names[-1])
    cells[:edge, :, 2] = GROUNDS.index(names[0])
    for item in scene.objects:  # from back to front
        inside = np.hypot(x - item.x * width, y - item.y * height) <= max(item.radius * unit, MIN_RADIUS)
        cells[inside, 0] = 1 + KINDS.index(item.shape)
        cells[inside, 1] = 1 + list(COLORS).index(item.color)
        cells[inside, 3] = SURFACES.index(item.pattern)
    return cells


def cell_loss(logits: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of logits [..., sum(CLASSES)] against cells [..., 4]."""
    parts = logits.float().flatten(0, -2).split(CLASSES, dim=-1)
    wanted = cells.flatten(0, -2).unbind(-1)
    return torch.stack([F.cross_entropy(part, want) for part, want in zip(parts, wanted, strict=True)]).mean()
