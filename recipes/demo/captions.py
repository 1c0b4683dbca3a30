"""Several captions per scene, and the sampler that prefers the complete ones (SANA, section 3.3, in the small).

The paper scores each caption by CLIP and draws with p_i = exp(c_i / tau) / sum_j exp(c_j / tau). Here the score is
exact: the share of the scene's facts that the caption states.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from .world import Object, Scene

TEMPERATURE = 0.2
NUMBERS = {2: ("two", "2"), 3: ("three", "3"), 4: ("four", "4")}
RELATIONS = {
    "left": ("to the left of", "left of", "on the left of"),
    "right": ("to the right of", "right of", "on the right of"),
    "above": ("above", "on top of", "over"),
    "below": ("below", "under", "beneath"),
}
INVERSE = {"left": "right", "above": "below"}
OPENINGS = ("", "", "", "a picture of ", "an image of ", "a drawing of ", "there is ", "i see ", "draw ", "a photo of ")


@dataclass(frozen=True)
class Caption:
    text: str
    score: float  # share of the scene's facts stated, 0..1


def captions(scene: Scene, rng: Random) -> list[Caption]:
    """A handful of captions of `scene`, one or more per style: terse, sentence, attribute list, paraphrase."""
    if scene.relation:
        told = _pair(scene, rng)
    elif scene.count > 1:
        told = _group(scene, rng)
    else:
        told = _single(scene.objects[0], rng)
    facts = _facts(scene)
    background = _background(scene, rng)
    found = []
    for text, stated in told:
        found.append(Caption(text, stated / facts))
        found.append(Caption(f"{text}{background}", (stated + 1) / facts))
    return found


def draw_caption(scene: Scene, rng: Random, temperature: float = TEMPERATURE) -> str:
    """One caption, more complete ones more often."""
    found = captions(scene, rng)
    return rng.choices(found, [math.exp(c.score / temperature) for c in found])[0].text


def article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def plural(shape: str) -> str:
    return f"{shape}s"


def _facts(scene: Scene) -> int:
    """Looks (shape and colour each), a size or a relation or a count where there is one, the background."""
    looks = 4 if scene.relation else 2
    return looks + int(bool(scene.relation or scene.count > 1 or scene.objects[0].size)) + 1


def _background(scene: Scene, rng: Random) -> str:
    names = scene.backgrounds
    if len(names) == 1:
        return rng.choice((f" on a {names[0]} background", f", {names[0]} background", f" on {names[0]}"))
    faded = f"{names[0]} to {names[1]}"
    return rng.choice(
        (f" on a gradient background from {faded}", f", {faded} gradient background", " on a gradient background")
    )


def _single(item: Object, rng: Random) -> Iterator[tuple[str, int]]:
    words = " ".join(filter(None, (item.size, item.color, item.shape)))
    stated = 2 + bool(item.size)
    yield words, stated
    yield article(words), stated
    yield rng.choice(OPENINGS) + article(words), stated
    listed = [item.shape, item.color, *filter(None, (item.size,))]
    rng.shuffle(listed)
    yield ", ".join(listed), stated
    size = f"{item.size} and " if item.size else ""
    yield f"{article(item.shape)} that is {size}{item.color}", stated
    yield f"{article(item.size + ' ' + item.shape if item.size else item.shape)}", stated - 1
    yield article(f"{item.color} {item.shape}"), 2
    yield rng.choice((f"one {words}", f"a single {words}")), stated


def _pair(scene: Scene, rng: Random) -> Iterator[tuple[str, int]]:
    first, second = (f"{o.color} {o.shape}" for o in scene.objects)
    relation = scene.relation
    for a, b, word in ((first, second, relation), (second, first, INVERSE[relation])):
        phrase = rng.choice(RELATIONS[word])
        yield f"{article(a)} {phrase} {article(b)}", 5
        yield f"{a} {phrase} {b}", 5
        yield rng.choice(OPENINGS) + f"{article(a)} {phrase} {article(b)}", 5
        yield f"{article(a)} and {article(b)}", 4
        yield rng.choice((f"{a}, {b}", f"{a} and {b}", f"{article(a)} next to {article(b)}")), 4
    if relation == "left":
        yield f"{article(first)} on the left and {article(second)} on the right", 5
        yield f"{article(second)} on the right and {article(first)} on the left", 5
        yield f"left: {first}, right: {second}", 5
    else:
        yield f"{article(first)} at the top and {article(second)} at the bottom", 5
        yield f"{article(second)} at the bottom and {article(first)} at the top", 5
        yield f"top: {first}, bottom: {second}", 5


def _group(scene: Scene, rng: Random) -> Iterator[tuple[str, int]]:
    item = scene.objects[0]
    number, digit = NUMBERS[scene.count]
    words = f"{item.color} {plural(item.shape)}"
    opening = rng.choice(OPENINGS).replace("there is", "there are")
    yield f"{number} {words}", 3
    yield f"{opening}{number} {words}", 3
    yield f"{digit} {words}", 3
    yield f"{number} {plural(item.shape)}, {item.color}", 3
    yield f"{number} {plural(item.shape)}", 2
    yield f"{number} {plural(item.shape)} that are {item.color}", 3
    yield f"{plural(item.shape)}, {item.color}, {number}", 3
