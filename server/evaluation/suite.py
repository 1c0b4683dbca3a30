"""Tasks like GenEval's (arXiv 2310.11513) in the demo's world: six kinds of prompt, each with the objects it requires.

Half of the prompts are plain, half are paraphrases in forms that no training caption has. All name combinations of
looks that training never shows (`held_out`).
"""

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

from .detector import Detection, detect
from .shapes import COLORS, SHAPES

Look = tuple[str, str]  # shape, colour
Template = tuple[str, ...]

KINDS = ("single object", "color", "counting", "two objects", "attribute binding", "position")
SIZES = ("", "small", "large")
NUMBERS = ("one", "two", "three", "four")
SINGLE: Template = ("{a}", "a photo of {a}", "one picture with {a}", "we see {a} here")
COLOR: Template = ("{a}", "a photo of {a}", "{a}, nothing else", "we see {a} here")
COUNT: Template = ("{number} {what}", "a photo of {number} {what}", "exactly {number} {what}", "we see {number} {what}")
PAIR: Template = ("{a} and {b}", "a photo of {a} and {b}", "{a} together with {b}", "both {a} and {b}")
POSITION: Template = (
    "{a} {phrase} {b}",
    "a photo of {a} {phrase} {b}",
    "one can find {a} {phrase} {b} here",
    "{b}, where {place} stands {a}",
)
PHRASES = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}
PLACES = {"left": "to its left", "right": "to its right", "above": "above it", "below": "below it"}
ORDER = {"left": ("x", 1), "right": ("x", -1), "above": ("y", 1), "below": ("y", -1)}


def held_out(looks: Iterable[Look], size: str = "") -> bool:
    """Whether a combination of looks, or of a single look and a size, is in the tenth that training never shows."""
    return zlib.crc32(repr(sorted((*look, size) for look in looks)).encode()) % 10 == 0


@dataclass(frozen=True)
class Task:
    """A prompt and the objects its image must show. Looks are (shape, colour); None accepts any."""

    kind: str
    prompt: str
    looks: tuple[tuple[str | None, str | None], ...]
    relation: str = ""

    def passed(self, image: NDArray[np.uint8]) -> bool:
        """Whether the image, uint8 [H, W, 3], shows exactly these objects."""
        seen = detect(image)
        if len(seen) != len(self.looks):
            return False
        if self.relation:
            axis, sign = ORDER[self.relation]
            seen = sorted(seen, key=lambda d: sign * getattr(d, axis))
            apart = abs(getattr(seen[0], axis) - getattr(seen[1], axis))
            across = abs(getattr(seen[0], "xy".replace(axis, "")) - getattr(seen[1], "xy".replace(axis, "")))
            return apart > across and _all_match(seen, self.looks)
        return any(_all_match(order, self.looks) for order in (seen, seen[::-1]))


def _all_match(seen: list[Detection], looks: tuple[tuple[str | None, str | None], ...]) -> bool:
    return all(look[0] in (None, d.shape) and look[1] in (None, d.color) for d, look in zip(seen, looks, strict=True))


def tasks(each: int, seed: int = 1) -> Iterator[Task]:
    """`each` tasks of every kind; the same seed gives the same tasks."""
    rng = Random(seed)
    for _ in range(each):
        look, size = _unseen_lone(rng)
        yield Task("single object", _fill(SINGLE, rng, a=named(look, size)), ((look[0], None),))
        look, size = _unseen_lone(rng)
        yield Task("color", _fill(COLOR, rng, a=named(look, size)), ((None, look[1]),))
        number = rng.randrange(len(NUMBERS))
        look = _unseen(rng, 1, copies=number + 1)[0]
        what = f"{look[1]} {look[0]}{'s' if number else ''}"
        yield Task("counting", _fill(COUNT, rng, number=NUMBERS[number], what=what), (look,) * (number + 1))
        a, b = _unseen(rng, 2)
        prompt = _fill(PAIR, rng, a=named(a), b=named(b))
        yield Task("two objects", prompt, ((a[0], None), (b[0], None)))
        a, b = _unseen(rng, 2)
        prompt = _fill(PAIR, rng, a=named(a), b=named(b))
        yield Task("attribute binding", prompt, (a, b))
        a, b = _unseen(rng, 2)
        relation = rng.choice(tuple(ORDER))
        words = {"phrase": PHRASES[relation], "place": PLACES[relation]}
        yield Task("position", _fill(POSITION, rng, a=named(a), b=named(b), **words), (a, b), relation)


def named(look: Look, size: str = "") -> str:
    """The words for a look: "a red circle" for ("circle", "red")."""
    words = f"{size} {look[1]} {look[0]}".strip()
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _fill(templates: Template, rng: Random, **words: str) -> str:
    return rng.choice(templates).format(**words)


def _unseen_lone(rng: Random) -> tuple[Look, str]:
    """A look and a size word that training never shows together on a single object."""
    while True:
        look, size = (rng.choice(SHAPES), rng.choice(tuple(COLORS))), rng.choice(SIZES)
        if held_out([look], size):
            return look, size


def _unseen(rng: Random, count: int, copies: int = 1) -> list[Look]:
    """Looks of different shape and colour whose combination was held out from training."""
    while True:
        shapes, colors = rng.sample(SHAPES, count), rng.sample(tuple(COLORS), count)
        looks = list(zip(shapes, colors, strict=True))
        if held_out(looks * copies):
            return looks
