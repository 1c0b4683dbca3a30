"""The procedural world of the demo model: flat shapes and things on plain backgrounds and in simple landscapes.

A `Scene` is pure data in units of the canvas (0..1), so one scene renders at any size: the cascade 128 -> 256 and
the autoencoder's crops show the same world. render.py renders it; new layouts are added here.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

from server.evaluation.grounds import BACKGROUNDS, LANDSCAPES, Ground, contrast, defaults, visible
from server.evaluation.shapes import COLORS, SHAPES
from server.evaluation.suite import held_out
from server.evaluation.things import DEFAULT_COLORS, HOSTS, INHABITANTS, PATTERNS, SKY_THINGS, THINGS

SIZES = {"small": 0.15, "": 0.25, "large": 0.38}  # radius of a single object; "" is the size that no caption mentions
THING_SCALE = 1.2  # things have details
PAIR_RADIUS = 0.18
COUNT_LAYOUTS: dict[int, tuple[float, tuple[tuple[float, float], ...]]] = {
    2: (0.18, ((0.27, 0.5), (0.73, 0.5))),
    3: (0.135, ((0.18, 0.5), (0.5, 0.5), (0.82, 0.5))),
    4: (0.16, ((0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73))),
}
PLACES = {
    **{"top left": (0.22, 0.22), "top right": (0.78, 0.22), "bottom left": (0.22, 0.78), "bottom right": (0.78, 0.78)},
    **{"top": (0.5, 0.22), "bottom": (0.5, 0.78), "left": (0.22, 0.5), "right": (0.78, 0.5), "center": (0.5, 0.5)},
}
PLACE_RADIUS = 0.16
LANDSCAPE_SPOTS = {"fish": (0.5, 0.8, 0.15), "boat": (0.5, 0.5, 0.24), "": (0.5, 0.63, 0.24)}  # x, y, radius


@dataclass(frozen=True)
class Object:
    shape: str  # of SHAPES or THINGS
    color: str
    x: float  # centre, fraction of the width
    y: float  # centre, fraction of the height, downwards
    radius: float  # fraction of the shorter side
    size: str = ""  # word for the radius, "" for the default size
    pattern: str = ""  # of PATTERNS, "" for a plain surface


@dataclass(frozen=True)
class Scene:
    """Objects from back to front on a ground.

    Args:
        relation: "left" or "above" of objects[0] to objects[1] (captions also state the inverse), "inside" (objects[1]
            in objects[0]), "between" (objects[1] between the two others, from left to right), "sky" (objects[1] above
            a landscape) or "" for copies of one object.
        place: of PLACES, where a caption states one.
    """

    objects: tuple[Object, ...]
    ground: Ground
    relation: str = ""
    place: str = ""

    @property
    def count(self) -> int:
        """Number of copies of one object, 0 when the objects differ."""
        return len(self.objects) if not self.relation else 0


def sample_scene(rng: Random, unseen: bool = False) -> Scene:
    """One random scene.

    Args:
        unseen: only combinations that are held out from training, instead of only the others.
    """
    while True:
        scene = _sample(rng)
        looks = [(o.shape, o.color) for o in scene.objects]
        if held_out(looks, scene.objects[0].size, scene.ground.names) == unseen:
            return scene


def _sample(rng: Random) -> Scene:
    kinds = {_single: 0.36, _pair: 0.22, _group: 0.15, _between: 0.04, _inside: 0.04, _landscape: 0.19}
    return rng.choices(tuple(kinds), tuple(kinds.values()))[0](rng)


def _single(rng: Random) -> Scene:
    shape, color = _look(rng, things=0.3)
    kind = rng.random()
    if kind < 0.2:
        place = rng.choice(tuple(PLACES))
        radius = SIZES[""] if place == "center" else PLACE_RADIUS
        item = _object(rng, (shape, color), *PLACES[place], radius, 0.015)
        return Scene((item,), _ground(rng, (item,)), place=place)
    size = rng.choices(tuple(SIZES), (0.2, 0.6, 0.2))[0]
    pattern = rng.choice(PATTERNS) if kind > 0.8 and shape in SHAPES else ""
    radius = SIZES[size] * (THING_SCALE if shape in THINGS else 1)
    item = _object(rng, (shape, color), 0.5, 0.5, radius, 0.03, size, pattern)
    return Scene((item,), _ground(rng, (item,)))


def _pair(rng: Random) -> Scene:
    relation = rng.choice(("left", "above"))
    centers = ((0.27, 0.5), (0.73, 0.5)) if relation == "left" else ((0.5, 0.27), (0.5, 0.73))
    looks = _looks(rng, 2, things=0.2)
    objects = [_object(rng, look, x, y, PAIR_RADIUS, 0.02) for look, (x, y) in zip(looks, centers, strict=True)]
    return Scene(tuple(objects), _ground(rng, objects), relation)


def _group(rng: Random) -> Scene:
    look = _look(rng, things=0.2)
    radius, positions = COUNT_LAYOUTS[rng.randint(2, 4)]
    objects = [_object(rng, look, x, y, radius, 0.01) for x, y in positions]
    return Scene(tuple(objects), _ground(rng, objects))


def _between(rng: Random) -> Scene:
    radius, positions = COUNT_LAYOUTS[3]
    looks = _looks(rng, 3, things=0.1)
    objects = [_object(rng, look, x, y, radius, 0.01) for look, (x, y) in zip(looks, positions, strict=True)]
    return Scene(tuple(objects), _ground(rng, objects), "between")


def _inside(rng: Random) -> Scene:
    while True:
        host, guest = _looks(rng, 2, things=0.0)
        if host[0] in HOSTS and contrast(host[1], guest[1]):
            break
    outer, inner = (_object(rng, look, 0.5, 0.5, r, 0.01) for look, r in ((host, 0.38), (guest, 0.15)))
    return Scene((outer, inner), _ground(rng, (outer,)), "inside")


def _landscape(rng: Random) -> Scene:
    """A thing where it belongs, half the time with another one in the sky; or a shape on a landscape."""
    while True:
        name = rng.choice(tuple(LANDSCAPES))
        ground = Ground("landscape", (name,))
        shape = rng.choice(INHABITANTS[name] if rng.random() < 0.85 else SHAPES)
        looks = [(shape, _color(rng, shape))]
        if name != "night sky" and rng.random() < 0.5:
            looks.append((sky := rng.choice(SKY_THINGS), _color(rng, sky)))
        if all(visible(look, ground) for look in looks) and len(set(looks)) == len(looks):
            break
    x, y, radius = (0.5, 0.5, 0.26) if name == "night sky" else LANDSCAPE_SPOTS.get(shape, LANDSCAPE_SPOTS[""])
    objects = [_object(rng, looks[0], x, y, radius, 0.015)]
    if len(looks) == 2:
        objects.append(_object(rng, looks[1], rng.choice((0.2, 0.8)), 0.18, 0.13, 0.01))
    return Scene(tuple(objects), ground, "sky" if len(looks) == 2 else "")


def _color(rng: Random, shape: str) -> str:
    """A random colour; things mostly have the one that captions need not state."""
    return DEFAULT_COLORS[shape] if shape in THINGS and rng.random() < 0.5 else rng.choice(tuple(COLORS))


def _look(rng: Random, things: float) -> tuple[str, str]:
    shape = rng.choice(tuple(THINGS)) if rng.random() < things else rng.choice(SHAPES)
    return shape, _color(rng, shape)


def _looks(rng: Random, count: int, things: float) -> list[tuple[str, str]]:
    """Different looks."""
    looks: list[tuple[str, str]] = []
    while len(looks) < count:
        look = _look(rng, things)
        if look not in looks:
            looks.append(look)
    return looks


def _object(
    rng: Random,
    look: tuple[str, str],
    x: float,
    y: float,
    radius: float,
    jitter: float,
    size: str = "",
    pattern: str = "",
) -> Object:
    dx, dy = rng.uniform(-jitter, jitter), rng.uniform(-jitter, jitter)
    return Object(look[0], look[1], x + dx, y + dy, radius * rng.uniform(0.96, 1.04), size, pattern)


def _ground(rng: Random, objects: Iterable[Object]) -> Ground:
    """A default background in a third of the scenes, else any colours from which all objects differ."""
    looks = {(o.shape, o.color) for o in objects}
    if rng.random() < 0.35:
        return Ground("plain", (rng.choice(defaults(looks)),))
    names = [name for name in BACKGROUNDS if all(visible(look, Ground("plain", (name,))) for look in looks)]
    if len(names) < 2 or rng.random() < 0.78:
        return Ground("plain", (rng.choice(names or list(BACKGROUNDS)),))
    return Ground(rng.choice(("gradient", "halves")), tuple(rng.sample(names, 2)))
