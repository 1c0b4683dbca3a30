"""3x3 convolution, bias and activation: act(conv(x) + bias).

The convolution is the library's. Its bias and the activation would each be a pass over the image; the kernel makes
them one.
"""

import torch
import torch.nn.functional as F

from ._triton import tl, triton
from .activation import activate, activation_reference
from .dispatch import block_size, uses_kernels
from .onednn import conv2d_act

ELEMENTS = 4096
"""Elements per program: 32 for each thread of its 4 warps."""


def conv_act(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, act: str | None) -> torch.Tensor:
    """The activated convolution of x [N, C, H, W].

    Args:
        weight: [O, C, 3, 3], on the CPU also from `reorder_conv`.
        bias: [O].
        act: a name of `ACTIVATIONS`.

    Returns:
        [N, O, H, W], from the kernel in channels-last memory.
    """
    if not uses_kernels(x):
        return conv_act_reference(x, weight, bias, act)
    # In channels-last memory the output is a matrix [pixels, channels], so one row of biases serves a block.
    out = F.conv2d(x, weight, padding=1).contiguous(memory_format=torch.channels_last)
    pixels, width = out.numel() // out.shape[1], out.shape[1]
    block = block_size(width)
    block_rows = max(1, ELEMENTS // block)
    _conv_act_kernel[(triton.cdiv(pixels, block_rows),)](
        x=out,
        bias=bias,
        rows=pixels,
        width=width,
        ACT=act,
        ROWS=block_rows,
        BLOCK=block,
    )
    return out


def conv_act_reference(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, act: str | None
) -> torch.Tensor:
    """The op in plain torch, or in one pass of oneDNN; arguments and result as in `conv_act`."""
    if weight.is_mkldnn:
        return conv2d_act(x, weight, bias, padding=1, act=act)
    return activation_reference(F.conv2d(x, weight, bias, padding=1), act)


@triton.jit(do_not_specialize=["rows"])
def _conv_act_kernel(
    x: tl.tensor,  # [rows, width], overwritten: each element is read once, by the program that writes it
    bias: tl.tensor | None,
    rows: int,
    width: int,
    ACT: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    # int64: an image of 4096 x 4096 px with 128 channels has 2^31 elements.
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    mask = (row < rows) & (column < width)
    # fp32 from load to store, so that bf16 and fp16 round once, not after the bias and again after the activation.
    value = tl.load(x + row * width + column, mask, 0.0).to(tl.float32)
    if bias is not None:
        value += tl.load(bias + column, column < width, 0.0).to(tl.float32)
    tl.store(x + row * width + column, activate(value, ACT).to(x.dtype.element_ty), mask)
