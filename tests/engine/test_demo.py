"""The embedded demo checkpoint against diffusers, and bf16 against fp32."""

from pathlib import Path

import numpy as np
import pytest

import engine
from benchmarks.psnr import psnr
from engine import GenerationParams

from ..reference import generate_reference, load_reference
from .worker.stepping import Engine

MIN_PSNR = 35.0
MIN_REFERENCE_PSNR = 50.0
DEMO = Path(engine.__file__).parent / "demo"
REQUESTS = [
    GenerationParams("a red circle left of a blue square", 256, 256, 20, 4.5, seed=7),
    GenerationParams("a green triangle", 256, 192, 20, 4.5, seed=0, negative_prompt="red"),
    GenerationParams("two yellow squares", 128, 256, 12, 1.0, seed=2**40),
]


@pytest.fixture(scope="module")
def full() -> list[np.ndarray]:
    return Engine("demo", "float32").generate(REQUESTS)


def test_demo_images_match_diffusers(full: list[np.ndarray]) -> None:
    pipeline = load_reference(DEMO, sprint=False)
    for params, images in zip(REQUESTS, full, strict=True):
        assert psnr(images, generate_reference(pipeline, params)) >= MIN_REFERENCE_PSNR


def test_demo_bfloat16_matches_float32(full: list[np.ndarray]) -> None:
    for expected, images in zip(full, Engine("demo", "bfloat16").generate(REQUESTS), strict=True):
        assert np.std(expected) > 10
        assert psnr(images, expected) >= MIN_PSNR


def test_demo_checkpoint_below_25_mb() -> None:
    assert sum(file.stat().st_size for file in DEMO.rglob("*") if file.is_file()) < 25_000_000
