"""Several captions per scene, and the sampler that prefers complete ones (SANA, section 3.3, at small scale).

The paper scores each caption by CLIP and samples with p_i = exp(c_i / tau) / sum_j exp(c_j / tau). Here the score is
exact: the share of the scene's facts that the caption states. A pair whose caption states no position is arranged left
to right in the order of mention: a model this small would otherwise generate the mean of all arrangements.
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
    "below": ("below", "under", "beneath", "underneath"),
}
PLACES = {"left": "to its left", "right": "to its right", "above": "above it", "below": "below it"}
SIDES = {"left": "on the left", "right": "on the right", "above": "at the top", "below": "at the bottom"}
LABELS = {"left": "left", "right": "right", "above": "top", "below": "bottom"}
INVERSE = {"left": "right", "above": "below"}
OPENINGS = (
    *(
        "",
        "",
        "",
        "",
        "",
        "a picture of ",
        "an image of ",
        "a drawing of ",
        "there is ",
        "i see ",
        "draw ",
        "a photo of ",
    ),
    *("draw me ", "please draw ", "show me ", "make ", "paint ", "an illustration of ", "a simple drawing of "),
    *(
        "a photograph of ",
        "an icon of ",
        "a painting of ",
        "i want ",
        "can you draw ",
        "here is ",
        "a flat picture of ",
    ),
)
SYNONYMS = {
    "gray": ("grey",),
    "purple": ("violet",),
    "circle": ("disc", "dot"),
    "square": ("box",),
    "ring": ("donut",),
    "small": ("little", "tiny"),
    "large": ("big", "huge"),
}
SYNONYM_RATE = 0.12
PHRASE_STARTS = {"a", "an", "the", "to", "on", "at", "and", "with", "left", "right", "above", "below", "over", "under"}
CONSONANTS, VOWELS = "bcdfghjklmnprstvwxyz", "aeiou"
FILLERS = (
    *("please", "simple", "style", "flat", "vector", "clean", "minimal", "image", "picture", "scene", "shown", "drawn"),
    *("visible", "only", "some", "this", "that", "my", "very", "really", "also", "then", "looks", "like", "something"),
    *("good", "high", "quality", "clear", "sharp", "detailed", "art", "design", "logo", "sticker", "poster", "cartoon"),
)
ADJECTIVES = ("nice", "cute", "simple", "bright", "pretty", "clean", "lovely", "beautiful", "plain", "neat", "flat")


@dataclass(frozen=True)
class Caption:
    text: str
    score: float  # share of the scene's facts that it states, 0..1


def captions(scene: Scene, rng: Random) -> list[Caption]:
    """A handful of captions of `scene`, one or more per style: terse, sentence, attribute list, paraphrase."""
    if scene.relation:
        texts = _pair(scene, rng)
    elif scene.count > 1:
        texts = _group(scene, rng)
    else:
        texts = _single(scene.objects[0], rng)
    facts = _facts(scene)
    found = []
    for text, stated in texts:
        found.append(Caption(text, stated / facts))
        found.append(Caption(_with_background(text, scene, rng), (stated + 1) / facts))
    return found


def sample_caption(scene: Scene, rng: Random, temperature: float = TEMPERATURE) -> str:
    """One caption; more complete ones are more likely."""
    found = captions(scene, rng)
    return rng.choices(found, [math.exp(c.score / temperature) for c in found])[0].text


def with_noise(text: str, rng: Random, rate: float = 0.5) -> str:
    """The caption, at `rate` with words irrelevant to the scene or a comma: users write words that no template has.

    Trained on templates alone, the model got 98 of 100 held-out prompts right in plain forms and 73 of 116 in others.
    """
    if rng.random() > rate:
        return text
    words = text.split(" ")
    bare = [i for i, word in enumerate(words) if word == "a"]
    if bare and rng.random() < 0.2:
        words.insert(rng.choice(bare) + 1, rng.choice(ADJECTIVES))
    # Only where a phrase may begin or end, never between an article or a number and its noun.
    seams = [i for i, word in enumerate(words) if word in PHRASE_STARTS or i == 0] + [len(words)]
    for seam in sorted(rng.sample(seams, min(len(seams), rng.choice((1, 1, 2)))), reverse=True):
        noise = [rng.choice(FILLERS) if rng.random() < 0.5 else _nonsense(rng) for _ in range(rng.choice((0, 1, 1, 2)))]
        if seam and rng.random() < 0.35:
            words[seam - 1] = words[seam - 1].rstrip(",") + ","
        if noise and rng.random() < 0.25:
            noise[-1] += ","
        words[seam:seam] = noise
    return " ".join(words)


def _nonsense(rng: Random) -> str:
    """A random pronounceable word."""
    syllables = (rng.choice(CONSONANTS) + rng.choice(VOWELS) + rng.choice(("", *CONSONANTS)) for _ in range(3))
    return "".join(list(syllables)[: rng.randint(1, 3)])


def article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def plural(shape: str) -> str:
    return f"{shape}es" if shape.endswith("x") else f"{shape}s"


def _facts(scene: Scene) -> int:
    """Number of facts: shape and colour of each look, the background, and a size, relation or count if there is one."""
    looks = 4 if scene.relation else 2
    return looks + int(bool(scene.relation or scene.count > 1 or scene.objects[0].size)) + 1


def _synonym(word: str, rng: Random) -> str:
    """The word, or a synonym at SYNONYM_RATE."""
    return rng.choice(SYNONYMS[word]) if word in SYNONYMS and rng.random() < SYNONYM_RATE else word


def _noun(item: Object, rng: Random) -> str:
    """A noun phrase for the object, mostly of the form "a red circle"."""
    color, shape = _synonym(item.color, rng), _synonym(item.shape, rng)
    kind = rng.random()
    if kind < 0.06:
        return f"{article(shape)} that is {color}"
    if kind < 0.1:
        return f"{article(shape)} in {color}"
    if kind < 0.18:
        return f"the {color} {shape}"
    if kind < 0.26:
        return f"{color} {shape}"
    return article(f"{color} {shape}")


def _with_background(text: str, scene: Scene, rng: Random) -> str:
    names = scene.backgrounds
    if len(names) == 1:
        name = names[0]
        if rng.random() < 0.12:
            return f"on {article(name)} background, {text}"
        ends = (f" on {article(name)} background", f", {name} background", f" on {name}")
        return text + rng.choice((*ends, f" against {article(name)} background"))
    faded = f"{names[0]} to {names[1]}"
    return text + rng.choice(
        (f" on a gradient background from {faded}", f", {faded} gradient background", " on a gradient background")
    )


def _single(item: Object, rng: Random) -> Iterator[tuple[str, float]]:
    size, color, shape = (_synonym(word, rng) for word in (item.size, item.color, item.shape))
    words = " ".join(filter(None, (size, color, shape)))
    stated = 2 + bool(size)
    yield words, stated
    yield article(words), stated
    yield rng.choice(OPENINGS) + article(words), stated
    listed = [shape, color, *filter(None, (size,))]
    rng.shuffle(listed)
    yield ", ".join(listed), stated
    yield f"{article(shape)} that is {f'{size} and ' if size else ''}{color}", stated
    yield f"{article(f'{size} {shape}' if size else shape)}", stated - 1
    yield article(f"{color} {shape}"), 2
    yield rng.choice((f"one {words}", f"a single {words}", f"just {article(words)}", f"the {words}")), stated
    yield f"{article(f'{size} {shape}' if size else shape)} in {color}", stated


def _pair(scene: Scene, rng: Random) -> Iterator[tuple[str, float]]:
    first, second = scene.objects
    relation = scene.relation
    for one, other, word in ((first, second, relation), (second, first, INVERSE[relation])):
        back = INVERSE[relation] if word == relation else relation
        phrase = rng.choice(RELATIONS[word])
        terse = f"{one.color} {one.shape} {phrase} {other.color} {other.shape}"
        a, b = _noun(one, rng), _noun(other, rng)
        yield terse, 5
        yield f"{article(f'{one.color} {one.shape}')} {phrase} {article(f'{other.color} {other.shape}')}", 5
        yield f"{rng.choice(OPENINGS)}{a} {phrase} {b}", 5
        yield f"{a} {rng.choice(('is', 'sits', 'stands', 'that is', 'placed'))} {phrase} {b}", 5
        yield f"{rng.choice(RELATIONS[back])} {a} {rng.choice(('is', 'there is', 'we see', 'sits'))} {b}", 5
        yield f"{a} with {b} {PLACES[back]}", 5
        yield f"{a} and {PLACES[back]} {b}", 5
        yield f"{a} and, {PLACES[back]}, {b}", 5
        yield f"{a}{rng.choice((' and', ','))} {b} {SIDES[back]}", 5
        yield f"{a} {SIDES[word]}{rng.choice((' and', ','))} {b} {SIDES[back]}", 5
        yield f"{SIDES[word]} {a}{rng.choice((' and', ','))} {SIDES[back]} {b}", 5
        yield f"{LABELS[word]}: {a}, {LABELS[back]}: {b}", 5
        if one.shape != other.shape:
            yield f"{rng.choice(OPENINGS)}{article(one.shape)} {phrase} {article(other.shape)}", 3
            yield f"{a} {phrase} {article(other.shape)}", 4
            yield f"{article(one.shape)} {phrase} {b}", 4
    if relation == "left":
        a, b = _noun(first, rng), _noun(second, rng)
        plain = tuple(article(f"{o.color} {o.shape}") for o in scene.objects)
        yield f"{plain[0]} and {plain[1]}", 4.5
        yield f"{rng.choice(OPENINGS)}{plain[0]} and {plain[1]}", 4.5
        yield f"{a}{rng.choice((' and', ',', ' next to', ' beside', ' with'))} {b}", 4.5
        yield f"{a} and {b}, side by side", 4.5
        if first.shape != second.shape:
            yield f"{rng.choice(OPENINGS)}{article(first.shape)} and {article(second.shape)}", 3


def _group(scene: Scene, rng: Random) -> Iterator[tuple[str, float]]:
    item = scene.objects[0]
    number, digit = NUMBERS[scene.count]
    color, shapes = _synonym(item.color, rng), plural(_synonym(item.shape, rng))
    words = f"{color} {shapes}"
    opening = rng.choice(OPENINGS).replace("there is", "there are")
    yield f"{number} {words}", 3
    yield f"{opening}{number} {words}", 3
    yield f"{digit} {words}", 3
    yield f"{number} {shapes}, {rng.choice(('', 'all '))}{color}", 3
    yield f"{number} {shapes}", 2
    yield f"{number} {shapes} that are {color}", 3
    yield f"{shapes}, {color}, {number}", 3
    yield rng.choice((f"a group of {number} {words}", f"{words}, {number} of them", f"the {number} {words}")), 3
