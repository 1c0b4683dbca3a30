"""Judges a request against the loaded model before it costs anything: every refusal says what would be right."""

import math

from .costs import MemoryModel, image_tokens
from .errors import InvalidParams
from .types import MAX_IMAGES, MAX_PARTIAL_IMAGES, MAX_PROMPT_CHARS, MAX_SEED, MAX_STEPS, GenerationParams, ModelInfo

MAX_GUIDANCE = 50.0
GIB = 2**30


def check_params(params: GenerationParams, model: ModelInfo) -> None:
    """Raises InvalidParams, naming the parameter as the API spells it."""
    check_prompt(params.prompt, "prompt")
    if not params.prompt.strip():
        raise InvalidParams("prompt is empty; describe the picture to draw", "prompt")
    check_prompt(params.negative_prompt, "negative_prompt")
    check_size(params.width, params.height, model)
    check_range(params.num_inference_steps, 1, MAX_STEPS, "num_inference_steps")
    check_range(params.n, 1, MAX_IMAGES, "n")
    check_range(params.seed, 0, MAX_SEED - MAX_IMAGES, "seed")
    guidance = params.guidance_scale
    if not math.isfinite(guidance) or not 0 <= guidance <= MAX_GUIDANCE:
        raise InvalidParams(f"guidance_scale is {guidance}; it must be from 0 to {MAX_GUIDANCE:g}", "guidance_scale")
    check_range(params.partial_images, 0, MAX_PARTIAL_IMAGES, "partial_images")
    check_range(params.output_compression, 0, 100, "output_compression")
    if params.timeout is not None and not params.timeout > 0:
        raise InvalidParams(f"timeout is {params.timeout}; give seconds above 0", "timeout")


def check_fits(params: GenerationParams, model: ModelInfo, memory: MemoryModel) -> None:
    """Raises InvalidParams for a picture that the device's memory could never hold, even alone."""
    needed = memory.image_bytes(image_tokens(params, model), params.width, params.height)
    if needed > memory.capacity:
        raise InvalidParams(
            f"a picture of {params.width}x{params.height} needs {needed / GIB:.1f} GiB of memory; {model.device} has "
            f"{memory.capacity / GIB:.1f} GiB to spare: ask for a smaller size",
            "size",
        )


def check_prompt(text: str, param: str) -> None:
    if len(text) > MAX_PROMPT_CHARS:
        message = f"{param} has {len(text)} characters; at most {MAX_PROMPT_CHARS} are taken"
        raise InvalidParams(message, param, "string_above_max_length")
    if "\0" in text:
        raise InvalidParams(f"{param} holds a NUL character; remove it", param)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        message = f"{param} holds half of a surrogate pair at position {error.start}; send whole characters"
        raise InvalidParams(message, param) from None


def check_range(value: int, low: int, high: int, param: str) -> None:
    if value < low:
        raise InvalidParams(f"{param} is {value}; the least is {low}", param, "integer_below_min_value")
    if value > high:
        raise InvalidParams(f"{param} is {value}; the most is {high}", param, "integer_above_max_value")


def check_size(width: int, height: int, model: ModelInfo) -> None:
    grid, top = model.size_multiple, model.max_side

    def nearest(side: int) -> int:
        return min(max(round(side / grid), 1) * grid, top)

    if any(side % grid or not grid <= side <= top for side in (width, height)):
        raise InvalidParams(
            f"size {width}x{height} is not valid: width and height must be multiples of {grid} from {grid} to {top}; "
            f"the nearest valid size is {nearest(width)}x{nearest(height)}",
            "size",
        )
