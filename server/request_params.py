"""GenerationParams from what a user sent: the model's defaults for the rest."""

import math
import re
import secrets
from typing import Any

from engine import MAX_STEPS, GenerationParams, InvalidParams, ModelInfo

RANDOM_SEEDS = 1 << 32  # exact in clients whose only numbers are doubles
RANDOM = -1
"""Seed that other APIs send for a random one."""
SIZE = re.compile(r"\s*([0-9]{1,9})\s*[xX*\u00d7]\s*([0-9]{1,9})\s*")
RATIO = re.compile(r"\s*([0-9]{1,4})\s*[:/]\s*([0-9]{1,4})\s*")
MAX_DEVIATION = 0.2
"""Of the pixels of a size from an aspect ratio, from the native pixels: 16:9 has no closer size on a grid of 32."""
QUALITY = {"low": 0.5, "medium": 1.0, "high": 1.5, "xhigh": 2.0, "max": 2.5}
"""Steps of each preset, as a multiple of the model's default."""
QUALITY_ALIASES = {"auto": "medium", "standard": "medium", "hd": "high"}


def check_size_text(text: str) -> None:
    """Raises InvalidParams for a size that is no size, aspect ratio or default."""
    if not (is_default_size(text) or SIZE.fullmatch(text) or RATIO.fullmatch(text)):
        message = f"size must be WIDTHxHEIGHT in pixels, like 512x512, a ratio, like 16:9, or auto, got {text[:40]!r}"
        raise InvalidParams(message, "size")


def is_default_size(text: object) -> bool:
    return isinstance(text, str) and text.strip().lower() in ("", "auto")


def resolve_size(text: str, model: ModelInfo) -> tuple[int, int]:
    """(width, height) of "WIDTHxHEIGHT", of an aspect ratio "W:H" or of a default. Raises InvalidParams."""
    check_size_text(text)
    if match := SIZE.fullmatch(text):
        return int(match[1]), int(match[2])
    if match := RATIO.fullmatch(text):
        return size_of_ratio(int(match[1]), int(match[2]), model)
    return model.default_size


def size_of_ratio(width: int, height: int, model: ModelInfo) -> tuple[int, int]:
    """The size with exactly this aspect ratio, about as many pixels as the native size, on as coarse a grid as it can.

    Raises InvalidParams.
    """
    if not width or not height:
        raise InvalidParams(f"size must be a ratio of two positive numbers, like 16:9, got {width}:{height}", "size")
    divisor = math.gcd(width, height)
    width, height = width // divisor, height // divisor
    longest = model.max_side / max(width, height)
    ideal = min((math.prod(model.default_size) / (width * height)) ** 0.5, longest)
    step = model.size_multiple
    while True:
        scale = max(min(round(ideal / step), int(longest / step)), 1) * step
        if step == 1 or abs((scale / ideal) ** 2 - 1) <= MAX_DEVIATION:
            return width * scale, height * scale
        step //= 2


def preset_steps(model: ModelInfo, quality: str) -> int:
    """Steps of a quality: low, medium, high, xhigh, max, or an alias of one."""
    preset = QUALITY_ALIASES.get(quality, quality)
    return min(math.ceil(model.default_steps * QUALITY[preset]), MAX_STEPS)


def quality_of(model: ModelInfo, steps: int) -> str:
    """The best preset with no more than `steps` steps: the quality that a response reports."""
    return max((word for word in QUALITY if preset_steps(model, word) <= steps), key=QUALITY.__getitem__, default="low")


def resolve_params(
    model: ModelInfo,
    prompt: str,
    *,
    size: str | None = None,
    quality: str | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    seed: int | None = None,
    **others: Any,
) -> GenerationParams:
    """The params with the model's default for each argument that is None, and a random seed.

    Args:
        size: "WIDTHxHEIGHT", an aspect ratio "W:H", or auto.
        quality: preset of steps; `num_inference_steps` overrides it.
        seed: RANDOM is as None.
        others: further fields of GenerationParams; None means their default.

    Raises:
        InvalidParams: the size is malformed.
    """
    width, height = resolve_size(size or "", model)
    steps = preset_steps(model, quality or "auto") if num_inference_steps is None else num_inference_steps
    return GenerationParams(
        prompt=prompt,
        width=width,
        height=height,
        num_inference_steps=steps,
        guidance_scale=model.default_guidance if guidance_scale is None else guidance_scale,
        seed=secrets.randbelow(RANDOM_SEEDS) if seed is None or seed == RANDOM else seed,
        **{name: value for name, value in others.items() if value is not None},
    )
