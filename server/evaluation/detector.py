"""Object detection without a network: regions that differ from the background, named by colour and best mask."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .shapes import COLORS, SHAPES, signed_distance

Mask = NDArray[np.bool_]
SIDE = 32  # masks are compared at this size
MIN_AREA = 0.003  # share of the image; smaller regions are noise


@dataclass(frozen=True)
class Detection:
    """One object found in an image."""

    shape: str
    color: str
    x: float  # centre of the bounding box, as a share of the width and height
    y: float
    area: float


def detect(pixels: NDArray[np.uint8]) -> list[Detection]:
    """Objects of a uint8 [H, W, 3] image, largest first."""
    image = pixels.astype(np.float64)
    height, width = image.shape[:2]
    found = []
    for mask in regions(np.linalg.norm(image - background(image), axis=-1) > 45):
        area = float(mask.mean())
        if area < MIN_AREA:
            continue
        rows, columns = np.nonzero(mask)
        top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
        inner = image[eroded(mask)] if eroded(mask).any() else image[mask]
        shape = best_shape(mask[top:bottom, left:right])
        found.append(
            Detection(shape, nearest_color(inner), (left + right) / 2 / width, (top + bottom) / 2 / height, area)
        )
    return sorted(found, key=lambda d: -d.area)


def background(image: NDArray[np.float64]) -> NDArray[np.floating[Any]]:
    """Background colour of each row, [H, 1, 3]: a straight line fitted to the medians of the outer columns.

    Backgrounds are plain or a vertical gradient.
    """
    border = max(1, image.shape[1] // 24)
    rows = np.median(np.concatenate([image[:, :border], image[:, -border:]], axis=1), axis=1)
    y = np.linspace(-1, 1, len(rows))
    fit = [np.polynomial.polynomial.polyval(y, np.polynomial.polynomial.polyfit(y, rows[:, c], 1)) for c in range(3)]
    return np.stack(fit, axis=-1)[:, None]


def regions(mask: Mask) -> list[Mask]:
    """Connected regions (8 neighbours), found by spreading the largest label of each."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        padded = np.pad(labels, 1)
        spread = np.max(
            [padded[i : i + mask.shape[0], j : j + mask.shape[1]] for i in range(3) for j in range(3)], axis=0
        )
        spread = np.where(mask, spread, 0)
        if np.array_equal(spread, labels):
            return [labels == label for label in np.unique(labels) if label]
        # Take over the label of the pixel that the label came from: spreading one pixel at a time is slow.
        flat = np.concatenate([[0], spread.ravel()])
        labels = np.where(mask, np.maximum(spread, flat[spread]), 0)


def eroded(mask: Mask) -> Mask:
    """The mask without its two outer pixels, where anti-aliasing mixes colours."""
    padded = np.pad(mask, 2)
    shape = mask.shape
    return np.all([padded[i : i + shape[0], j : j + shape[1]] for i in (0, 2, 4) for j in (0, 2, 4)], axis=0)


def nearest_color(pixels: NDArray[np.float64]) -> str:
    """Name of the colour nearest to the median of the pixels, [N, 3]."""
    middle = np.median(pixels, axis=0)
    return min(COLORS, key=lambda name: float(np.linalg.norm(middle - COLORS[name])))


def best_shape(mask: Mask) -> str:
    """The shape whose mask, stretched to the same box, overlaps most (intersection over union)."""
    rows = np.arange(SIDE) * mask.shape[0] // SIDE
    columns = np.arange(SIDE) * mask.shape[1] // SIDE
    small = mask[np.ix_(rows, columns)]

    def overlap(shape: str) -> float:
        template = TEMPLATES[shape]
        return float((small & template).sum() / (small | template).sum())

    return max(SHAPES, key=overlap)


def _template(shape: str) -> Mask:
    axis = np.linspace(-1.3, 1.3, 8 * SIDE)
    mask = signed_distance(shape, axis[None, :], axis[:, None]) < 0
    rows, columns = np.nonzero(mask)
    box = mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    return box[np.ix_(np.arange(SIDE) * box.shape[0] // SIDE, np.arange(SIDE) * box.shape[1] // SIDE)]


TEMPLATES = {shape: _template(shape) for shape in SHAPES}
