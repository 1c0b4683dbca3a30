"""The middle of Mix-FFN: depthwise 3x3 with zero padding at each image's own border, then a gated unit (SANA 2.2).

out = a * silu(g) with (a, g) = halves of depthwise3x3(x) + bias.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from .dispatch import runs_kernels
from .layout import TokenLayout

BLOCK_T = 64
"""Rows of one program: two lines of a 1024 px image, so that of three lines read for each tap one is new to L1."""
BLOCK_C = 32


def glu_conv(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, layout: TokenLayout) -> torch.Tensor:
    """x: [T, 2C], weight: [2C, 1, 3, 3], bias: [2C]. Returns [T, C]."""
    if not runs_kernels(x):
        return glu_conv_reference(x, weight, bias, layout)
    rows, channels = x.shape[0], x.shape[1] // 2
    tables = layout.tables
    out = x.new_empty(rows, channels)
    _glu_conv_kernel[(triton.cdiv(rows, BLOCK_T), triton.cdiv(channels, BLOCK_C))](
        *(x, weight, bias, out, tables.image_index, tables.starts, tables.sizes, rows, channels),
        BLOCK_T=BLOCK_T,
        BLOCK_C=BLOCK_C,
        num_warps=8,  # with 4 the nine taps spill registers
    )
    return out


def glu_conv_reference(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, layout: TokenLayout
) -> torch.Tensor:
    """x: [T, 2C], weight: [2C, 1, 3, 3], bias: [2C]. Returns [T, C]."""
    outputs = []
    for run in layout.runs:
        # A view, not a copy: rows of tokens are an image in channels-last order.
        image = x[run.tokens].unflatten(0, (run.count, run.height, run.width)).permute(0, 3, 1, 2)
        convolved = F.conv2d(image, weight, bias, padding=1, groups=weight.shape[0])
        outputs.append(convolved.permute(0, 2, 3, 1).flatten(0, 2))
    a, gate = (torch.cat(outputs) if len(outputs) > 1 else outputs[0]).chunk(2, dim=-1)
    return a * F.silu(gate)


@triton.jit
def _glu_conv_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor | None,
    out: tl.tensor,
    image_index: tl.tensor,
    starts: tl.tensor,
    sizes: tl.tensor,
    rows: int,
    channels: int,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    row = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    there, wanted = row < rows, channel < channels
    image = tl.load(image_index + row, there, 0)
    height, width = tl.load(sizes + 2 * image, there, 1), tl.load(sizes + 2 * image + 1, there, 1)
    place = row - tl.load(starts + image, there, 0)
    line, column = place // width, place % width
    a, gate = tl.zeros((BLOCK_T, BLOCK_C), tl.float32), tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
    for tap in tl.static_range(9):
        down, right = tap // 3 - 1, tap % 3 - 1
        inside = (line + down >= 0) & (line + down < height) & (column + right >= 0) & (column + right < width)
        mask = (there & inside)[:, None] & wanted[None, :]
        source = x + (row + down * width + right).to(tl.int64)[:, None] * (2 * channels) + channel[None, :]
        a_weight = tl.load(weight + channel * 9 + tap, wanted, 0.0).to(tl.float32)
        gate_weight = tl.load(weight + (channels + channel) * 9 + tap, wanted, 0.0).to(tl.float32)
        a += tl.load(source, mask, 0.0).to(tl.float32) * a_weight[None, :]
        gate += tl.load(source + channels, mask, 0.0).to(tl.float32) * gate_weight[None, :]
    if bias is not None:
        a += tl.load(bias + channel, wanted, 0.0).to(tl.float32)[None, :]
        gate += tl.load(bias + channels + channel, wanted, 0.0).to(tl.float32)[None, :]
    result = a * gate * tl.sigmoid(gate)
    target = out + row.to(tl.int64)[:, None] * channels + channel[None, :]
    tl.store(target, result.to(out.dtype.element_ty), there[:, None] & wanted[None, :])
