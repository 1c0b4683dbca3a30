"""The noise of captions leaves their meaning."""

import re
from random import Random

from recipes.demo.noise import with_noise, with_typo, with_words
from recipes.demo.words import ADJECTIVES, STYLES


def test_words_keep_phrases_intact_except_adjectives() -> None:
    rng, text = Random(0), "three red stars"
    noisy_texts = [with_words(text, rng) for _ in range(200)]
    assert all(text in noisy for noisy in noisy_texts)
    assert len(set(noisy_texts)) > 100
    pairs = [with_words("a red circle and a blue square", rng) for _ in range(200)]
    circle, square = (
        re.compile(rf"\ba (?:(?:{'|'.join(ADJECTIVES)}) )?{it}\b") for it in ("red circle", "blue square")
    )
    assert all(circle.search(noisy) and square.search(noisy) for noisy in pairs)
    assert any("a red circle" not in noisy for noisy in pairs)
    assert any("circle, " in noisy for noisy in pairs)


def test_typo_changes_one_long_word() -> None:
    rng, text = Random(0), "a red circle on white"
    typos = {with_typo(text, rng) for _ in range(200)}
    assert len(typos) > 50
    for typo in typos - {text}:
        changed = [(a, b) for a, b in zip(text.split(), typo.split(), strict=True) if a != b]
        ((before, after),) = changed
        assert before in ("circle", "white")
        assert abs(len(before) - len(after)) <= 1
        assert before[0] == after[0]
    assert with_typo("a red car", rng) == "a red car"  # no long word


def test_noise_keeps_half_of_the_captions() -> None:
    rng = Random(1)
    noisy = [with_noise("a red circle", rng) for _ in range(1000)]
    assert 420 < noisy.count("a red circle") < 620
    assert any(text.endswith(f", {style}") for text in noisy for style in STYLES)
