"""Captions state facts of their scene, and the sampler prefers complete ones."""

import math
import re
from collections import Counter
from itertools import pairwise
from random import Random

import pytest

from recipes.demo.captions import Caption, captions, sample_caption
from recipes.demo.words import INVERSE, NUMBERS, PLACES, RELATIONS, SYNONYMS
from recipes.demo.world import SIZES, Object, Scene, sample_scene
from server.evaluation.grounds import Ground, defaults
from server.evaluation.shapes import COLORS
from server.evaluation.things import DEFAULT_COLORS, KINDS

CREAM = Ground("plain", ("cream",))
USUAL = {other: word for word, others in SYNONYMS.items() for other in others}
STAR, HEART = Object("star", "green", 0.27, 0.5, 0.17), Object("heart", "pink", 0.73, 0.5, 0.17)


def scene_and_captions(seed: int) -> tuple[Scene, list[Caption]]:
    scene = sample_scene(Random(seed))
    return scene, captions(scene, Random(seed))


def all_texts(scene: Scene, count: int = 60) -> set[str]:
    rng = Random(0)
    return {caption.text for _ in range(count) for caption in captions(scene, rng)}


def usual_words(text: str) -> set[str]:
    """The words of a caption, synonyms and plurals replaced."""
    for phrase in sorted((s for s in USUAL if " " in s), key=len, reverse=True):
        text = text.replace(phrase, USUAL[phrase])
    singular = (
        w.removesuffix("es") if w in ("boxes", "daisies") else w.removesuffix("s") for w in re.findall(r"\w+", text)
    )
    return {USUAL.get(word, word) for word in singular}


def test_captions_name_only_what_the_scene_contains() -> None:
    for seed in range(300):
        scene, found = scene_and_captions(seed)
        grounds = {word for name in scene.ground.names for word in name.split()}
        allowed = {o.shape for o in scene.objects} | {o.color for o in scene.objects} | grounds
        allowed |= {"light", "white"} if scene.objects[0].pattern else set()
        allowed |= {"green"} if "grass" in scene.ground.names else set()  # a green meadow
        allowed |= {"dot", "circle"} if scene.objects[0].pattern else set()  # with dots
        allowed |= {"square"} if scene.relation else set()
        for caption in found:
            said = usual_words(caption.text.replace("in front of", "").replace("dark sky", ""))
            assert {w for w in said if w in COLORS or w in KINDS} <= allowed | {"blue"} & grounds, (caption.text, said)
            assert {w for w in said if w in SIZES} <= {o.size for o in scene.objects}


def test_captions_state_unusual_colors_and_backgrounds() -> None:
    for seed in range(300):
        scene, found = scene_and_captions(seed)
        looks = [(o.shape, o.color) for o in scene.objects]
        for caption in found:
            said = usual_words(caption.text)
            if caption.score == 1 and scene.ground.kind == "plain":
                unusual = {color for shape, color in looks if DEFAULT_COLORS.get(shape) != color}
                assert unusual <= said | set(scene.ground.names), caption.text
            if scene.ground.kind == "plain" and scene.ground.names[0] not in defaults(looks):
                assert set(scene.ground.names[0].split()) <= said | {"pale", "dark"}, caption.text


def test_captions_of_groups_state_the_count() -> None:
    for seed in range(300):
        scene, found = scene_and_captions(seed)
        if scene.count > 1:
            assert all(any(number in c.text for number in NUMBERS[scene.count]) for c in found)


@pytest.mark.parametrize("relation", ["left", "above"])
def test_relation_captions_hold_in_both_directions(relation: str) -> None:
    texts = all_texts(Scene((STAR, HEART), CREAM, relation))
    assert f"a green star {RELATIONS[relation][0]} a pink heart" in texts
    assert f"a pink heart {RELATIONS[INVERSE[relation]][0]} a green star" in texts
    assert f"a pink heart {RELATIONS[relation][0]} a green star" not in texts
    assert ("a green star and a pink heart" in texts) == (relation == "left")
    assert "a pink heart and a green star" not in texts  # without a position, the order of mention is the arrangement
    for phrase in (*RELATIONS[relation], *RELATIONS[INVERSE[relation]]):
        assert any(f" {phrase} " in text for text in texts)


def test_captions_of_inside_between_and_places() -> None:
    dot = Object("circle", "red", 0.5, 0.5, 0.15)
    assert "a pink heart inside a green star" in all_texts(Scene((STAR, HEART), CREAM, "inside"), 200)
    assert "a red circle between a green star and a pink heart" in all_texts(
        Scene((STAR, dot, HEART), CREAM, "between"), 400
    )
    for place, words in PLACES.items():
        texts = all_texts(Scene((dot,), CREAM, place=place))
        assert all(any(word in text for word in words) for text in texts)


def test_captions_say_backgrounds_in_many_ways() -> None:
    texts = all_texts(Scene((STAR,), Ground("plain", ("black",))), 300)
    for form in (
        "{} on a black background",
        "{} on black",
        "{} against a black backdrop",
        "{} isolated on black",
        "{}, black bg",
    ):
        assert form.format("a green star") in texts
    assert "a green star" not in texts  # black is no default
    assert "a green star" in all_texts(Scene((STAR,), CREAM))


def test_captions_name_landscapes() -> None:
    house, sun = Object("house", "orange", 0.5, 0.6, 0.24), Object("sun", "yellow", 0.2, 0.2, 0.13)
    texts = all_texts(Scene((house, sun), Ground("landscape", ("grass",)), "sky"), 400)
    assert any("house" in text and "sun" in text and "on grass" in text for text in texts)
    assert any("orange" not in text for text in texts)  # the usual colour need not be stated
    assert any("orange" in text for text in texts)


def test_caption_scores_are_shares_up_to_one() -> None:
    for seed in range(200):
        _, found = scene_and_captions(seed)
        assert all(0 < c.score <= 1 for c in found)
        assert max(c.score for c in found) == 1
        assert len({c.text for c in found}) >= 3  # several captions per scene


def test_captions_use_the_right_article() -> None:
    for seed in range(200):
        for caption in scene_and_captions(seed)[1]:
            for word, following in pairwise(caption.text.split()):
                if word in ("a", "an"):
                    assert (word == "an") == (following[0] in "aeiou"), caption.text


def test_caption_sampler_follows_the_softmax() -> None:
    """p_i = exp(c_i / tau) / sum_j exp(c_j / tau): the share of captions that state the colour."""
    scene = Scene((Object("square", "red", 0.5, 0.5, 0.25),), CREAM)
    found = captions(scene, Random(0))
    weights = Counter[float]()
    for caption in found:
        weights[caption.score] += math.exp(caption.score / 0.2)
    rng, count = Random(3), 3000
    stated = sum("red" in sample_caption(scene, rng, temperature=0.2) for _ in range(count)) / count
    assert stated == pytest.approx(weights[1] / sum(weights.values()), abs=0.02)
    assert stated > sum("red" in sample_caption(scene, rng, temperature=100.0) for _ in range(count)) / count + 0.03
