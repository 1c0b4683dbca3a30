"""Root-mean-square norm over the last dimension: x / sqrt(mean(x^2) + eps) * weight (+ bias), statistics in fp32.

In the autoencoder a residual or an activation follows: the kernel takes both along.
"""

import torch
import triton
import triton.language as tl

from .activation import activate, activation_reference
from .dispatch import block_of, runs_kernels

ELEMENTS = 2048
"""Of one program: 16 for each thread of its 4 warps; 32 spill registers on compute capability 8.9."""


def rms_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    residual: torch.Tensor | None = None,
    act: str | None = None,
) -> torch.Tensor:
    """act(norm) + residual. x, residual: [..., C]; weight, bias: [C]; act: as of `activation_reference`.

    Returns [..., C] in the dtype of weight.
    """
    if not runs_kernels(x):
        out = activation_reference(rms_norm_reference(x, weight, bias, eps), act)
        return out if residual is None else out + residual
    width = x.shape[-1]
    rows = x.contiguous()
    out = torch.empty_like(rows, dtype=weight.dtype)
    block = block_of(width)
    block_rows = max(1, ELEMENTS // block)
    count = rows.numel() // width
    _rms_norm_kernel[(triton.cdiv(count, block_rows),)](
        *(rows, weight, bias, None if residual is None else residual.contiguous(), out, count, width, eps),
        ACT=act,
        ROWS=block_rows,
        BLOCK=block,
    )
    return out


def rms_norm_reference(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, eps: float = 1e-5
) -> torch.Tensor:
    """The norm alone. x: [..., C]; weight, bias: [C]. Returns the shape of x in the dtype of weight."""
    normed = (x * inverse_rms_reference(x, eps)[..., None]).to(weight.dtype)
    return normed * weight if bias is None else torch.addcmul(bias, normed, weight)


def inverse_rms(x: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    """1 / sqrt(mean(x^2) + eps) of every row, for an op that applies it itself. x: [T, C], rows any stride apart."""
    if not runs_kernels(x):
        return inverse_rms_reference(x, eps)
    rows, width = x.shape
    out = x.new_empty(rows, dtype=torch.float32)
    block = block_of(width)
    block_rows = max(1, ELEMENTS // block)
    _inverse_rms_kernel[(triton.cdiv(rows, block_rows),)](
        *(x, out, rows, width, x.stride(0), eps), ROWS=block_rows, BLOCK=block
    )
    return out


def inverse_rms_reference(x: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    """1 / sqrt(mean(x^2) + eps) of every row of x [..., C], fp32 [...]."""
    norm = torch.linalg.vector_norm(x, dim=-1, dtype=torch.float32)  # no fp32 copy of x
    return torch.rsqrt(norm.square() / x.shape[-1] + eps)


@triton.jit(do_not_specialize=["rows"])
def _inverse_rms_kernel(
    x: tl.tensor,
    out: tl.tensor,
    rows: int,
    width: int,
    stride: int,
    eps: float,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = tl.arange(0, BLOCK)[None, :]
    value = tl.load(x + row[:, None] * stride + column, (row < rows)[:, None] & (column < width), 0.0).to(tl.float32)
    tl.store(out + row, tl.rsqrt(tl.sum(value * value, 1) / width + eps), row < rows)


@triton.jit(do_not_specialize=["rows"])
def _rms_norm_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor | None,
    residual: tl.tensor | None,
    out: tl.tensor,
    rows: int,
    width: int,
    eps: float,
    ACT: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]  # 2^31 elements at 4096 px
    column = tl.arange(0, BLOCK)[None, :]
    mask = (row < rows) & (column < width)
    value = tl.load(x + row * width + column, mask, 0.0).to(tl.float32)
    value = value * tl.rsqrt(tl.sum(value * value, 1) / width + eps)[:, None]
    value *= tl.load(weight + column, column < width, 0.0).to(tl.float32)
    if bias is not None:
        value += tl.load(bias + column, column < width, 0.0).to(tl.float32)
    value = activate(value, ACT)
    if residual is not None:
        value += tl.load(residual + row * width + column, mask, 0.0).to(tl.float32)
    tl.store(out + row * width + column, value.to(out.dtype.element_ty), mask)
