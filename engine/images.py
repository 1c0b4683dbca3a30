"""From decoder output to a file that says how it was made."""

import io
from typing import Any

import numpy as np
import torch
from PIL import Image, PngImagePlugin

from .types import GenerationParams
from .version import VERSION

PNG_LEVEL = 1
"""zlib level: the fastest that compresses; a 4096 x 4096 picture of the demo model takes 1.3 s on one core."""


def to_uint8(pixels: torch.Tensor) -> torch.Tensor:
    """[3, H, W] in [-1, 1] (clamped) to uint8 [H, W, 3]."""
    return ((pixels / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).float() * 255).round().to(torch.uint8)


def encode_image(pixels: np.ndarray, params: GenerationParams, seed: int, model: str) -> bytes:
    """uint8 [H, W, 3] to a PNG, JPEG or WebP; text chunks of a PNG hold seed and model, and all that was asked."""
    options: dict[str, Any] = {"quality": params.output_compression}
    if params.output_format == "png":
        options = {"pnginfo": describe(params, seed, model), "compress_level": PNG_LEVEL}
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, params.output_format, **options)
    return out.getvalue()


def describe(params: GenerationParams, seed: int, model: str) -> PngImagePlugin.PngInfo:
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
