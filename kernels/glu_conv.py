"""The middle of Mix-FFN: SiLU, depthwise 3x3 with zero padding at each image's border, gated linear unit (SANA 2.2).

out = a * silu(g) with (a, g) = halves of depthwise3x3(silu(x)) + bias.
"""

import torch
import torch.nn.functional as F

from ._triton import tl, triton
from .activation import silu, silu_reference
from .dispatch import uses_kernels
from .layout import TokenLayout

TOKENS = 32
"""Tokens per program, which walks along a line: it activates each value for three lines, not for nine taps."""
BLOCK_C = 128
"""Channels per program: two neighbouring channels of either half for each thread of 2 warps."""


def glu_conv(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, layout: TokenLayout) -> torch.Tensor:
    """The gated convolution of each image.

    Args:
        x: [T, 2C].
        weight: [2C, 1, 3, 3].
        bias: [2C].

    Returns:
        [T, C].
    """
    if not uses_kernels(x):
        return glu_conv_reference(x, weight, bias, layout)
    tokens, channels = x.shape[0], x.shape[1] // 2
    tables = layout.tables
    out = x.new_empty(tokens, channels)
    _glu_conv_kernel[(triton.cdiv(tokens, TOKENS), triton.cdiv(channels, BLOCK_C))](
        x=x,
        weight=weight,
        bias=bias,
        out=out,
        image_index=tables.image_index,
        starts=tables.starts,
        sizes=tables.sizes,
        tokens=tokens,
        channels=channels,
        TOKENS=TOKENS,
        BLOCK_C=BLOCK_C,
        num_warps=2,
    )
    return out


def glu_conv_reference(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, layout: TokenLayout
) -> torch.Tensor:
    """The op in plain torch; arguments and result as in `glu_conv`."""
    outputs, x = [], silu_reference(x)
    for run in layout.runs:
        # A view, not a copy: the tokens of an image are its pixels in channels-last order.
        image = x[run.tokens].unflatten(0, (run.count, run.height, run.width)).permute(0, 3, 1, 2)
        convolved = F.conv2d(image, weight, bias, padding=1, groups=weight.shape[0])
        outputs.append(convolved.permute(0, 2, 3, 1).flatten(0, 2))
    a, gate = (torch.cat(outputs) if len(outputs) > 1 else outputs[0]).chunk(2, dim=-1)
    return a * silu_reference(gate)


@triton.jit
def _activated_column(x: tl.tensor, line: tl.tensor, above: tl.tensor, here: tl.tensor, below: tl.tensor) -> tl.tuple:
    """SiLU of the tokens one line above x, at x and one line below, as fp32; 0 where the mask is false."""
    # The zero padding comes after SiLU, but silu(0) = 0: a masked load pads.
    return (
        silu(tl.load(x - line, above, 0.0).to(tl.float32)),
        silu(tl.load(x, here, 0.0).to(tl.float32)),
        silu(tl.load(x + line, below, 0.0).to(tl.float32)),
    )


@triton.jit
def _weight_column(weight: tl.tensor, channel_mask: tl.tensor) -> tl.tuple:
    """One column of the 3x3 weights of each channel, as fp32."""
    return (
        tl.load(weight, channel_mask, 0.0).to(tl.float32),
        tl.load(weight + 3, channel_mask, 0.0).to(tl.float32),
        tl.load(weight + 6, channel_mask, 0.0).to(tl.float32),
    )


@triton.jit
def _add_column(total: tl.tensor, weights: tl.tuple, values: tl.tuple) -> tl.tensor:
    """total plus the products of one column of taps."""
    return total + weights[0] * values[0] + weights[1] * values[1] + weights[2] * values[2]


@triton.jit(do_not_specialize=["tokens"])
def _glu_conv_kernel(
    x: tl.tensor,  # [tokens, 2 * channels]: the halves a and g
    weight: tl.tensor,  # [2 * channels, 9]
    bias: tl.tensor | None,
    out: tl.tensor,  # [tokens, channels]
    image_index: tl.tensor,
    starts: tl.tensor,
    sizes: tl.tensor,
    tokens: int,
    channels: int,
    TOKENS: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    # One program computes TOKENS consecutive tokens of the pack for BLOCK_C channels of a and the same ones of g.
    first, last = tl.program_id(0) * TOKENS, tl.minimum(tl.program_id(0) * TOKENS + TOKENS, tokens)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    channel_mask = channel < channels
    # All 18 weights of a channel stay in registers for the whole walk.
    a_weight, g_weight = weight + channel * 9, weight + (channels + channel) * 9
    a_left, a_middle, a_right = (
        _weight_column(a_weight, channel_mask),
        _weight_column(a_weight + 1, channel_mask),
        _weight_column(a_weight + 2, channel_mask),
    )
    g_left, g_middle, g_right = (
        _weight_column(g_weight, channel_mask),
        _weight_column(g_weight + 1, channel_mask),
        _weight_column(g_weight + 2, channel_mask),
    )
    # Sums of nine products and a bias stay in fp32, so that half precision rounds once, at the store.
    a_bias, g_bias = tl.zeros((BLOCK_C,), tl.float32), tl.zeros((BLOCK_C,), tl.float32)
    if bias is not None:
        a_bias = tl.load(bias + channel, channel_mask, 0.0).to(tl.float32)
        g_bias = tl.load(bias + channels + channel, channel_mask, 0.0).to(tl.float32)
    # The block may cross image borders: it walks through the part of each image separately.
    for image in range(tl.load(image_index + first).to(tl.int32), tl.load(image_index + last - 1).to(tl.int32) + 1):
        begin, end = tl.load(starts + image), tl.load(starts + image + 1)
        width = tl.load(sizes + 2 * image + 1)
        start, stop = tl.maximum(begin, first), tl.minimum(end, last)
        line = width.to(tl.int64) * (2 * channels)
        # A token's sum needs the columns of taps at its left, itself and its right. So the walk reads one column more
        # on either side, from token start - 1 to token stop, and stores the sum of the token before the one it reads.
        column = (start - begin + width - 1) % width  # of token start - 1
        source = x + (start - 1).to(tl.int64) * (2 * channels) + channel
        target = out + (start - 2).to(tl.int64) * channels + channel
        # `previous` is the sum of the token before, which lacks its right column; `current` that of this token, which
        # has its left column. So each value that the walk activates serves three tokens from registers.
        a_previous, g_previous, a_current, g_current = a_bias, g_bias, a_bias, g_bias
        for token in range(start - 1, stop + 1):
            # `!= 0` adds no instruction. Without it the interpreter turns scalar & mask into integers, which Triton 3.9
            # refuses as masks.
            inside = ((token >= begin) & (token < end) & channel_mask) != 0
            above, below = (inside & (token >= begin + width)) != 0, (inside & (token < end - width)) != 0
            a = _activated_column(source, line, above, inside, below)
            g = _activated_column(source + channels, line, above, inside, below)
            if column > 0:  # in column 0 the token before ended its line, and its right column is padding
                a_previous, g_previous = _add_column(a_previous, a_right, a), _add_column(g_previous, g_right, g)
            stored = ((token > start) & channel_mask) != 0
            tl.store(target, (a_previous * silu(g_previous)).to(out.dtype.element_ty), stored)
            a_previous, g_previous = _add_column(a_current, a_middle, a), _add_column(g_current, g_middle, g)
            a_current, g_current = a_bias, g_bias
            if column < width - 1:  # in the last column the next token starts a line, and its left column is padding
                a_current, g_current = _add_column(a_bias, a_left, a), _add_column(g_bias, g_left, g)
            column = tl.where(column < width - 1, column + 1, 0)
            source += 2 * channels
            target += channels
