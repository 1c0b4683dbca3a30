"""The embedded checkpoint in bf16 against itself in fp32."""

import numpy as np

from engine import GenerationParams

from ..reference import psnr
from .drawing import Engine

MIN_PSNR = 35.0
REQUESTS = [
    GenerationParams("a red circle left of a blue square", 256, 256, 20, 4.5, seed=7),
    GenerationParams("a green triangle", 256, 192, 20, 4.5, seed=0, negative_prompt="red"),
    GenerationParams("two yellow squares", 128, 256, 12, 1.0, seed=2**40),
]


def test_bf16_draws_the_picture_of_fp32() -> None:
    full, half = (Engine("demo", dtype).draw(REQUESTS) for dtype in ("float32", "bfloat16"))
    for expected, drawn in zip(full, half, strict=True):
        assert np.std(expected) > 10
        assert psnr(drawn, expected) >= MIN_PSNR
