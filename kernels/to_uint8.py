"""Decoder output to the bytes of an image: round(255 * clamp(x / 2 + 1 / 2)), channels last."""

import torch

from ._triton import tl, triton
from .dispatch import uses_kernels

BLOCK = 1024
"""Output bytes per program: 8 for each thread of its 4 warps."""


def to_uint8(pixels: torch.Tensor) -> torch.Tensor:
    """The bytes of an image, uint8 [H, W, 3], from pixels [3, H, W] in [-1, 1] (clamped), any strides."""
    if not uses_kernels(pixels):
        return to_uint8_reference(pixels)
    channels, height, width = pixels.shape
    out = pixels.new_empty(height, width, channels, dtype=torch.uint8)
    total = out.numel()
    channel_stride, row_stride, column_stride = pixels.stride()
    _to_uint8_kernel[(triton.cdiv(total, BLOCK),)](
        pixels=pixels,
        out=out,
        total=total,
        width=width,
        channels=channels,
        channel_stride=channel_stride,
        row_stride=row_stride,
        column_stride=column_stride,
        BLOCK=BLOCK,
    )
    return out


def to_uint8_reference(pixels: torch.Tensor) -> torch.Tensor:
    """The op in plain torch; argument and result as in `to_uint8`."""
    return ((pixels / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).float() * 255).round().to(torch.uint8)


@triton.jit
def _to_uint8_kernel(
    pixels: tl.tensor,  # [channels, H, width], any strides: a band of the decoder's channels-last output
    out: tl.tensor,  # [H, width, channels]
    total: int,
    width: int,
    channels: int,
    channel_stride: int,
    row_stride: int,
    column_stride: int,
    BLOCK: tl.constexpr,
) -> None:
    # Programs follow the order of the output, so that neighbouring threads store neighbouring bytes.
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    channel, pixel = offsets % channels, offsets // channels
    source = channel * channel_stride + (pixel // width) * row_stride + (pixel % width) * column_stride
    # fp32: 255 levels and the halves between them need 9 bits of mantissa, bf16 has 8.
    value = tl.load(pixels + source, offsets < total, 0.0).to(tl.float32)
    value = tl.clamp(value / 2 + 0.5, 0.0, 1.0) * 255
    rounded = (value + 8388608.0) - 8388608.0  # 2^23: fp32 has no fraction there, so the sum rounds half to even
    tl.store(out + offsets, rounded.to(tl.uint8), offsets < total)
