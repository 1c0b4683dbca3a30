"""Parts of captions: noun phrases for objects, and the ways to state a background."""

from collections.abc import Callable
from random import Random

from server.evaluation.grounds import Ground
from server.evaluation.things import DEFAULT_COLORS

from .words import SYNONYMS
from .world import Object

SYNONYM_RATE = 0.15
PATTERN_FORMS: dict[str, tuple[str, ...]] = {
    "striped": (
        "striped {c} {s}",
        "{c} striped {s}",
        "{c} {s} with stripes",
        "{c} and white striped {s}",
        "stripy {c} {s}",
    ),
    "dotted": ("dotted {c} {s}", "{c} dotted {s}", "{c} {s} with dots", "polka dot {c} {s}", "spotted {c} {s}"),
    "outlined": ("outlined {c} {s}", "{c} outlined {s}", "{c} {s} outline", "outline of a {c} {s}", "hollow {c} {s}"),
}
PLAIN = (
    *("{x} on a {n} background", "{x} on {n}", "{x}, {n} background", "{x} against a {n} background", "{x} on {n}"),
    *("{x} with a {n} background", "{x} isolated on {n}", "{x} on a plain {n} background", "{x} on a {n} background"),
    *(
        "{x} on a solid {n} background",
        "{x}, {n} bg",
        "{x} against a {n} backdrop",
        "{x}, background {n}",
        "{x} on {n} bg",
    ),
    *("on a {n} background, {x}", "{n} background, {x}", "a {n} background with {x}", "{x} in front of {n}"),
    *(
        "{x}, the background is {n}",
        "{x} over a {n} background",
        "on {n}, {x}",
        "{x}, {n} backdrop",
        "{x} and a {n} background",
    ),
)
GRADIENT = (
    *(
        "{x} on a gradient background from {n} to {m}",
        "{x}, {n} to {m} gradient background",
        "{x} on a {n} to {m} gradient",
    ),
    *("{x} on a background fading from {n} to {m}", "{x} with a gradient from {n} to {m}", "{n} to {m} gradient, {x}"),
)
HALVES = (
    *(
        "{x} on a background that is {n} at the top and {m} at the bottom",
        "{x} on a two-tone background, {n} above {m}",
    ),
    *("{x}, background half {n} half {m}", "{x} on a two-tone {n} and {m} background"),
)
LANDSCAPE: dict[str, tuple[str, ...]] = {
    "grass": ("on grass", "on the grass", "in a meadow", "on a green meadow", "in a green field", "standing on grass"),
    "sea": ("on the sea", "at sea", "on the ocean", "on the water", "in the sea", "in the ocean"),
    "snow": ("in the snow", "on snow", "in snow", "on a snowy field", "in winter", "standing in the snow"),
    "night sky": ("in the night sky", "in the sky at night", "at night", "in a starry sky", "in the dark sky"),
}
LANDSCAPE_NOUNS = {
    "grass": ("a meadow", "a green field"),
    "sea": ("the sea", "the ocean"),
    "snow": ("a snowy field", "snow"),
    "night sky": ("the night sky", "a starry sky"),
}
PLURALS = {"fish": "fish", "box": "boxes", "daisy": "daisies", "kitty": "kitties"}


def article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def plural(noun: str) -> str:
    return PLURALS.get(noun, f"{noun}s")


def synonym(word: str, rng: Random) -> str:
    """The word, or a synonym at SYNONYM_RATE."""
    return rng.choice(SYNONYMS[word]) if word in SYNONYMS and rng.random() < SYNONYM_RATE else word


def color_word(item: Object, rng: Random) -> str:
    """The colour's name; "" for half of the things of their usual colour."""
    if item.color == DEFAULT_COLORS.get(item.shape) and rng.random() < 0.5:
        return ""
    return synonym(item.color, rng)


def words(item: Object, rng: Random, noun: Callable[[str], str] = str) -> str:
    """Size, pattern, colour and noun, such as "small red circle". `noun`: what to make of the noun, its plural."""
    shape, color = noun(synonym(item.shape, rng)), color_word(item, rng)
    if item.pattern and color:
        forms = [form for form in PATTERN_FORMS[item.pattern] if item.color != "white" or "white" not in form]
        text = rng.choice(forms).format(c=color, s=shape)
    else:
        text = f"{color} {shape}".strip()
    return f"{synonym(item.size, rng)} {text}".strip()


def noun_phrase(item: Object, rng: Random) -> str:
    """A noun phrase for the object, mostly of the form "a red circle"."""
    kind = rng.random()
    if kind < 0.14 and not item.pattern:
        shape, color = synonym(item.shape, rng), synonym(item.color, rng)
        shape = f"{synonym(item.size, rng)} {shape}".strip()
        form = rng.choice(("{a} that is {c}", "{a} in {c}", "{a} colored {c}", "{a} ({c})"))
        return form.format(a=article(shape), c=color)
    text = words(item, rng)
    if kind < 0.22:
        return f"the {text}"
    if kind < 0.32:
        return text
    return article(text)


def with_ground(text: str, ground: Ground, rng: Random) -> str:
    """The caption with its background."""
    if ground.kind == "landscape":
        (name,) = ground.names
        if rng.random() < 0.2:
            return f"{rng.choice(LANDSCAPE_NOUNS[name])} with {text}"
        where = rng.choice(LANDSCAPE[name])
        return f"{where}, {text}" if rng.random() < 0.15 else f"{text} {where}"
    names = [synonym(name, rng) for name in ground.names]
    form = rng.choice({"plain": PLAIN, "gradient": GRADIENT, "halves": HALVES}[ground.kind])
    filled = form.format(x=text, n=names[0], m=names[-1])
    return filled.replace(" a orange", " an orange")
