"""A GenEval-like score in this world: prompts of six kinds, pictures judged by the detector, a share per kind."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

from .captions import NUMBERS, RELATIONS, article, plural
from .detector import Detection, detect
from .world import COLORS, SHAPES

OPPOSITE = {"left": ("x", 1), "right": ("x", -1), "above": ("y", 1), "below": ("y", -1)}


@dataclass(frozen=True)
class Task:
    """A prompt and what must be seen: looks are (shape, colour), None where it does not count."""

    kind: str
    prompt: str
    looks: tuple[tuple[str | None, str | None], ...]
    relation: str = ""

    def passed(self, picture: NDArray[np.uint8]) -> bool:
        seen = detect(picture)
        if len(seen) != len(self.looks):
            return False
        if self.relation:
            axis, sign = OPPOSITE[self.relation]
            seen = sorted(seen, key=lambda d: sign * getattr(d, axis))
            return all(_matches(d, look) for d, look in zip(seen, self.looks, strict=True))
        return any(
            all(_matches(d, look) for d, look in zip(order, self.looks, strict=True)) for order in (seen, seen[::-1])
        )


def _matches(seen: Detection, look: tuple[str | None, str | None]) -> bool:
    return look[0] in (None, seen.shape) and look[1] in (None, seen.color)


def tasks(each: int, seed: int = 1) -> Iterator[Task]:
    """`each` prompts of every kind."""
    rng = Random(seed)
    for _ in range(each):
        a, b = ((rng.choice(SHAPES), rng.choice(tuple(COLORS))) for _ in range(2))
        while b[0] == a[0] or b[1] == a[1]:
            b = rng.choice(SHAPES), rng.choice(tuple(COLORS))
        first, second = (article(f"{color} {shape}") for shape, color in (a, b))
        yield Task("single object", f"a picture of {first}", ((a[0], None),))
        yield Task("color", f"a picture of {first}", ((None, a[1]),))
        yield Task("two objects", f"{first} and {second}", ((a[0], None), (b[0], None)))
        yield Task("attribute binding", f"{first} and {second}", (a, b))
        relation = rng.choice(tuple(RELATIONS))
        yield Task("position", f"{first} {RELATIONS[relation][0]} {second}", (a, b), relation)
        number = rng.randint(1, 4)
        words = f"{NUMBERS[number][0]} {a[1]} {plural(a[0])}" if number > 1 else f"one {a[1]} {a[0]}"
        yield Task("counting", words, ((None, None),) * number)


def scores(judged: list[tuple[Task, NDArray[np.uint8]]]) -> dict[str, tuple[int, int]]:
    """(passed, asked) per kind."""
    table: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for task, picture in judged:
        passed, asked = table[task.kind]
        table[task.kind] = passed + task.passed(picture), asked + 1
    return dict(table)
