"""3x3 convolution, bias and activation: act(conv(x) + bias).

The convolution is the library's. Its bias would be a pass over the picture and the activation another: they are one.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from .activation import activate, activation_reference
from .dispatch import block_of, runs_kernels

ELEMENTS = 4096
"""Of one program: 32 for each thread of its 4 warps."""


def conv_act(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, act: str | None) -> torch.Tensor:
    """x: [N, C, H, W]; weight: [O, C, 3, 3]; bias: [O]; act: as of `activation_reference`. Returns [N, O, H, W]."""
    if not runs_kernels(x):
        return conv_act_reference(x, weight, bias, act)
    out = F.conv2d(x, weight, padding=1).contiguous(memory_format=torch.channels_last)
    rows, width = out.numel() // out.shape[1], out.shape[1]
    block = block_of(width)
    block_rows = max(1, ELEMENTS // block)
    _bias_act_kernel[(triton.cdiv(rows, block_rows),)](out, bias, rows, width, ACT=act, ROWS=block_rows, BLOCK=block)
    return out


def conv_act_reference(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, act: str | None
) -> torch.Tensor:
    """Arguments and result as of `conv_act`."""
    return activation_reference(F.conv2d(x, weight, bias, padding=1), act)


@triton.jit(do_not_specialize=["rows"])
def _bias_act_kernel(
    x: tl.tensor,
    bias: tl.tensor | None,
    rows: int,
    width: int,
    ACT: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]  # 2^31 elements at 4096 px
    column = tl.arange(0, BLOCK)[None, :]
    mask = (row < rows) & (column < width)
    value = tl.load(x + row * width + column, mask, 0.0).to(tl.float32)
    if bias is not None:
        value += tl.load(bias + column, column < width, 0.0).to(tl.float32)
    tl.store(x + row * width + column, activate(value, ACT).to(x.dtype.element_ty), mask)
