"""Renders a scene by anti-aliased signed distances, in flat colours."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from server.evaluation.grounds import STAR_COLOR, STAR_RADIUS, STARS
from server.evaluation.shapes import COLORS, RGB
from server.evaluation.things import Distance, disc, layers

from .world import Scene

EXTENT = 1.15  # no layer reaches further from the centre, in radii


def render(scene: Scene, height: int, width: int, crop: tuple[int, int, int, int] | None = None) -> NDArray[np.uint8]:
    """Renders `scene` at height x width px, or only the window crop = (top, left, h, w). Returns uint8 [h, w, 3]."""
    top, left, rows, columns = crop or (0, 0, height, width)
    y = np.arange(rows, dtype=np.float32) + (top + 0.5)
    x = np.arange(columns, dtype=np.float32) + (left + 0.5)
    canvas = np.broadcast_to(scene.ground.rows(y, height)[:, None], (rows, columns, 3)).astype(np.float32)
    unit = min(height, width)

    def paint(cx: float, cy: float, radius: float, parts: Iterable[tuple[Distance, RGB]]) -> None:
        """Blends flat parts into the box around a centre; pixels outside the box are not computed."""
        radius *= unit
        u, v = (x - cx * width) / radius, (y - cy * height) / radius
        reach = EXTENT + 1 / radius
        (i, j), (k, m) = (np.searchsorted(axis, (-reach, reach)) for axis in (v, u))
        if i == j or k == m:
            return
        u, v = u[None, k:m], v[i:j, None]
        window = canvas[i:j, k:m]
        for distance, rgb in parts:
            cover = np.clip(0.5 - distance(u, v) * radius, 0.0, 1.0)[..., None]
            window += cover * (np.array(rgb, np.float32) - window)

    if scene.ground.names == ("night sky",):
        for cx, cy in STARS:
            paint(cx, cy, STAR_RADIUS, [(disc(0, 0, 1), STAR_COLOR)])
    for item in scene.objects:
        parts = layers(item.shape, item.pattern)
        paint(item.x, item.y, item.radius, [(p.distance, COLORS[p.color_on(item.color)]) for p in parts])
    return np.rint(canvas).astype(np.uint8)
