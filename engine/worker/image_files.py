"""Image files that record how they were generated."""

import io
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from ..types import GenerationParams
from ..version import VERSION

PNG_LEVEL = 1
"""zlib level: the fastest that compresses; a 4096 x 4096 image of the demo model takes 1.3 s on one core."""

MAX_PREVIEW_SIDE = 512
"""Pixels. A 4096 x 4096 preview would take as long to compress as the image, and clients show it for a moment."""
MAX_PREVIEW_BYTES = 380_000
"""In base64 and with the rest of its event below 512 KiB, the longest line that aiohttp's reader accepts."""


def encode_image(pixels: np.ndarray, params: GenerationParams, seed: int, model: str) -> bytes:
    """Encodes uint8 pixels [H, W, 3] as PNG, JPEG or WebP; a PNG has seed, model and parameters in its text chunks."""
    options: dict[str, Any] = {"quality": params.output_compression}
    if params.output_format == "png":
        options = {"pnginfo": png_text(params, seed, model), "compress_level": PNG_LEVEL}
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, params.output_format, **options)
    return out.getvalue()


def encode_preview(pixels: np.ndarray, params: GenerationParams, seed: int, model: str) -> tuple[bytes, int, int]:
    """A preview's file, reduced by whole factors, with its width and height; it does not record the parameters.

    Its sides are at most MAX_PREVIEW_SIDE, and noise, which no format compresses well, is reduced further until the
    file has at most MAX_PREVIEW_BYTES.
    """
    image = Image.fromarray(pixels)
    image = image.reduce(-(-max(image.size) // MAX_PREVIEW_SIDE))
    params = replace(params, embed_params=False)
    while len(file := encode_image(np.asarray(image), params, seed, model)) > MAX_PREVIEW_BYTES:
        image = image.reduce(2)
    return file, image.width, image.height


def png_text(params: GenerationParams, seed: int, model: str) -> PngImagePlugin.PngInfo:
    """Text chunks of a PNG: always seed, model and software, and the parameters with `embed_params`."""
    text = {"seed": str(seed), "model": model, "software": f"sana-serve {VERSION}"}
    if params.embed_params:
        text |= {
            "prompt": params.prompt,
            "negative_prompt": params.negative_prompt,
            "num_inference_steps": str(params.num_inference_steps),
            "guidance_scale": f"{params.guidance_scale:g}",
            "size": f"{params.width}x{params.height}",
        }
    info = PngImagePlugin.PngInfo()
    for key, value in text.items():
        info.add_itxt(key, value)
    return info
