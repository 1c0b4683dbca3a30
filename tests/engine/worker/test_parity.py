"""Whole images against diffusers on the same checkpoint, prompt and seed, in fp32 on the CPU."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from diffusers import SanaPipeline, SanaSprintPipeline

from benchmarks.psnr import psnr
from engine import GenerationParams

from ...checkpoints import FAMILIES
from ...reference import generate_reference
from .stepping import Engine

MIN_PSNR = 55.0
UNICODE = "Ein Kätzchen 猫 🐱 на столе"
LONG = "a red circle left of a blue square, " * 60  # far beyond 298 tokens
BLURRY = "blurry, low quality photograph"
FLOW = {
    "square": GenerationParams("a cat sleeping", 128, 128, 20, 4.5, seed=0),
    "tall-negative-n2": GenerationParams("zebra", 96, 160, 7, 4.5, seed=2**40 + 3, negative_prompt=BLURRY, n=2),
    "wide-unguided-one-step": GenerationParams(UNICODE, 192, 64, 1, 1.0, seed=7, negative_prompt="not read"),
    "long-guidance-below-one": GenerationParams(LONG, 64, 128, 2, 0.5, seed=2**32),
    "smallest-unicode-negative": GenerationParams("xylophone", 32, 32, 5, 7.5, seed=2**62, negative_prompt=UNICODE),
    "strip-long-negative-n3": GenerationParams("A busy STREET", 256, 32, 3, 2.0, seed=0, negative_prompt=LONG, n=3),
    "unguided-twenty-steps": GenerationParams("a", 160, 96, 20, 1.0, seed=123),
}
SPRINT = {
    "two-steps": GenerationParams("a cat sleeping", 128, 128, 2, 4.5, seed=0),
    "one-step-tall-n2": GenerationParams("zebra", 96, 160, 1, 4.5, seed=2**40 + 3, n=2),
    "three-steps-unicode": GenerationParams(UNICODE, 192, 64, 3, 1.0, seed=7),
    "four-steps-long": GenerationParams(LONG, 64, 128, 4, 0.0, seed=2**32),
    "two-steps-smallest-n3": GenerationParams("xylophone", 32, 32, 2, 7.5, seed=2**62, n=3),
    "twenty-steps": GenerationParams("a", 160, 96, 20, 2.0, seed=123),
}
CASES = [
    pytest.param(name, case, id=f"{name}-{case}")
    for name, family in FAMILIES.items()
    for case in (SPRINT if family.sprint else FLOW)
]


def params_of(name: str) -> dict[str, GenerationParams]:
    return SPRINT if FAMILIES[name].sprint else FLOW


@pytest.fixture(scope="module")
def engine(checkpoint: Callable[[str], Path]) -> Callable[[str], Engine]:
    return cache(lambda name: Engine(checkpoint(name)))


@pytest.fixture(scope="module")
def expected(
    reference: Callable[[str], SanaPipeline | SanaSprintPipeline],
) -> Callable[[str, str], np.ndarray]:
    return cache(lambda name, case: generate_reference(reference(name), params_of(name)[case]))


@pytest.mark.parametrize(("name", "case"), CASES)
def test_image_matches_diffusers(
    name: str, case: str, engine: Callable[[str], Engine], expected: Callable[[str, str], np.ndarray]
) -> None:
    params, theirs = params_of(name)[case], expected(name, case)
    assert np.percentile(theirs, 95) - np.percentile(theirs, 5) > 80, "a flat image proves no parity"
    (ours,) = engine(name).generate([params])
    assert ours.shape == theirs.shape == (params.n, params.height, params.width, 3)
    assert min(psnr(a, b) for a, b in zip(ours, theirs, strict=True)) >= MIN_PSNR


@pytest.mark.parametrize("name", FAMILIES)
def test_mixed_requests_in_one_batch_match_diffusers(
    name: str, engine: Callable[[str], Engine], expected: Callable[[str, str], np.ndarray]
) -> None:
    """Runs all cases at once: sizes, steps, guidance, texts and lengths are mixed in one batch."""
    cases = params_of(name)
    for case, ours in zip(cases, engine(name).generate(list(cases.values())), strict=True):
        for image, theirs in zip(ours, expected(name, case), strict=True):
            assert psnr(image, theirs) >= MIN_PSNR, case


def test_image_k_uses_seed_plus_k(engine: Callable[[str], Engine]) -> None:
    together = GenerationParams("a cat", 64, 64, 3, 4.5, seed=11, n=3)
    alone = [GenerationParams("a cat", 64, 64, 3, 4.5, seed=11 + k) for k in range(3)]
    images = engine("sana-1.5").generate([together, *alone])
    for k in range(3):
        assert psnr(images[0][k], images[1 + k][0]) >= MIN_PSNR
    assert psnr(images[0][0], images[0][1]) < 25
