"""The procedural world of the demo model: flat shapes on plain backgrounds, rendered by anti-aliased signed distances.

A `Scene` is pure data in units of the canvas (0..1), so one scene renders at any size: the cascade 128 -> 256 and
the autoencoder's crops show the same world. New shapes, backgrounds and layouts are added here.
"""

from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

from server.evaluation.shapes import COLORS, RGB, SHAPES, signed_distance
from server.evaluation.suite import held_out

BACKGROUNDS: dict[str, RGB] = {
    "cream": (250, 244, 228),
    "light blue": (204, 228, 248),
    "light green": (212, 239, 208),
    "light pink": (251, 222, 231),
    "light gray": (225, 227, 231),
    "lavender": (226, 217, 246),
    "sky blue": (122, 184, 232),
    "teal": (58, 132, 136),
    "navy": (36, 50, 92),
}
PALE = 6  # the first six are the common ones; the dark ones exist for white objects
CONTRAST = 90.0  # minimum RGB distance between an object and its background

SIZES = {"small": 0.14, "": 0.25, "large": 0.38}  # radius of a single object; "" is the size that no caption mentions
PAIR_RADIUS = 0.17
COUNT_LAYOUTS: dict[int, tuple[float, tuple[tuple[float, float], ...]]] = {
    2: (0.17, ((0.27, 0.5), (0.73, 0.5))),
    3: (0.135, ((0.19, 0.5), (0.5, 0.5), (0.81, 0.5))),
    4: (0.16, ((0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73))),
}


@dataclass(frozen=True)
class Object:
    shape: str
    color: str
    x: float  # centre, fraction of the width
    y: float  # centre, fraction of the height, downwards
    radius: float  # fraction of the shorter side
    size: str = ""  # word for the radius, "" for the default size


@dataclass(frozen=True)
class Scene:
    objects: tuple[Object, ...]
    backgrounds: tuple[str, ...]  # one name: plain; two: a gradient from top to bottom
    relation: str = ""  # of objects[0] to objects[1]: "left" or "above" (captions also state the inverse)

    @property
    def count(self) -> int:
        """Number of copies of one object, 0 when the objects differ."""
        return len(self.objects) if not self.relation else 0


def sample_scene(rng: Random, unseen: bool = False) -> Scene:
    """One random scene: a single object, a pair in a relation, or two to four copies of one object.

    Args:
        unseen: only combinations that are held out from training, instead of only the others.
    """
    while True:
        scene = _sample(rng)
        if held_out(((o.shape, o.color) for o in scene.objects), scene.objects[0].size) == unseen:
            return scene


def _sample(rng: Random) -> Scene:
    kind = rng.choices(("single", "pair", "count"), (0.25, 0.5, 0.25))[0]
    if kind == "single":
        size = rng.choices(tuple(SIZES), (0.25, 0.5, 0.25))[0]
        objects = [_object(rng, _look(rng), 0.5, 0.5, SIZES[size], 0.04, size)]
        relation = ""
    elif kind == "pair":
        relation = rng.choice(("left", "above"))
        centers = ((0.27, 0.5), (0.73, 0.5)) if relation == "left" else ((0.5, 0.27), (0.5, 0.73))
        first, second = _look(rng), _look(rng)
        while second == first:
            second = _look(rng)
        objects = [
            _object(rng, look, x, y, PAIR_RADIUS, 0.03) for look, (x, y) in zip((first, second), centers, strict=True)
        ]
    else:
        relation, look = "", _look(rng)
        radius, positions = COUNT_LAYOUTS[rng.randint(2, 4)]
        objects = [_object(rng, look, x, y, radius, 0.015) for x, y in positions]
    return Scene(tuple(objects), _backgrounds(rng, {o.color for o in objects}), relation)


def _look(rng: Random) -> tuple[str, str]:
    return rng.choice(SHAPES), rng.choice(tuple(COLORS))


def _object(
    rng: Random, look: tuple[str, str], x: float, y: float, radius: float, jitter: float, size: str = ""
) -> Object:
    dx, dy = rng.uniform(-jitter, jitter), rng.uniform(-jitter, jitter)
    return Object(look[0], look[1], x + dx, y + dy, radius * rng.uniform(0.95, 1.05), size)


def _backgrounds(rng: Random, colors: set[str]) -> tuple[str, ...]:
    names = [b for b, rgb in BACKGROUNDS.items() if all(_distance(rgb, COLORS[c]) > CONTRAST for c in colors)]
    pale = [b for b in names if b in tuple(BACKGROUNDS)[:PALE]]
    pool = pale if pale and rng.random() < 0.9 else names
    first = rng.choice(pool)
    others = [b for b in pool if b != first]
    return (first, rng.choice(others)) if others and rng.random() < 0.2 else (first,)


def _distance(a: RGB, b: RGB) -> float:
    return float(np.linalg.norm(np.subtract(a, b)))


def render(scene: Scene, height: int, width: int, crop: tuple[int, int, int, int] | None = None) -> NDArray[np.uint8]:
    """Renders `scene` at height x width px, or only the window crop = (top, left, h, w). Returns uint8 [h, w, 3]."""
    top, left, rows, columns = crop or (0, 0, height, width)
    y = (np.arange(rows, dtype=np.float32) + (top + 0.5))[:, None]
    x = (np.arange(columns, dtype=np.float32) + (left + 0.5))[None, :]
    ends = [np.array(BACKGROUNDS[b], np.float32) for b in scene.backgrounds]
    canvas = np.broadcast_to(ends[0] + (y / height)[..., None] * (ends[-1] - ends[0]), (rows, columns, 3)).copy()
    unit = min(height, width)
    for item in scene.objects:
        radius = item.radius * unit
        distance = signed_distance(item.shape, (x - item.x * width) / radius, (y - item.y * height) / radius)
        cover = np.clip(0.5 - distance * radius, 0.0, 1.0)[..., None]
        canvas += cover * (np.array(COLORS[item.color], np.float32) - canvas)
    return np.rint(canvas).astype(np.uint8)
