"""One task of the exam: a prompt, and what its image must show."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .detector import Detection, detect, detect_inside, shown_ground

ORDER = {"left": ("x", 1), "right": ("x", -1), "above": ("y", 1), "below": ("y", -1)}
LOW, HIGH = 0.4, 0.6  # bounds of the middle third, generously


@dataclass(frozen=True)
class Wanted:
    """An object that must be there; None accepts anything."""

    shape: str | None
    color: str | None
    pattern: str | None = ""

    def matches(self, seen: Detection) -> bool:
        pairs = ((self.shape, seen.shape), (self.color, seen.color), (self.pattern, seen.pattern))
        return all(wanted in (None, found) for wanted, found in pairs)


@dataclass(frozen=True)
class Task:
    """A prompt and what its image must show: exactly these objects.

    Args:
        kind: of suite.KINDS.
        objects: in the order of `relation`; None accepts any objects.
        relation: "left", "right", "above", "below" (objects[0] of objects[1]), "between" (objects[1] between the
            others), "inside" (objects[1] in objects[0]) or "" for any arrangement.
        ground: names of the background's colours at the top and at the bottom; None accepts any.
        place: part of the image that holds the only object, such as "top left".
        group: tasks of one kind and group pass together or not at all; 0 stands alone.
    """

    kind: str
    prompt: str
    objects: tuple[Wanted, ...] | None
    relation: str = ""
    ground: tuple[str, str] | None = None
    place: str = ""
    group: int = 0

    def passed(self, image: NDArray[np.uint8]) -> bool:
        """Whether the image, uint8 [H, W, 3], shows exactly this."""
        if self.ground and shown_ground(image) != self.ground:
            return False
        if self.objects is None:
            return True
        seen = detect_inside(image) if self.relation == "inside" else detect(image)
        if len(seen) != len(self.objects) or not all(in_place(d, self.place) for d in seen):
            return False
        return any(_all_match(order, self.objects) for order in self._orders(seen))

    def _orders(self, seen: list[Detection]) -> list[list[Detection]]:
        """The detections in the orders that the relation allows."""
        if self.relation == "inside":
            return [seen]
        if self.relation == "between":
            row = sorted(seen, key=lambda d: d.x)
            return [row, row[::-1]]
        if not self.relation:
            return [seen, seen[::-1]]
        axis, sign = ORDER[self.relation]
        row = sorted(seen, key=lambda d: sign * float(getattr(d, axis)))
        apart, across = (abs(getattr(row[0], a) - getattr(row[1], a)) for a in (axis, "xy".replace(axis, "")))
        return [row] if apart > across else []


def in_place(seen: Detection, place: str) -> bool:
    """Whether the centre of an object is where the words say: "top left", "bottom", "center"; "" is anywhere."""
    if place == "center":
        return LOW < seen.x < HIGH and LOW < seen.y < HIGH
    bounds = {"left": seen.x < LOW, "right": seen.x > HIGH, "top": seen.y < LOW, "bottom": seen.y > HIGH}
    return all(bounds[word] for word in place.split())


def _all_match(seen: list[Detection], objects: tuple[Wanted, ...]) -> bool:
    return all(wanted.matches(found) for found, wanted in zip(seen, objects, strict=True))
