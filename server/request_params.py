"""From what a user typed or sent to GenerationParams: the model fills what was left open."""

import math
import re
import secrets
from typing import Any

from engine import MAX_STEPS, GenerationParams, InvalidParams, ModelInfo

RANDOM_SEEDS = 1 << 32  # a drawn seed also survives clients whose numbers are doubles
SIZE = re.compile(r"([0-9]{1,9})x([0-9]{1,9})")
QUALITY = {"low": 0.5, "medium": 1.0, "high": 1.5, "xhigh": 2.0, "max": 2.5}
"""Steps of a preset, as a multiple of the model's own count."""
QUALITY_ALIASES = {"auto": "medium", "standard": "medium", "hd": "high"}


def parse_size(text: str) -> tuple[int, int]:
    """(width, height) of "WIDTHxHEIGHT". Raises InvalidParams."""
    match = SIZE.fullmatch(text)
    if match is None:
        raise InvalidParams(f"size is {text[:40]!r}; it must be WIDTHxHEIGHT in pixels, like 512x512, or auto", "size")
    return int(match[1]), int(match[2])


def preset_steps(model: ModelInfo, quality: str) -> int:
    """Steps of a quality word: low, medium, high, xhigh, max, or an alias of one."""
    preset = QUALITY_ALIASES.get(quality, quality)
    return min(math.ceil(model.default_steps * QUALITY[preset]), MAX_STEPS)


def quality_of(model: ModelInfo, steps: int) -> str:
    """The best preset that takes no more than `steps`: what an answer says its quality was."""
    return max((word for word in QUALITY if preset_steps(model, word) <= steps), key=QUALITY.__getitem__, default="low")


def fill_params(
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
    """What is None takes the model's default; a missing seed is drawn. Raises InvalidParams for a malformed size.

    Args:
        quality: a preset of steps; `num_inference_steps` goes first.
        others: further fields of GenerationParams; None is their default.
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
