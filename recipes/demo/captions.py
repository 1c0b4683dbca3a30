"""Several captions per scene, and the sampler that prefers complete ones (SANA, section 3.3, at small scale).

The paper scores each caption by CLIP and samples with p_i = exp(c_i / tau) / sum_j exp(c_j / tau). Here the score is
exact: the share of the scene's facts that the caption states. A pair whose caption states no position is arranged left
to right in the order of mention: a model this small would otherwise generate the mean of all arrangements.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from server.evaluation.grounds import defaults

from .phrases import article, color_word, noun_phrase, plural, synonym, with_ground, words
from .words import BESIDE, INVERSE, LABELS, NUMBERS, OPENINGS, PLACES, RELATIONS, SIDES, TO_THE_SIDE
from .world import Scene

TEMPERATURE = 0.2
OPENING_RATE = 0.25
GROUND_RATE = 0.4  # of the scenes with a default background, which need not be stated


@dataclass(frozen=True)
class Caption:
    text: str
    score: float  # share of the scene's facts that it states, 0..1


def captions(scene: Scene, rng: Random) -> list[Caption]:
    """A handful of captions of `scene`: terse, sentences, lists, paraphrases."""
    if scene.relation in ("left", "above"):
        texts, facts = _pair(scene, rng), 5
    elif scene.relation:
        texts, facts = {"between": _between, "inside": _inside, "sky": _sky}[scene.relation](scene, rng), 5
    elif scene.count > 1:
        texts, facts = _group(scene, rng), 3
    else:
        texts, facts = _single(scene, rng), 3
    usual = scene.ground.kind == "plain" and scene.ground.names[0] in defaults(
        (o.shape, o.color) for o in scene.objects
    )
    found = []
    for text, stated in texts:
        opened = f"{rng.choice(OPENINGS)} {text}" if rng.random() < OPENING_RATE else text
        full = opened if usual and rng.random() > GROUND_RATE else with_ground(opened, scene.ground, rng)
        found.append(Caption(full, stated / facts))
    return found


def sample_caption(scene: Scene, rng: Random, temperature: float = TEMPERATURE) -> str:
    """One caption; more complete ones are more likely."""
    found = captions(scene, rng)
    return rng.choices(found, [math.exp(c.score / temperature) for c in found])[0].text


def _single(scene: Scene, rng: Random) -> Iterator[tuple[str, float]]:
    item = scene.objects[0]
    if scene.place:
        for _ in range(4):
            yield _placed(noun_phrase(item, rng), scene.place, rng), 3
        return
    text = words(item, rng)
    yield text, 3
    yield article(text), 3
    yield noun_phrase(item, rng), 3
    yield noun_phrase(item, rng), 3
    yield rng.choice((f"one {text}", f"a single {text}", f"just {article(text)}", f"only {article(text)}")), 3
    if not item.pattern:
        listed = [synonym(item.shape, rng), *filter(None, (color_word(item, rng), synonym(item.size, rng)))]
        rng.shuffle(listed)
        yield ", ".join(listed), 3
        yield article(synonym(item.shape, rng)), 1


def _placed(noun: str, place: str, rng: Random) -> str:
    word = rng.choice(PLACES[place])
    if place == "center":
        forms = ("{a} in the {w}", "{a} at the {w}", "in the {w}, {a}", "{a} in the {w} of the image", "centered {a}")
    elif " " in place:
        forms = (
            "{a} in the {w} corner",
            "{a} in the {w}",
            "{a} at the {w}",
            "in the {w} corner, {a}",
            "{w} corner: {a}",
        )
    else:
        forms = (
            "{a} at the {w}",
            "{a} on the {w} side",
            "{a} at the {w} of the image",
            "at the {w}, {a}",
            "{a} near the {w} edge",
        )
    return rng.choice(forms).format(a=noun, w=word)


def _pair(scene: Scene, rng: Random) -> Iterator[tuple[str, float]]:
    first, second = scene.objects
    for one, other, word in ((first, second, scene.relation), (second, first, INVERSE[scene.relation])):
        back = INVERSE[word]
        phrase, side, far = rng.choice(RELATIONS[word]), rng.choice(SIDES[word]), rng.choice(SIDES[back])
        a, b = noun_phrase(one, rng), noun_phrase(other, rng)
        join = rng.choice((" and", ","))
        yield f"{words(one, rng)} {phrase} {words(other, rng)}", 5
        yield f"{article(words(one, rng))} {phrase} {article(words(other, rng))}", 5
        yield f"{a} {phrase} {b}", 5
        yield f"{a} {rng.choice(('is', 'sits', 'stands', 'that is', 'placed'))} {phrase} {b}", 5
        yield f"{rng.choice(RELATIONS[back])} {a} {rng.choice(('is', 'there is', 'we see', 'sits'))} {b}", 5
        yield f"{a}{rng.choice((' with', ' and', ' and,'))} {b} {TO_THE_SIDE[back]}", 5
        yield f"{a} and {TO_THE_SIDE[back]} {b}", 5
        yield f"{a} {side}{join} {b} {far}", 5
        yield f"{side} {a}{join} {far} {b}", 5
        yield f"{LABELS[word]}: {a}, {LABELS[back]}: {b}", 5
    if scene.relation == "left":
        plain = [article(words(o, rng)) for o in scene.objects]
        for _ in range(4):
            yield f"{plain[0]} {rng.choice(BESIDE)} {plain[1]}", 5
        yield f"{noun_phrase(first, rng)}{rng.choice((' and', ',', ' plus'))} {noun_phrase(second, rng)}", 5
        yield f"{plain[0]} and {plain[1]}, side by side", 5


def _between(scene: Scene, rng: Random) -> Iterator[tuple[str, float]]:
    a, b, c = (noun_phrase(item, rng) for item in scene.objects)
    yield f"{b} between {a} and {c}", 5
    yield f"{b} in between {a} and {c}", 5
    yield f"between {a} and {c}, {b}", 5
    yield f"{a} and {c} with {b} between them", 5
    yield f"{a}, {b} and {c} in a row", 5
    yield f"from left to right: {a}, {b}, {c}", 5
    yield f"{a}, {b} and {c}", 5


def _inside(scene: Scene, rng: Random) -> Iterator[tuple[str, float]]:
    host, guest = (noun_phrase(item, rng) for item in scene.objects)
    yield f"{guest} inside {host}", 5
    yield f"{guest} {rng.choice(('inside of', 'within', 'in the middle of', 'in'))} {host}", 5
    yield f"{host} with {guest} inside", 5
    yield f"{host} {rng.choice(('containing', 'that contains', 'around'))} {guest}", 5


def _sky(scene: Scene, rng: Random) -> Iterator[tuple[str, float]]:
    thing, sky = (noun_phrase(item, rng) for item in scene.objects)
    yield f"{thing} and {sky}", 5
    yield f"{thing} under {sky}", 5
    yield f"{thing} {rng.choice(('with', 'and'))} {sky} {rng.choice(('above', 'in the sky', 'above it', 'over it'))}", 5
    yield f"{sky} {rng.choice(('above', 'over'))} {thing}", 5
    yield f"{thing}, {sky}", 5


def _group(scene: Scene, rng: Random) -> Iterator[tuple[str, float]]:
    item = scene.objects[0]
    number, text = rng.choice(NUMBERS[scene.count][:2]), words(item, rng, plural)
    shapes = plural(synonym(item.shape, rng))
    yield f"{number} {text}", 3
    yield f"{NUMBERS[scene.count][0]} {text}", 3
    yield f"{rng.choice(NUMBERS[scene.count])} {text}", 3
    yield f"{number} {shapes}, {rng.choice(('', 'all '))}{item.color}", 3
    yield f"{number} {shapes} {rng.choice(('that are', 'in', 'colored'))} {item.color}", 3
    yield f"{shapes}, {item.color}, {number}", 3
    yield rng.choice((f"a group of {number} {text}", f"{text}, {number} of them", f"the {number} {text}")), 3
