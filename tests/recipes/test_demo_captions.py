"""Captions state facts of their scene, and the sampler prefers complete ones."""

import math
import re
from collections import Counter
from itertools import pairwise
from random import Random

import pytest

from recipes.demo.captions import (
    ADJECTIVES,
    INVERSE,
    NUMBERS,
    RELATIONS,
    SYNONYMS,
    Caption,
    captions,
    sample_caption,
    with_noise,
)
from recipes.demo.world import BACKGROUNDS, SIZES, Object, Scene, sample_scene
from server.evaluation.shapes import COLORS, SHAPES


def scene_and_captions(seed: int) -> tuple[Scene, list[Caption]]:
    scene = sample_scene(Random(seed))
    return scene, captions(scene, Random(seed))


def words(text: str) -> list[str]:
    """Words of a caption without the background, synonyms replaced."""
    for name in BACKGROUNDS:
        text = text.replace(name, "")
    usual = {other: word for word, others in SYNONYMS.items() for other in others}
    said = text.replace(",", " ").replace(":", " ").split()
    return [usual.get(w, usual.get(w.removesuffix("es"), usual.get(w.removesuffix("s"), w))) for w in said]


def test_captions_name_only_objects_of_the_scene() -> None:
    for seed in range(400):
        scene, found = scene_and_captions(seed)
        colors, shapes = {o.color for o in scene.objects}, {o.shape for o in scene.objects}
        for caption in found:
            said = words(caption.text)
            assert {w for w in said if w in COLORS} <= colors
            assert {w.removesuffix("s") for w in said if w.removesuffix("s") in SHAPES} == shapes, caption.text
            assert {w for w in said if w in SIZES} <= {o.size for o in scene.objects}


def test_captions_of_groups_state_the_count() -> None:
    for seed in range(400):
        scene, found = scene_and_captions(seed)
        if scene.count > 1:
            for caption in found:
                assert set(words(caption.text)) & set(NUMBERS[scene.count])


def test_relation_captions_hold_in_both_directions() -> None:
    first, second = Object("circle", "red", 0.27, 0.5, 0.17), Object("square", "blue", 0.73, 0.5, 0.17)
    rng = Random(0)
    texts = {c.text for _ in range(60) for c in captions(Scene((first, second), ("cream",), "left"), rng)}
    assert "a red circle to the left of a blue square" in texts
    assert "a blue square to the right of a red circle" in texts
    assert "a red circle and a blue square" in texts
    assert "a blue square and a red circle" not in texts  # without a position, the order of mention is the arrangement
    first_words = ("circle", "disc", "dot")
    for text in texts:
        before, _, after = text.partition("left of") if "left of" in text else text.partition("right of")
        turned = not any(shape in before for shape in (*first_words, "square", "box"))  # "to the left of b is a"
        if after:
            named = after.split(" is ")[0].split(" sits ")[0].split(" we ")[0].split(" there ")[0] if turned else before
            assert any(word in named for word in first_words) == (("left of" in text) != turned), text


@pytest.mark.parametrize("relation", ["left", "above"])
def test_relation_captions_use_every_phrase(relation: str) -> None:
    pair = (Object("star", "green", 0.3, 0.3, 0.17), Object("heart", "pink", 0.7, 0.7, 0.17))
    rng = Random(1)
    text = " | ".join(c.text for _ in range(80) for c in captions(Scene(pair, ("cream",), relation), rng))
    for phrase in (*RELATIONS[relation], *RELATIONS[INVERSE[relation]]):
        assert f" {phrase} " in text


def test_pair_caption_without_colors_scores_lower() -> None:
    pair = (Object("star", "green", 0.3, 0.3, 0.17), Object("heart", "pink", 0.7, 0.7, 0.17))
    texts = {c.text: c.score for i in range(60) for c in captions(Scene(pair, ("cream",), "left"), Random(i))}
    assert texts["a star and a heart"] < texts["a green star and a pink heart"]
    assert texts["a star left of a heart"] < texts["a green star left of a pink heart"]


def test_caption_scores_are_shares_up_to_one() -> None:
    for seed in range(200):
        _, found = scene_and_captions(seed)
        assert all(0 < c.score <= 1 for c in found)
        assert max(c.score for c in found) == 1
        assert len({c.text for c in found}) >= 6  # several captions per scene


def test_captions_use_the_right_article() -> None:
    for seed in range(200):
        for caption in scene_and_captions(seed)[1]:
            said = caption.text.split()
            for word, following in pairwise(said):
                if word in ("a", "an"):
                    assert (word == "an") == (following[0] in "aeiou")


def test_caption_sampler_follows_the_softmax() -> None:
    """p_i = exp(c_i / tau) / sum_j exp(c_j / tau), aggregated by score, on one scene."""
    scene = Scene((Object("circle", "red", 0.5, 0.5, 0.14, "small"),), ("cream",))
    expected: Counter[float] = Counter()
    for caption in captions(scene, Random(0)):
        expected[round(caption.score, 3)] += math.exp(caption.score / 0.2)
    total = sum(expected.values())

    sampled: Counter[float] = Counter()
    rng, count = Random(3), 3000
    for _ in range(count):
        text = sample_caption(scene, rng, temperature=0.2)
        said = (*words(text), *(name for name in BACKGROUNDS if name in text))
        stated = sum(word in said for word in ("red", "circle", "small", "cream"))
        sampled[round(stated / 4, 3)] += 1
    for score, weight in expected.items():
        assert sampled[score] / count == pytest.approx(weight / total, abs=0.03)


def test_caption_sampler_low_temperature_prefers_long() -> None:
    scene = sample_scene(Random(5))

    def mean_length(temperature: float) -> float:
        rng = Random(0)
        return sum(len(sample_caption(scene, rng, temperature)) for _ in range(400)) / 400

    assert mean_length(0.05) > mean_length(100.0)


def test_noise_keeps_phrases_intact_except_adjectives() -> None:
    rng, text = Random(0), "three red stars"
    noisy_texts = [with_noise(text, rng, rate=1.0) for _ in range(200)]
    assert all(text in noisy for noisy in noisy_texts)
    assert len(set(noisy_texts)) > 100
    pairs = [with_noise("a red circle and a blue square", rng, rate=1.0) for _ in range(200)]
    circle, square = (
        re.compile(rf"\ba (?:(?:{'|'.join(ADJECTIVES)}) )?{it}\b") for it in ("red circle", "blue square")
    )
    assert all(circle.search(noisy) and square.search(noisy) for noisy in pairs)
    assert any("a red circle" not in noisy for noisy in pairs)
    assert any("circle, " in noisy for noisy in pairs)


def test_noise_keeps_half_of_the_captions() -> None:
    rng = Random(1)
    same = sum(with_noise("a red circle", rng) == "a red circle" for _ in range(1000))
    assert 480 < same < 650  # the noise is empty at times
