"""The middle of Mix-FFN: SiLU, depthwise 3x3 with zero padding at each image's own border, gated unit (SANA 2.2).

out = a * silu(g) with (a, g) = halves of depthwise3x3(silu(x)) + bias.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from .activation import silu, silu_reference
from .dispatch import runs_kernels
from .layout import TokenLayout

ROWS = 32
"""Of one program, which walks along a line: it reads and activates each value for three lines, not for nine taps."""
BLOCK_C = 128
"""Two neighbouring channels of either half for each thread of 2 warps."""


def glu_conv(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, layout: TokenLayout) -> torch.Tensor:
    """x: [T, 2C], weight: [2C, 1, 3, 3], bias: [2C]. Returns [T, C]."""
    if not runs_kernels(x):
        return glu_conv_reference(x, weight, bias, layout)
    rows, channels = x.shape[0], x.shape[1] // 2
    tables = layout.tables
    out = x.new_empty(rows, channels)
    _glu_conv_kernel[(triton.cdiv(rows, ROWS), triton.cdiv(channels, BLOCK_C))](
        *(x, weight, bias, out, tables.image_index, tables.starts, tables.sizes, rows, channels),
        ROWS=ROWS,
        BLOCK_C=BLOCK_C,
        num_warps=2,
    )
    return out


def glu_conv_reference(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, layout: TokenLayout
) -> torch.Tensor:
    """x: [T, 2C], weight: [2C, 1, 3, 3], bias: [2C]. Returns [T, C]."""
    outputs, x = [], silu_reference(x)
    for run in layout.runs:
        # A view, not a copy: rows of tokens are an image in channels-last order.
        image = x[run.tokens].unflatten(0, (run.count, run.height, run.width)).permute(0, 3, 1, 2)
        convolved = F.conv2d(image, weight, bias, padding=1, groups=weight.shape[0])
        outputs.append(convolved.permute(0, 2, 3, 1).flatten(0, 2))
    a, gate = (torch.cat(outputs) if len(outputs) > 1 else outputs[0]).chunk(2, dim=-1)
    return a * silu_reference(gate)


@triton.jit
def _activated(x: tl.tensor, line: tl.tensor, above: tl.tensor, here: tl.tensor, below: tl.tensor) -> tl.tuple:
    """SiLU of what lies at x, one line above and one below it, where the masks say that there is something."""
    return (
        silu(tl.load(x - line, above, 0.0).to(tl.float32)),
        silu(tl.load(x, here, 0.0).to(tl.float32)),
        silu(tl.load(x + line, below, 0.0).to(tl.float32)),
    )


@triton.jit
def _column(weight: tl.tensor, wanted: tl.tensor) -> tl.tuple:
    """One column of the 3x3 weights of every channel."""
    return (
        tl.load(weight, wanted, 0.0).to(tl.float32),
        tl.load(weight + 3, wanted, 0.0).to(tl.float32),
        tl.load(weight + 6, wanted, 0.0).to(tl.float32),
    )


@triton.jit
def _add(total: tl.tensor, weights: tl.tuple, values: tl.tuple) -> tl.tensor:
    return total + weights[0] * values[0] + weights[1] * values[1] + weights[2] * values[2]


@triton.jit(do_not_specialize=["rows"])
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
    ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    first, last = tl.program_id(0) * ROWS, tl.minimum(tl.program_id(0) * ROWS + ROWS, rows)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    wanted = channel < channels
    a_weight, g_weight = weight + channel * 9, weight + (channels + channel) * 9
    a_left, a_middle, a_right = _column(a_weight, wanted), _column(a_weight + 1, wanted), _column(a_weight + 2, wanted)
    g_left, g_middle, g_right = _column(g_weight, wanted), _column(g_weight + 1, wanted), _column(g_weight + 2, wanted)
    a_bias, g_bias = tl.zeros((BLOCK_C,), tl.float32), tl.zeros((BLOCK_C,), tl.float32)
    if bias is not None:
        a_bias = tl.load(bias + channel, wanted, 0.0).to(tl.float32)
        g_bias = tl.load(bias + channels + channel, wanted, 0.0).to(tl.float32)
    for image in range(tl.load(image_index + first).to(tl.int32), tl.load(image_index + last - 1).to(tl.int32) + 1):
        begin, end = tl.load(starts + image), tl.load(starts + image + 1)
        width = tl.load(sizes + 2 * image + 1)
        start, stop = tl.maximum(begin, first), tl.minimum(end, last)
        line = width.to(tl.int64) * (2 * channels)
        # The walk begins one row before its own, whose right neighbour is the first of them, and ends one behind.
        column = (start - begin + width - 1) % width
        source = x + (start - 1).to(tl.int64) * (2 * channels) + channel
        target = out + (start - 2).to(tl.int64) * channels + channel
        # Sums for the row before, which lacks its right neighbour, and for this row, which has its left one.
        a_before, g_before, a_sum, g_sum = a_bias, g_bias, a_bias, g_bias
        for row in range(start - 1, stop + 1):
            inside = (row >= begin) & (row < end) & wanted
            over, under = inside & (row >= begin + width), inside & (row < end - width)
            a = _activated(source, line, over, inside, under)
            g = _activated(source + channels, line, over, inside, under)
            if column > 0:  # else the row before ended its line
                a_before, g_before = _add(a_before, a_right, a), _add(g_before, g_right, g)
            tl.store(target, (a_before * silu(g_before)).to(out.dtype.element_ty), (row > start) & wanted)
            a_before, g_before = _add(a_sum, a_middle, a), _add(g_sum, g_middle, g)
            a_sum, g_sum = a_bias, g_bias
            if column < width - 1:
                a_sum, g_sum = _add(a_bias, a_left, a), _add(g_bias, g_left, g)
            column = tl.where(column < width - 1, column + 1, 0)
            source += 2 * channels
            target += channels
