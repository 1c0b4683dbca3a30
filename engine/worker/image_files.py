"""Image files that record how they were generated."""

import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from ..types import GenerationParams
from ..version import VERSION

PNG_LEVEL = 1
"""zlib level: the fastest that compresses; a 4096 x 4096 image of the demo model takes 1.3 s on one core."""
CHUNK = "sana-serve"
"""Keyword of our text chunk. Common ones have a meaning to other programs: ComfyUI parses `prompt` as JSON."""

FULL_COLOUR_QUALITY = 90
"""JPEG quality from which colours keep their resolution, as in libvips and ImageMagick."""
MAX_PREVIEW_SIDE = 512
"""Pixels. A 4096 x 4096 preview would take as long to compress as the image, and clients show it for a moment."""
MAX_PREVIEW_BYTES = 380_000
"""In base64 and with the rest of its event below 512 KiB, the longest line that aiohttp's reader accepts."""


def encode_image(pixels: np.ndarray, params: GenerationParams, seed: int, model: str, metadata: str = "sana") -> bytes:
    """Encodes the centre of uint8 pixels [H, W, 3] as PNG, JPEG or WebP of the size in `params`.

    Args:
        pixels: image on the model's grid, at least as large as the file.
        metadata: one of PNG_METADATA.
    """
    return encode(crop(pixels, params), params, seed, model, metadata)


def encode_preview(
    pixels: np.ndarray, params: GenerationParams, seed: int, model: str, metadata: str = "sana"
) -> tuple[bytes, int, int]:
    """A preview's file, reduced by whole factors, with its width and height; it does not record the parameters.

    Its sides are at most MAX_PREVIEW_SIDE, and noise, which no format compresses well, is reduced further until the
    file has at most MAX_PREVIEW_BYTES.
    """
    image = crop(pixels, params)
    image = image.reduce(-(-max(image.size) // MAX_PREVIEW_SIDE))
    params = replace(params, embed_params=False)
    while len(file := encode(image, params, seed, model, metadata)) > MAX_PREVIEW_BYTES:
        image = image.reduce(2)
    return file, image.width, image.height


def crop(pixels: np.ndarray, params: GenerationParams) -> Image.Image:
    """The centre of an image on the model's grid, of the size in `params`."""
    top, left = (pixels.shape[0] - params.height) // 2, (pixels.shape[1] - params.width) // 2
    return Image.fromarray(pixels[top : top + params.height, left : left + params.width])


def encode(image: Image.Image, params: GenerationParams, seed: int, model: str, metadata: str) -> bytes:
    """File of an image in the format of `params`."""
    quality = params.output_compression
    options: dict[str, Any] = {"quality": quality}
    if params.output_format == "jpeg" and quality >= FULL_COLOUR_QUALITY:
        options["subsampling"] = 0  # Pillow halves the colour's resolution at any quality
    if params.output_format == "png":
        options = {"pnginfo": png_text(params, seed, model, metadata), "compress_level": PNG_LEVEL}
    out = io.BytesIO()
    image.save(out, params.output_format, **options)
    return out.getvalue()


def png_text(params: GenerationParams, seed: int, model: str, metadata: str) -> PngImagePlugin.PngInfo:
    """Text chunks of a PNG: seed, model and version, and the parameters with `embed_params`."""
    info = PngImagePlugin.PngInfo()
    if metadata == "none":
        return info
    settings: dict[str, str | float] = {"seed": seed, "model": model, "version": VERSION}
    if params.embed_params:
        settings |= {
            "prompt": params.prompt,
            "negative_prompt": params.negative_prompt,
            "num_inference_steps": params.num_inference_steps,
            "guidance_scale": params.guidance_scale,
            "size": f"{params.width}x{params.height}",
        }
        if params.image is not None:
            settings["strength"] = params.strength
        if metadata == "a1111":
            info.add_text("parameters", a1111_text(params, seed, model))
    info.add_itxt(CHUNK, json.dumps(settings, ensure_ascii=False))
    return info


def a1111_text(params: GenerationParams, seed: int, model: str) -> str:
    """The parameters in the form of AUTOMATIC1111's web UI: prompt, negative prompt, one line of settings."""
    negative = f"\nNegative prompt: {params.negative_prompt}" if params.negative_prompt else ""
    settings = {
        "Steps": str(params.num_inference_steps),
        "CFG scale": f"{params.guidance_scale:g}",
        "Seed": str(seed),
        "Size": f"{params.width}x{params.height}",
        "Model": model,
        "Version": f"sana-serve {VERSION}",
    }
    if params.image is not None:
        settings["Denoising strength"] = f"{params.strength:g}"
    quoted = {name: json.dumps(text) if set(text) & set(",:\n") else text for name, text in settings.items()}
    return f"{params.prompt}{negative}\n" + ", ".join(f"{name}: {text}" for name, text in quoted.items())
