"""A linear layer in FP8 (e4m3): x W^T with one scale per row of x and one per output channel of W.

scale = max |row| / 448, stored = round_to_e4m3(row / scale), out = (stored_x stored_w^T) * scale_x * scale_w + bias.
Twice the matrix rate of bf16 on compute capability 8.9 and above, half the bytes of the weights.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from .dispatch import block_of, runs_kernels

FP8_MAX = 448.0
FP8 = torch.float8_e4m3fn
TINY = 1e-12
"""Least scale: a row of zeros stays one."""


class QuantizedRows(NamedTuple):
    """What a matrix [M, K] became, where its producer quantizes it."""

    stored: torch.Tensor  # e4m3 [M, K]
    scale: torch.Tensor  # fp32 [M]
    dtype: torch.dtype  # that it had


def fp8_linear(
    x: torch.Tensor | QuantizedRows, weight: torch.Tensor, weight_scale: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """x: [M, K]; weight: e4m3 [N, K]; weight_scale: fp32 [N]; bias: [N]. Returns [M, N] in the dtype of x.

    K must be a multiple of 16 on a GPU.
    """
    if not runs_kernels(x.stored if isinstance(x, QuantizedRows) else x):
        return fp8_linear_reference(x, weight, weight_scale, bias)
    stored, scale, dtype = x if isinstance(x, QuantizedRows) else quantize_rows(x)
    (m, k), n = stored.shape, weight.shape[0]
    out = stored.new_empty(m, n, dtype=dtype)
    if m:
        _fp8_linear_kernel[(triton.cdiv(m, 128) * triton.cdiv(n, 128),)](
            *(stored, weight, scale, weight_scale, bias, out, m, n, k),
            **{"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64, "GROUP": 8, "num_warps": 8, "num_stages": 4},
        )
    return out


def quantize_rows(x: torch.Tensor) -> QuantizedRows:
    """x: [M, K]."""
    if not runs_kernels(x):
        return quantize_rows_reference(x)
    rows, width = x.shape
    stored, scale = torch.empty_like(x, dtype=FP8), x.new_empty(rows, dtype=torch.float32)
    if rows:
        _quantize_rows_kernel[(rows,)](x.contiguous(), stored, scale, width, TINY, BLOCK=block_of(width), num_warps=8)
    return QuantizedRows(stored, scale, x.dtype)


def quantize_rows_reference(x: torch.Tensor) -> QuantizedRows:
    """x: [M, K]."""
    wide = x.float()
    scale = (wide.abs().amax(-1) / FP8_MAX).clamp(min=TINY)
    return QuantizedRows((wide / scale[:, None]).clamp(-FP8_MAX, FP8_MAX).to(FP8), scale, x.dtype)


def fp8_linear_reference(
    x: torch.Tensor | QuantizedRows, weight: torch.Tensor, weight_scale: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Arguments and result as of `fp8_linear`; products of the stored values are exact in fp32."""
    stored, scale, dtype = x if isinstance(x, QuantizedRows) else quantize_rows_reference(x)
    out = (stored.float() @ weight.float().T) * scale[:, None] * weight_scale
    return (out if bias is None else out + bias.float()).to(dtype)


@triton.jit
def quantize(value: tl.tensor, tiny: float) -> tl.tuple:
    """fp32 [ROWS, BLOCK] to values that e4m3 holds, and the scale of each row; columns past the end are 0."""
    scale = tl.maximum(tl.max(tl.abs(value), 1) / 448.0, tiny)
    scale += tl.sum(value * 0.0, 1)  # NaN if a value is not finite: the maximum would pass over it
    # The largest value may come out one rounding above the range.
    quotient = tl.clamp(value / scale[:, None], -448.0, 448.0, propagate_nan=tl.PropagateNan.ALL)
    # To nearest even before the cast, which truncates in the interpreter: fp32 has no bits left below the anchor's.
    power = (quotient.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
    anchor = tl.maximum(power, 0.015625) * 1572864.0  # below 2^-6 the quantum stays 2^-9
    return (quotient + anchor) - anchor, scale


@triton.jit
def _quantize_rows_kernel(
    x: tl.tensor, stored: tl.tensor, scale: tl.tensor, width: int, tiny: float, BLOCK: tl.constexpr
) -> None:
    row, column = tl.program_id(0).to(tl.int64) + tl.arange(0, 1), tl.arange(0, BLOCK)[None, :]
    place = row[:, None] * width + column
    rounded, own = quantize(tl.load(x + place, column < width, 0.0).to(tl.float32), tiny)
    tl.store(stored + place, rounded.to(stored.dtype.element_ty), column < width)
    tl.store(scale + row, own)


@triton.jit(do_not_specialize=["m"])
def _fp8_linear_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    x_scale: tl.tensor,
    weight_scale: tl.tensor,
    bias: tl.tensor | None,
    out: tl.tensor,
    m: int,
    n: int,
    k: int,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
) -> None:
    # GROUP rows of blocks at a time share their columns of weights in L2.
    program, across = tl.program_id(0), tl.cdiv(n, BLOCK_N)
    first = program // (GROUP * across) * GROUP
    high = tl.minimum(tl.cdiv(m, BLOCK_M) - first, GROUP)
    row = (first + program % (GROUP * across) % high) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = program % (GROUP * across) // high * BLOCK_N + tl.arange(0, BLOCK_N)
    inner = tl.arange(0, BLOCK_K)
    # Rows past the end repeat the first ones: no mask in the loop for what is not stored.
    x_rows = x + (row % m).to(tl.int64)[:, None] * k + inner[None, :]
    weight_rows = weight + (column % n).to(tl.int64)[None, :] * k + inner[:, None]
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, k, BLOCK_K):
        left = tl.load(x_rows + start, (inner < k - start)[None, :], 0.0)
        right = tl.load(weight_rows + start, (inner < k - start)[:, None], 0.0)
        total = tl.dot(left, right, total)
    there, wanted = row < m, column < n
    total *= tl.load(x_scale + row, there, 0.0)[:, None] * tl.load(weight_scale + column, wanted, 0.0)[None, :]
    if bias is not None:
        total += tl.load(bias + column, wanted, 0.0).to(tl.float32)[None, :]
    target = out + row.to(tl.int64)[:, None] * n + column[None, :]
    tl.store(target, total.to(out.dtype.element_ty), there[:, None] & wanted[None, :])
