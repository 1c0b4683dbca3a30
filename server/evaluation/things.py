"""Composed things of the demo's world as flat layers of signed distances: training renders and the exam detects them.

Coordinates are those of shapes.py: a thing has a radius of about 1, y points down. The first layer has the colour that
a caption names; each other layer has its own, and a second one for things of that same colour.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .shapes import SHAPES, Array, signed_distance

Distance = Callable[[Array, Array], Array]


@dataclass(frozen=True)
class Layer:
    """One flat part.

    Args:
        distance: signed distance of the part.
        color: name of its colour, "" for the colour of the thing.
        other: name of its colour on a thing of the colour `color`.
        outer: whether it touches the background, from which it must then differ.
    """

    distance: Distance
    color: str = ""
    other: str = ""
    outer: bool = True

    def color_on(self, main: str) -> str:
        """The colour's name on a thing of the colour `main`."""
        return main if not self.color else self.other if self.color == main else self.color


def disc(cx: float, cy: float, radius: float) -> Distance:
    return lambda x, y: np.hypot(x - cx, y - cy) - radius


def ellipse(cx: float, cy: float, a: float, b: float) -> Distance:
    """Half axes a and b; exact at the outline only."""
    return lambda x, y: (np.hypot((x - cx) / a, (y - cy) / b) - 1) * min(a, b)


def box(cx: float, cy: float, a: float, b: float, corner: float = 0.0) -> Distance:
    """Half sides a and b; `corner`: radius of the rounded corners."""

    def distance(x: Array, y: Array) -> Array:
        dx, dy = np.abs(x - cx) - (a - corner), np.abs(y - cy) - (b - corner)
        outside = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0))
        return np.asarray(outside + np.minimum(np.maximum(dx, dy), 0) - corner)

    return distance


def polygon(*corners: tuple[float, float]) -> Distance:
    """A convex polygon, its corners clockwise on the screen."""
    sides = list(zip(corners, (*corners[1:], corners[0]), strict=True))

    def distance(x: Array, y: Array) -> Array:
        planes = [((x - ax) * (by - ay) - (y - ay) * (bx - ax)) / np.hypot(bx - ax, by - ay)
                  for (ax, ay), (bx, by) in sides]  # fmt: skip
        return np.asarray(np.maximum.reduce(np.broadcast_arrays(*planes)))

    return distance


def union(*parts: Distance) -> Distance:
    return lambda x, y: np.asarray(np.minimum.reduce(np.broadcast_arrays(*(part(x, y) for part in parts))))


def crescent(x: Array, y: Array) -> Array:
    return np.maximum(disc(-0.05, 0, 0.85)(x, y), -disc(0.33, -0.2, 0.68)(x, y))


def sun(x: Array, y: Array) -> Array:
    """A disc and eight rays: the plane is folded into the sector of one ray."""
    sector = np.pi / 4
    radius, angle = np.hypot(x, y), np.arctan2(x, -y)
    angle = (angle + sector / 2) % sector - sector / 2
    ray = box(0.72, 0, 0.24, 0.085, 0.05)(radius * np.cos(angle), radius * np.sin(angle))
    return np.minimum(radius - 0.52, ray)


PETALS = union(*(disc(0.34 * np.sin(a), -0.36 - 0.34 * np.cos(a), 0.25) for a in np.arange(6) * np.pi / 3))
CROWN = union(disc(0, -0.5, 0.46), disc(-0.38, -0.02, 0.42), disc(0.38, -0.02, 0.42), disc(0, 0.05, 0.4))
CLOUD = union(disc(-0.5, 0.12, 0.36), disc(-0.08, -0.12, 0.48), disc(0.48, 0.1, 0.38), box(0, 0.3, 0.5, 0.18))
CAT = union(
    ellipse(0, 0.14, 0.82, 0.7),
    polygon((-0.74, -0.86), (-0.2, -0.4), (-0.76, 0.1)),
    polygon((0.74, -0.86), (0.76, 0.1), (0.2, -0.4)),
)
THINGS: dict[str, tuple[Layer, ...]] = {
    "house": (
        Layer(box(0, 0.34, 0.64, 0.54)),
        Layer(polygon((-0.9, -0.14), (0, -0.9), (0.9, -0.14)), "brown", "gray"),
        Layer(box(-0.24, 0.58, 0.16, 0.3), "brown", "gray", outer=False),
        Layer(box(0.29, 0.3, 0.17, 0.17), "white", "gray", outer=False),
    ),
    "tree": (Layer(CROWN), Layer(box(0, 0.66, 0.13, 0.3), "brown", "black")),
    "flower": (
        Layer(PETALS),
        Layer(disc(0, -0.36, 0.22), "yellow", "brown", outer=False),
        Layer(union(box(0, 0.56, 0.09, 0.4), ellipse(0.24, 0.62, 0.22, 0.12)), "green", "brown"),
    ),
    "fish": (
        Layer(union(ellipse(-0.16, 0, 0.74, 0.46), polygon((0.3, 0), (0.92, -0.46), (0.92, 0.46)))),
        Layer(disc(-0.5, -0.1, 0.13), "white", "gray", outer=False),
        Layer(disc(-0.5, -0.1, 0.065), "black", "white", outer=False),
    ),
    "boat": (
        Layer(polygon((-0.9, 0.28), (0.9, 0.28), (0.55, 0.76), (-0.55, 0.76))),
        Layer(box(-0.05, -0.3, 0.05, 0.58), "brown", "black"),
        Layer(polygon((-0.02, -0.86), (0.72, 0.14), (-0.02, 0.14)), "yellow", "orange"),
    ),
    "sun": (Layer(sun),),
    "moon": (Layer(crescent),),
    "cloud": (Layer(CLOUD),),
    "car": (
        Layer(
            union(box(0, 0.14, 0.94, 0.27, 0.12), polygon((-0.38, -0.5), (0.3, -0.5), (0.58, -0.08), (-0.62, -0.08)))
        ),
        Layer(union(disc(-0.5, 0.42, 0.23), disc(0.5, 0.42, 0.23)), "black", "gray"),
        Layer(
            union(box(-0.2, -0.24, 0.17, 0.14), polygon((0.06, -0.38), (0.24, -0.38), (0.4, -0.1), (0.06, -0.1))),
            *("white", "gray"),
            outer=False,
        ),
    ),
    "cat": (
        Layer(CAT),
        Layer(union(disc(-0.34, 0.04, 0.17), disc(0.34, 0.04, 0.17)), "yellow", "green", outer=False),
        Layer(union(ellipse(-0.34, 0.04, 0.07, 0.14), ellipse(0.34, 0.04, 0.07, 0.14)), "black", "black", outer=False),
        Layer(polygon((-0.12, 0.3), (0.12, 0.3), (0, 0.44)), "pink", "brown", outer=False),
    ),
}
DEFAULT_COLORS = {
    **{"house": "orange", "tree": "green", "flower": "pink", "fish": "orange", "boat": "red"},
    **{"sun": "yellow", "moon": "yellow", "cloud": "white", "car": "red", "cat": "gray"},
}
KINDS = (*SHAPES, *THINGS)
HOSTS = ("circle", "square", "heart")  # have room for another object inside
SKY_THINGS = ("sun", "moon", "cloud")
STANDING = ("house", "tree", "flower", "car", "cat")
INHABITANTS: dict[str, tuple[str, ...]] = {  # what each landscape shows
    "grass": STANDING,
    "snow": STANDING,
    "sea": ("boat", "fish"),
    "night sky": ("moon", "cloud", "star"),
}


PATTERNS = ("striped", "dotted", "outlined")
# In radii: width of a stripe, distance and radius of the dots, plain border around both, half the width of an outline.
STRIPE, DOT_SPACING, DOT, BORDER, OUTLINE = 0.24, 0.52, 0.15, 0.1, 0.09


def layers(kind: str, pattern: str = "") -> tuple[Layer, ...]:
    """The layers of a shape or a thing, from back to front. Raises ValueError for an unknown one."""
    if kind in THINGS:
        return THINGS[kind]

    def shape(x: Array, y: Array) -> Array:
        return signed_distance(kind, x, y)

    if pattern == "outlined":
        return (Layer(lambda x, y: np.abs(shape(x, y) + OUTLINE) - OUTLINE),)
    if not pattern:
        return (Layer(shape),)
    inner = stripes if pattern == "striped" else dots
    second = Layer(lambda x, y: np.maximum(shape(x, y) + BORDER, inner(x, y)), "white", "gray", outer=False)
    return Layer(shape), second


def stripes(x: Array, y: Array) -> Array:
    """Horizontal stripes, one of the shape's own colour in the middle."""
    return np.asarray(STRIPE / 2 - np.abs((y % (2 * STRIPE)) - STRIPE) + 0 * x)


def dots(x: Array, y: Array) -> Array:
    u, v = ((axis + DOT_SPACING / 2) % DOT_SPACING - DOT_SPACING / 2 for axis in (x, y))
    return np.asarray(np.hypot(u, v) - DOT)
