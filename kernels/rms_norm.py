"""Root-mean-square norm over the last dimension: x / sqrt(mean(x^2) + eps) * weight (+ bias), statistics in fp32.

In the autoencoder a residual or an activation follows the norm: the kernel computes them in the same pass.
"""

import torch

from ._triton import tl, triton
from .activation import activate, activation_reference
from .dispatch import block_size, uses_kernels

CHUNK = 2**17
"""Elements that the reference computes at once: its temporaries stay in the cache."""
ELEMENTS = 2048
"""Elements per program: 16 for each thread of its 4 warps; 32 spill registers on compute capability 8.9."""


def rms_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    residual: torch.Tensor | None = None,
    act: str | None = None,
) -> torch.Tensor:
    """act(norm of x) + residual.

    Args:
        x, residual: [..., C].
        weight, bias: [C].
        act: a name of `ACTIVATIONS`.

    Returns:
        [..., C] in the dtype of weight.
    """
    if not uses_kernels(x):
        return rms_norm_by_torch(x, weight, bias, eps, residual, act)
    width = x.shape[-1]
    x = x.contiguous()
    out = torch.empty_like(x, dtype=weight.dtype)
    block = block_size(width)
    block_rows = max(1, ELEMENTS // block)
    rows = x.numel() // width
    _rms_norm_kernel[(triton.cdiv(rows, block_rows),)](
        x=x,
        weight=weight,
        bias=bias,
        residual=None if residual is None else residual.contiguous(),
        out=out,
        rows=rows,
        width=width,
        eps=eps,
        ACT=act,
        ROWS=block_rows,
        BLOCK=block,
    )
    return out


def rms_norm_by_torch(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    eps: float,
    residual: torch.Tensor | None,
    act: str | None,
) -> torch.Tensor:
    """The op in plain torch, large tensors a few rows after the other; arguments and result as in `rms_norm`."""
    step = max(1, CHUNK // x.shape[-1])
    if x.numel() <= 2 * step * x.shape[-1] or x.requires_grad:
        out = activation_reference(rms_norm_reference(x, weight, bias, eps), act)
        return out if residual is None else out + residual
    rows, added = x.flatten(0, -2), None if residual is None else residual.flatten(0, -2)
    out = torch.empty(rows.shape, dtype=weight.dtype, device=x.device)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        out[part] = rms_norm_by_torch(rows[part], weight, bias, eps, None if added is None else added[part], act)
    return out.view(x.shape)


def rms_norm_reference(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, eps: float = 1e-5
) -> torch.Tensor:
    """The norm alone of x [..., C], in its shape and the dtype of weight; weight, bias: [C]."""
    normed = (x * inverse_rms_reference(x, eps)[..., None]).to(weight.dtype)
    return normed * weight if bias is None else torch.addcmul(bias, normed, weight)


def inverse_rms(x: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    """1 / sqrt(mean(x^2) + eps) of each row, fp32 [T], for an op that applies the norm itself.

    x: [T, C], any stride over T.
    """
    if not uses_kernels(x):
        return inverse_rms_reference(x, eps)
    rows, width = x.shape
    out = x.new_empty(rows, dtype=torch.float32)
    block = block_size(width)
    block_rows = max(1, ELEMENTS // block)
    _inverse_rms_kernel[(triton.cdiv(rows, block_rows),)](
        x=x,
        out=out,
        rows=rows,
        width=width,
        row_stride=x.stride(0),
        eps=eps,
        ROWS=block_rows,
        BLOCK=block,
    )
    return out


def inverse_rms_reference(x: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    """1 / sqrt(mean(x^2) + eps) of each row of x [..., C], fp32 [...]."""
    norm = torch.linalg.vector_norm(x, dim=-1, dtype=torch.float32)  # no fp32 copy of x
    return torch.rsqrt(norm.square() / x.shape[-1] + eps)


@triton.jit(do_not_specialize=["rows"])
def _inverse_rms_kernel(
    x: tl.tensor,  # [rows, width], row_stride apart: q or k in the output of one packed projection
    out: tl.tensor,  # [rows]
    rows: int,
    width: int,
    row_stride: int,
    eps: float,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    # A block holds whole rows, so a sum needs no second pass. Columns past the width load as 0 and add nothing.
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = tl.arange(0, BLOCK)[None, :]
    source, mask = x + row[:, None] * row_stride + column, (row < rows)[:, None] & (column < width)
    value = tl.load(source, mask, 0.0).to(tl.float32)
    tl.store(out + row, tl.rsqrt(tl.sum(value * value, 1) / width + eps), row < rows)


@triton.jit(do_not_specialize=["rows"])
def _rms_norm_kernel(
    x: tl.tensor,  # [rows, width], as residual and out
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
    # int64: an image of 4096 x 4096 px with 128 channels has 2^31 elements.
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    mask = (row < rows) & (column < width)
    # fp32: the squares of values from 256 overflow fp16. It stays until the store, so the result rounds once.
    value = tl.load(x + row * width + column, mask, 0.0).to(tl.float32)
    value = value * tl.rsqrt(tl.sum(value * value, 1) / width + eps)[:, None]
    value *= tl.load(weight + column, column < width, 0.0).to(tl.float32)
    if bias is not None:
        value += tl.load(bias + column, column < width, 0.0).to(tl.float32)
    value = activate(value, ACT)
    if residual is not None:
        value += tl.load(residual + row * width + column, mask, 0.0).to(tl.float32)
    tl.store(out + row * width + column, value.to(out.dtype.element_ty), mask)
