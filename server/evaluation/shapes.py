"""The shapes and colours of the demo's world: training renders them, the detector recognises them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
RGB = tuple[int, int, int]

COLORS: dict[str, RGB] = {
    "red": (222, 40, 42),
    "orange": (246, 140, 28),
    "yellow": (250, 214, 40),
    "green": (46, 160, 72),
    "blue": (42, 92, 218),
    "purple": (134, 58, 186),
    "pink": (250, 138, 186),
    "brown": (128, 78, 44),
    "black": (28, 28, 32),
    "white": (253, 253, 253),
    "gray": (134, 137, 142),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "ring")


def signed_distance(shape: str, x: Array, y: Array) -> Array:
    """Distance to the outline of a shape of radius about 1, exact near the outline. Negative inside; y points down."""
    if shape == "circle":
        return np.hypot(x, y) - 0.95
    if shape == "ring":
        return np.abs(np.hypot(x, y) - 0.72) - 0.25
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.84
    if shape == "triangle":  # equilateral, pointing up, its centroid slightly below the centre
        return np.maximum(y - 0.72, np.abs(x) * np.sqrt(0.75) - (y + 0.98) * 0.5).astype(np.float32)
    if shape == "star":
        return _star(x, y)
    if shape == "heart":
        return _heart(x, y)
    raise ValueError(f"shape must be one of {', '.join(SHAPES)}, got {shape!r}")


def _star(x: Array, y: Array) -> Array:
    """A star of five points: the plane is folded into half a sector, where the outline is one line."""
    sector = 2 * np.pi / 5
    angle = np.arctan2(x, -y)
    angle = np.abs((angle + sector / 2) % sector - sector / 2)
    radius = np.hypot(x, y)
    u, v = radius * np.cos(angle), radius * np.sin(angle)  # tip on the u axis
    inner = 0.46
    du, dv = inner * np.cos(sector / 2) - 1.02, inner * np.sin(sector / 2)
    return (((u - 1.02) * dv - v * du) / np.hypot(du, dv)).astype(np.float32)


def _heart(x: Array, y: Array) -> Array:
    """A heart: a square standing on its corner, with half a disc on each of its two upper sides."""
    x, y = np.abs(x), y + 0.06
    half = 0.62  # half a side of the square, and the radius of both discs
    a, b = (x + y) * np.sqrt(0.5), (x - y) * np.sqrt(0.5)  # along the lower right and the upper right side
    square = np.maximum(np.abs(a - 0.1), np.abs(b + 0.1)) - half
    disc = np.hypot(a - 0.1, b - (half - 0.1)) - half
    return np.minimum(square, disc).astype(np.float32)
