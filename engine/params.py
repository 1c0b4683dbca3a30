"""Limits of a request, checked here and nowhere else: against the loaded model, before anything is queued."""

import math

from .costs import MemoryModel, grid_size, image_tokens
from .errors import InvalidParams
from .types import GenerationParams, ModelInfo

MAX_PROMPT_CHARS = 32000
MAX_IMAGES = 10  # per request
MAX_STEPS = 100
MAX_SEED = 2**64 - 1  # seed + k of image k wraps to 0 beyond it
MIN_SIDE = 32
"""Shortest side of an image in pixels."""

LIMITS: dict[str, tuple[float, float]] = {
    "n": (1, MAX_IMAGES),
    "num_inference_steps": (1, MAX_STEPS),
    "seed": (0, MAX_SEED),
    "guidance_scale": (0.0, 50.0),
    "partial_images": (0, 3),
    "output_compression": (0, 100),
    "strength": (0.0, 1.0),
    "mask_feather": (0, 64),
}
"""Smallest and largest value of each numeric parameter, both allowed."""
MAX_TIMEOUT_SECONDS = 86400
GIB = 2**30


def check_params(params: GenerationParams, model: ModelInfo) -> None:
    """Raises InvalidParams for the first parameter that the model cannot serve, by its name in the API."""
    check_prompt(params.prompt, "prompt")
    if params.image is not None:
        check_image(params, model)
    elif not params.prompt.strip():
        raise InvalidParams("prompt is empty; describe the image to generate", "prompt")
    check_prompt(params.negative_prompt, "negative_prompt")
    check_size(params.width, params.height, model)
    for name in LIMITS:
        check_limits(name, getattr(params, name))
    if params.output_format == "png" and params.output_compression != 100:
        raise InvalidParams(
            f"output_compression must be 100 for PNG, which is lossless, got {params.output_compression}; "
            "set output_format to jpeg or webp to compress more",
            "output_compression",
        )
    if params.timeout is not None:
        check_timeout(params.timeout)


def check_image(params: GenerationParams, model: ModelInfo) -> None:
    """Raises InvalidParams for an image to repaint that the model cannot encode, or that is not of the size."""
    if not model.takes_images:
        raise InvalidParams(
            "this model's autoencoder has no encoder (its vae folder holds no weights `encoder.*`), so it cannot "
            "repaint images; generate from text alone with POST /v1/images/generations",
            "image",
        )
    assert params.image is not None
    pixels = params.width * params.height
    if len(params.image.pixels) != 3 * pixels or len(params.image.mask or bytes(pixels)) != pixels:
        raise InvalidParams(f"image and mask must have {params.width}x{params.height} pixels", "image")


def check_fits(params: GenerationParams, model: ModelInfo, memory: MemoryModel) -> None:
    """Raises InvalidParams for an image that does not fit into the device's memory, even alone."""
    needed = memory.image_bytes(image_tokens(params, model), *grid_size(params, model))
    if needed > memory.capacity:
        raise InvalidParams(
            f"an image of {params.width}x{params.height} needs {needed / GIB:.1f} GiB of memory, but only "
            f"{memory.capacity / GIB:.1f} GiB are available on {model.device}; request a smaller size",
            "size",
        )


def check_limits(name: str, value: float) -> None:
    """Raises InvalidParams for a value outside of LIMITS[name], NaN included."""
    low, high = LIMITS[name]
    if low <= value <= high:
        return
    code = "invalid_value"
    if isinstance(low, int):
        code = "integer_below_min_value" if value < low else "integer_above_max_value"
    raise InvalidParams(f"{name} must be between {low} and {high}, got {value}", name, code)


def check_timeout(seconds: float) -> None:
    if not 0 < seconds <= MAX_TIMEOUT_SECONDS:
        message = f"timeout must be above 0 and at most {MAX_TIMEOUT_SECONDS} seconds, got {seconds}"
        above_max = math.isfinite(seconds) and seconds > 0
        raise InvalidParams(message, "timeout", "integer_above_max_value" if above_max else "invalid_value")


def check_prompt(text: str, param: str) -> None:
    if len(text) > MAX_PROMPT_CHARS:
        message = f"{param} must have at most {MAX_PROMPT_CHARS} characters, got {len(text)}"
        raise InvalidParams(message, param, "string_above_max_length")
    if "\0" in text:
        raise InvalidParams(f"{param} contains a NUL character; remove it", param)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        message = f"{param} contains half of a surrogate pair at position {error.start}; send whole characters"
        raise InvalidParams(message, param) from None


def check_size(width: int, height: int, model: ModelInfo) -> None:
    nearest = [min(max(side, MIN_SIDE), model.max_side) for side in (width, height)]
    if nearest != [width, height]:
        raise InvalidParams(
            f"width and height must be between {MIN_SIDE} and {model.max_side} pixels, got {width}x{height}; "
            f"the nearest valid size is {nearest[0]}x{nearest[1]}",
            "size",
        )
