"""Object detection without a network: regions that differ from the background, compared with each kind's layers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .grounds import BACKGROUNDS, LANDSCAPES
from .shapes import COLORS, RGB, SHAPES
from .things import KINDS, PATTERNS, layers

Mask = NDArray[np.bool_]
Labels = NDArray[np.int64]  # colours as indices into COLORS, NOTHING elsewhere
SIDE = 48  # regions are compared at this size
MIN_AREA = 0.003  # share of the image; smaller regions are noise
MIN_DIFFERENCE = 40  # RGB distance between an object and its background
MIN_AGREEMENT = 0.6  # share of the pixels that have the right colour
MIN_PART, MIN_PART_AGREEMENT = 0.05, 0.35  # smaller parts are not required; share of a part with the right colour
NOTHING, MAIN = -1, -2  # MAIN: the colour that names the object
NAMES, PALETTE = list(COLORS), np.array(list(COLORS.values()), np.float64)


@dataclass(frozen=True)
class Detection:
    """One object found in an image. `shape` is "" where no kind has its outline and the colours of its parts."""

    shape: str
    color: str
    x: float  # centre of the bounding box, as a share of the width and height
    y: float
    area: float
    pattern: str = ""


def detect(pixels: NDArray[np.uint8]) -> list[Detection]:
    """Objects of a uint8 [H, W, 3] image, largest first."""
    image = pixels.astype(np.float64)
    return list(_objects(image, np.linalg.norm(image - background(image), axis=-1) > MIN_DIFFERENCE))


def detect_inside(pixels: NDArray[np.uint8]) -> list[Detection]:
    """The largest object, and those inside it."""
    image = pixels.astype(np.float64)
    for mask in regions(np.linalg.norm(image - background(image), axis=-1) > MIN_DIFFERENCE):
        if mask.mean() < 0.1:
            continue
        labels = nearest(image)
        host = np.bincount(labels[mask & ~eroded(mask, 6) & eroded(mask, 2)], minlength=len(NAMES)).argmax()
        outline = mask & (np.linalg.norm(image - PALETTE[host], axis=-1) > MIN_DIFFERENCE) & eroded(mask, 5)
        outer = _recognized(mask, np.full_like(labels, host))
        return [outer, *_objects(image, outline)]
    return []


def _objects(image: NDArray[np.float64], different: Mask) -> Iterator[Detection]:
    labels = nearest(image)
    found = [mask for mask in regions(different) if mask.mean() >= MIN_AREA]
    for mask in sorted(found, key=lambda m: -m.mean()):
        yield _recognized(mask, labels)


def _recognized(mask: Mask, labels: Labels) -> Detection:
    """The kind and colour whose layers, stretched to the same box, agree best with the colours of a region."""
    rows, columns = np.nonzero(mask)
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    box = slice(top, bottom), slice(left, right)
    shown, inside = _stretched(labels[box]), _stretched(mask[box].astype(np.int64)) > 0
    best, result = 0.0, ("", NAMES[np.bincount(labels[mask], minlength=len(NAMES)).argmax()], "")
    for (kind, pattern), template in TEMPLATES.items():
        for color in np.unique(shown[inside]):
            wanted = _colored(template, kind, pattern, int(color))
            # A white window of a house on snow belongs to the background.
            right_color = (shown == wanted) & (inside | (template >= 0))
            agreement = right_color.sum() / (inside | (wanted >= 0)).sum()
            if agreement > max(best, MIN_AGREEMENT) and _complete(template, right_color):
                best, result = float(agreement), (kind, NAMES[color], pattern)
    height, width = mask.shape
    x, y = float((left + right) / 2 / width), float((top + bottom) / 2 / height)
    return Detection(result[0], result[1], x, y, float(mask.mean()), result[2])


def _complete(template: Labels, right_color: Mask) -> bool:
    """Whether each part of the template is there, unless it is too small to tell."""
    whole = (template != NOTHING).sum()
    parts = [template == part for part in np.unique(template) if part != NOTHING]
    return all(right_color[p].mean() >= MIN_PART_AGREEMENT for p in parts if p.sum() >= MIN_PART * whole)


def shown_ground(pixels: NDArray[np.uint8]) -> tuple[str, str]:
    """Names of the background's colours near the top and near the bottom; a landscape's name stands for its parts."""
    rows = background(pixels.astype(np.float64))[:, 0]
    count = len(rows)
    ends = rows[: count // 8].mean(0), rows[-count // 8 :].mean(0)
    known: tuple[list[tuple[str, RGB]], ...] = tuple(
        [*BACKGROUNDS.items(), *((name, rgb[end]) for name, rgb in LANDSCAPES.items())] for end in (0, 1)
    )
    top, bottom = (
        min(names, key=lambda item: float(np.linalg.norm(np.subtract(rgb, item[1]))))[0]
        for names, rgb in zip(known, ends, strict=True)
    )
    return top, bottom


def background(image: NDArray[np.float64]) -> NDArray[np.floating[Any]]:
    """Background colour of each row, [H, 1, 3]: the median of the outer columns, which objects do not reach."""
    border = max(2, image.shape[1] // 32)
    rows = np.median(np.concatenate([image[:, :border], image[:, -border:]], axis=1), axis=1)
    return np.asarray(rows[:, None])


def nearest(image: NDArray[np.float64]) -> Labels:
    """Index into COLORS of the colour nearest to each pixel, [H, W]."""
    return np.asarray(((image[..., None, :] - PALETTE) ** 2).sum(-1).argmin(-1), np.int64)


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


def eroded(mask: Mask, pixels: int) -> Mask:
    """The mask without its outer pixels."""
    padded, shape, steps = np.pad(mask, pixels), mask.shape, (0, pixels, 2 * pixels)
    return np.all([padded[i : i + shape[0], j : j + shape[1]] for i in steps for j in steps], axis=0)


def _stretched(labels: Labels) -> Labels:
    rows, columns = (np.arange(SIDE) * size // SIDE for size in labels.shape)
    return labels[np.ix_(rows, columns)]


def _template(kind: str, pattern: str) -> Labels:
    """The layers of a kind in its bounding box: MAIN, the colours of the other layers, or NOTHING."""
    axis = np.linspace(-1.3, 1.3, 8 * SIDE)
    labels = np.full((len(axis), len(axis)), NOTHING)
    for layer in layers(kind, pattern):
        inside = np.broadcast_to(layer.distance(axis[None, :], axis[:, None]) < 0, labels.shape)
        labels[inside] = NAMES.index(layer.color) if layer.color else MAIN
    rows, columns = np.nonzero(labels != NOTHING)
    return _stretched(labels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1])


def _colored(template: Labels, kind: str, pattern: str, main: int) -> Labels:
    """The template of an object whose main colour has this index."""
    wanted = template.copy()
    for layer in layers(kind, pattern):
        if layer.color == NAMES[main]:
            wanted[template == main] = NAMES.index(layer.other)
    wanted[template == MAIN] = main
    return wanted


TEMPLATES = {(kind, ""): _template(kind, "") for kind in KINDS} | {
    (shape, pattern): _template(shape, pattern) for shape in SHAPES for pattern in PATTERNS
}
