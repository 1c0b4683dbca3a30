"""Decoder output to the bytes of a picture: round(255 * clamp(x / 2 + 1 / 2)), channels last."""

import torch
import triton
import triton.language as tl

from .dispatch import runs_kernels

BLOCK = 1024


def to_uint8(pixels: torch.Tensor) -> torch.Tensor:
    """[3, H, W] in [-1, 1] (clamped), any strides, to uint8 [H, W, 3]."""
    if not runs_kernels(pixels):
        return to_uint8_reference(pixels)
    channels, height, width = pixels.shape
    out = pixels.new_empty(height, width, channels, dtype=torch.uint8)
    total = out.numel()
    _to_uint8_kernel[(triton.cdiv(total, BLOCK),)](pixels, out, total, width, channels, *pixels.stride(), BLOCK=BLOCK)
    return out


def to_uint8_reference(pixels: torch.Tensor) -> torch.Tensor:
    """[3, H, W] in [-1, 1] (clamped) to uint8 [H, W, 3]."""
    return ((pixels / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).float() * 255).round().to(torch.uint8)


@triton.jit
def _to_uint8_kernel(
    pixels: tl.tensor,
    out: tl.tensor,
    total: int,
    width: int,
    channels: int,
    channel_stride: int,
    row_stride: int,
    column_stride: int,
    BLOCK: tl.constexpr,
) -> None:
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    channel, pixel = place % channels, place // channels
    source = channel * channel_stride + (pixel // width) * row_stride + (pixel % width) * column_stride
    value = tl.load(pixels + source, place < total, 0.0).to(tl.float32)
    value = tl.clamp(value / 2 + 0.5, 0.0, 1.0) * 255
    rounded = (value + 8388608.0) - 8388608.0  # 2^23: fp32 has no fraction there, so the sum rounds half to even
    tl.store(out + place, rounded.to(tl.uint8), place < total)
