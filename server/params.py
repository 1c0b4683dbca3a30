"""From what a user typed or sent to GenerationParams: the model fills what was left open."""

import re
import secrets

from engine import GenerationParams, InvalidParams, ModelInfo

RANDOM_SEEDS = 1 << 32  # a drawn seed also survives clients whose numbers are doubles
SIZE = re.compile(r"([0-9]{1,9})x([0-9]{1,9})")


def parse_size(text: str) -> tuple[int, int]:
    """(width, height) of "WIDTHxHEIGHT". Raises InvalidParams."""
    match = SIZE.fullmatch(text)
    if match is None:
        raise InvalidParams(f"size is {text[:40]!r}; it must be WIDTHxHEIGHT in pixels, like 512x512, or auto", "size")
    return int(match[1]), int(match[2])


def fill_params(
    model: ModelInfo,
    prompt: str,
    *,
    size: str | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    seed: int | None = None,
    negative_prompt: str | None = None,
    n: int | None = None,
) -> GenerationParams:
    """What is None takes the model's default; a missing seed is drawn. Raises InvalidParams for a malformed size."""
    width, height = model.default_size if size in (None, "auto") else parse_size(str(size))
    return GenerationParams(
        prompt=prompt,
        width=width,
        height=height,
        num_inference_steps=model.default_steps if num_inference_steps is None else num_inference_steps,
        guidance_scale=model.default_guidance if guidance_scale is None else guidance_scale,
        seed=secrets.randbelow(RANDOM_SEEDS) if seed is None else seed,
        negative_prompt=negative_prompt or "",
        n=1 if n is None else n,
    )
