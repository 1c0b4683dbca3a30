"""GenerationParams from what a user sent: the model's defaults for the rest."""

import math
import re
import secrets
from typing import Any

from engine import MAX_STEPS, GenerationParams, InvalidParams, ModelInfo

RANDOM_SEEDS = 1 << 32  # exact in clients whose only numbers are doubles
SIZE = re.compile(r"([0-9]{1,9})x([0-9]{1,9})")
QUALITY = {"low": 0.5, "medium": 1.0, "high": 1.5, "xhigh": 2.0, "max": 2.5}
"""Steps of each preset, as a multiple of the model's default."""
QUALITY_ALIASES = {"auto": "medium", "standard": "medium", "hd": "high"}


def parse_size(text: str) -> tuple[int, int]:
    """(width, height) of "WIDTHxHEIGHT". Raises InvalidParams."""
    match = SIZE.fullmatch(text)
    if match is None:
        raise InvalidParams(f"size must be WIDTHxHEIGHT in pixels, like 512x512, or auto, got {text[:40]!r}", "size")
    return int(match[1]), int(match[2])


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
        quality: preset of steps; `num_inference_steps` overrides it.
        others: further fields of GenerationParams; None means their default.

    Raises:
        InvalidParams: the size is malformed.
    """
    width, height = model.default_size if size in (None, "auto") else parse_size(str(size))
    steps = preset_steps(model, quality or "auto") if num_inference_steps is None else num_inference_steps
    return GenerationParams(
        prompt=prompt,
        width=width,
        height=height,
        num_inference_steps=steps,
        guidance_scale=model.default_guidance if guidance_scale is None else guidance_scale,
        seed=secrets.randbelow(RANDOM_SEEDS) if seed is None else seed,
        **{name: value for name, value in others.items() if value is not None},
    )
