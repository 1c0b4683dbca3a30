"""The exam, in the manner of GenEval (arXiv 2310.11513) in the demo's world: eight kinds of prompt.

Every second prompt is in a form and with words that no caption of the training has. All of them name combinations that
training never shows (`held_out`), except for things of their usual colour.
"""

import zlib
from collections.abc import Iterable, Iterator
from random import Random

from .forms import (
    CORNERS,
    COUNTS,
    GRADIENTS,
    GROUNDS,
    HALVES,
    NUMBERS,
    PAIRS,
    PATTERN_FORMS,
    PLACES,
    RELATIONS,
    SCENES,
    SKY,
    WRAPS,
    Forms,
)
from .grounds import BACKGROUNDS, Ground, contrast, visible
from .shapes import COLORS, SHAPES
from .task import Task, Wanted
from .things import DEFAULT_COLORS, HOSTS, INHABITANTS, PATTERNS, SKY_THINGS, THINGS

Look = tuple[str, str]  # shape, colour

KINDS = ("single object", "background", "two objects", "position", "counting", "pattern", "composed", "five phrasings")
PHRASINGS = 5
SIZES = ("", "", "small", "large")


def held_out(looks: Iterable[Look], size: str = "", ground: Iterable[str] = ()) -> bool:
    """Whether a combination is in the tenth that training never shows: of several looks, or of one look with its size
    and the names of its background. Things of their usual colour are in none."""
    found = sorted(looks)
    if len(found) > 1:
        return zlib.crc32(repr([(*look, "") for look in found]).encode()) % 10 == 0
    if any(DEFAULT_COLORS.get(shape) == color for shape, color in found):
        return False
    return zlib.crc32(repr((found, size, tuple(ground))).encode()) % 10 == 0


def tasks(each: int, seed: int = 1) -> Iterator[Task]:
    """`each` tasks of every kind, those of the last kind in groups of five; the same seed gives the same tasks."""
    rng = Random(seed)
    makers = (_single, _background, _two, _position, _count, _pattern, _composed)
    for number in range(each):
        for kind, make in zip(KINDS, makers, strict=False):
            yield make(kind, rng, number % 2)
        if number % PHRASINGS == 0:
            same = _phrasings(KINDS[-1], rng, 1 + number // PHRASINGS)
        yield next(same)


def named(look: Look, size: str = "") -> str:
    """The words for a look: "a red circle" for ("circle", "red")."""
    words = f"{size} {look[1]} {look[0]}".strip()
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _fill(forms: Forms, rng: Random, held: int, **words: str) -> str:
    return rng.choice(forms[held]).format(**words)


def _wrapped(text: str, rng: Random, held: int) -> str:
    return _fill(WRAPS, rng, held, x=text)


def _single(kind: str, rng: Random, held: int) -> Task:
    """A shape, or every fifth time a thing, of a named size on a named colour."""
    while True:
        shape = rng.choice(SHAPES if rng.random() < 0.8 else tuple(THINGS))
        look, size, name = (shape, rng.choice(tuple(COLORS))), rng.choice(SIZES), rng.choice(tuple(BACKGROUNDS))
        if held_out([look], size, (name,)) and visible(look, Ground("plain", (name,))):
            break
    text = _fill(GROUNDS, rng, held, x=named(look, size), n=name)
    return Task(kind, _wrapped(text, rng, held), (Wanted(*look),), ground=(name, name))


def _background(kind: str, rng: Random, held: int) -> Task:
    """The background alone is judged: plain, or every third time of two colours."""
    style = rng.choice(("plain", "plain", "plain", "plain", "gradient", "halves"))
    while True:
        look = (rng.choice(SHAPES), rng.choice(tuple(COLORS)))
        names = rng.sample(tuple(BACKGROUNDS), 1 if style == "plain" else 2)
        if held_out([look], "", names) and visible(look, Ground(style, tuple(names))):
            break
    forms = {"plain": GROUNDS, "gradient": GRADIENTS, "halves": HALVES}[style]
    text = _fill(forms, rng, held, x=named(look), n=names[0], m=names[-1])
    return Task(kind, _wrapped(text, rng, held), None, ground=(names[0], names[-1]))


def _two(kind: str, rng: Random, held: int) -> Task:
    a, b = _looks(rng, 2)
    text = _fill(PAIRS, rng, held, a=named(a), b=named(b))
    return Task(kind, _wrapped(text, rng, held), (Wanted(*a), Wanted(*b)))


def _position(kind: str, rng: Random, held: int) -> Task:
    """One object beside, in or between others, or every sixth time in a corner."""
    relation = rng.choice(("left", "right", "above", "below", rng.choice(("inside", "between")), "corner"))
    if relation == "corner":
        (look,), place = _looks(rng, 1), rng.choice(CORNERS)
        text = _fill(PLACES, rng, held, a=named(look), w=place)
        return Task(kind, _wrapped(text, rng, held), (Wanted(*look),), place=place)
    while True:
        looks = _looks(rng, 3 if relation == "between" else 2)
        if relation != "inside" or (looks[0][0] in HOSTS and contrast(looks[0][1], looks[1][1])):
            break
    words = {letter: named(look) for letter, look in zip("abc", looks, strict=False)}
    text = _fill(RELATIONS[relation], rng, held, **words)
    return Task(kind, _wrapped(text, rng, held), tuple(Wanted(*look) for look in looks), relation)


def _count(kind: str, rng: Random, held: int) -> Task:
    number = rng.randrange(len(NUMBERS))
    (look,) = _looks(rng, 1, copies=number + 1)
    text = _fill(COUNTS, rng, held, k=NUMBERS[number], s=f"{look[1]} {look[0]}{'s' if number else ''}")
    return Task(kind, _wrapped(text, rng, held), (Wanted(*look),) * (number + 1))


def _pattern(kind: str, rng: Random, held: int) -> Task:
    pattern, ((shape, color),) = rng.choice(PATTERNS), _looks(rng, 1)
    text = _fill(PATTERN_FORMS, rng, held, p=pattern, c=color, s=shape).replace("a orange", "an orange")
    return Task(kind, _wrapped(text, rng, held), (Wanted(shape, color, pattern),))


def _composed(kind: str, rng: Random, held: int) -> Task:
    """A thing where it belongs, half the time under another one; at night alone."""
    while True:
        name = rng.choice(tuple(SCENES))
        looks = [_thing(rng, INHABITANTS[name])]
        if name != "night sky" and rng.random() < 0.5:
            looks.append(_thing(rng, SKY_THINGS))
        if all(visible(look, Ground("landscape", (name,))) for look in looks):
            break
    text = _fill(SCENES[name], rng, held, a=named(looks[0]))
    if len(looks) > 1:
        text = _fill(SKY, rng, held, x=text, b=named(looks[1]))
    wanted = tuple(Wanted(*look) for look in looks)
    return Task(kind, _wrapped(text, rng, held), wanted, "below" if len(looks) > 1 else "", ground=(name, name))


def _phrasings(kind: str, rng: Random, group: int) -> Iterator[Task]:
    """A pair, or a single object on a named colour, said in five ways."""
    while True:
        looks, name = _looks(rng, 1 + group % 2), rng.choice(tuple(BACKGROUNDS))
        if all(visible(look, Ground("plain", (name,))) for look in looks):
            break
    wanted, words = tuple(Wanted(*look) for look in looks), [named(look) for look in looks]
    relation = rng.choice(("left", "right", "above", "below")) if len(looks) == 2 else ""
    plain, unseen = RELATIONS[relation] if relation else GROUNDS
    forms = [*plain[:3], *unseen[:2]]
    for held, form in zip((0, 0, 0, 1, 1), (*forms, *forms), strict=False):
        text = form.format(a=words[0], b=words[-1], x=words[0], n=name)
        ground = None if relation else (name, name)
        yield Task(kind, _wrapped(text, rng, held), wanted, relation, ground, group=group)


def _thing(rng: Random, kinds: Iterable[str]) -> Look:
    shape = rng.choice(tuple(kinds))
    return shape, DEFAULT_COLORS.get(shape, "yellow") if rng.random() < 0.5 else rng.choice(tuple(COLORS))


def _looks(rng: Random, count: int, copies: int = 1) -> list[Look]:
    """Looks of different shape and colour; several are a combination that was held out from training."""
    while True:
        shapes, colors = rng.sample(SHAPES, count), rng.sample(tuple(COLORS), count)
        looks = list(zip(shapes, colors, strict=True))
        if count * copies == 1 or held_out(looks * copies):
            return looks
