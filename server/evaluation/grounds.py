"""What lies behind the objects of the demo's world: named colours, plain or in two tones, and four landscapes."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .shapes import COLORS, RGB, Array
from .things import layers

PALE = ("white", "cream", "light blue", "light green", "light pink", "light gray", "lavender")
BACKGROUNDS: dict[str, RGB] = {
    "cream": (250, 240, 214),
    "light blue": (204, 228, 248),
    "light green": (212, 239, 208),
    "light pink": (251, 222, 231),
    "light gray": (218, 220, 224),
    "lavender": (226, 217, 246),
    "sky blue": (122, 184, 232),
    "teal": (58, 132, 136),
    "navy": (36, 50, 92),
    **COLORS,
}
LANDSCAPES: dict[str, tuple[RGB, RGB]] = {  # sky, ground
    "grass": ((160, 212, 245), (118, 190, 88)),
    "sea": ((190, 226, 247), (44, 128, 196)),
    "snow": ((150, 196, 232), (244, 248, 252)),
    "night sky": ((22, 30, 72), (22, 30, 72)),
}
HORIZON = 0.62  # share of the height
STARS = (
    (0.1, 0.14),
    (0.33, 0.09),
    (0.62, 0.16),
    (0.88, 0.1),
    (0.14, 0.5),
    (0.9, 0.46),
    (0.2, 0.86),
    (0.55, 0.92),
    (0.84, 0.8),
)
STAR_RADIUS = 0.012  # share of the shorter side
STAR_COLOR: RGB = (255, 244, 190)
CONTRAST = 60.0  # minimum RGB distance between an object and its background


@dataclass(frozen=True)
class Ground:
    """A background.

    Args:
        kind: "plain" (one name), "gradient" or "halves" (two names, from top to bottom) or "landscape".
        names: of BACKGROUNDS, or one of LANDSCAPES.
    """

    kind: str
    names: tuple[str, ...]

    @property
    def ends(self) -> tuple[RGB, RGB]:
        """Colours of the top and of the bottom."""
        if self.kind == "landscape":
            return LANDSCAPES[self.names[0]]
        return BACKGROUNDS[self.names[0]], BACKGROUNDS[self.names[-1]]

    def rows(self, y: Array, height: int) -> Array:
        """Colours [h, 3] of the rows whose centres are y [h] in pixels, of an image of `height` px."""
        top, bottom = (np.array(rgb, np.float32) for rgb in self.ends)
        if self.kind == "gradient":
            share = y / height
        else:
            edge = (HORIZON if self.kind == "landscape" else 0.5) * height
            share = np.clip(y - edge + 0.5, 0, 1)
        return np.asarray(top + share[:, None] * (bottom - top))


def distance(a: RGB, b: RGB) -> float:
    return float(np.linalg.norm(np.subtract(a, b)))


def contrast(first: str, second: str) -> bool:
    """Whether two colours of COLORS differ enough to be seen beside each other."""
    return distance(COLORS[first], COLORS[second]) > CONTRAST


def visible(look: tuple[str, str], ground: Ground) -> bool:
    """Whether each outer layer of a look (shape, colour) differs enough from the ground."""
    kind, color = look
    outer = {layer.color_on(color) for layer in layers(kind) if layer.outer}
    return all(distance(COLORS[name], rgb) > CONTRAST for name in outer for rgb in ground.ends)


def defaults(looks: Iterable[tuple[str, str]]) -> list[str]:
    """Names of the plain backgrounds where a prompt states none: the pale ones, or a dark one for white objects."""
    looks = list(looks)
    for names in (PALE, ("sky blue",), ("navy",), tuple(BACKGROUNDS)):
        found = [name for name in names if all(visible(look, Ground("plain", (name,))) for look in looks)]
        if found:
            return found
    return []
