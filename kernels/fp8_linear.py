"""A linear layer in FP8 (e4m3): x W^T with one scale per row of x and one per output channel of W.

scale = max |row| / 448, stored = round_to_e4m3(row / scale), out = (stored_x stored_w^T) * scale_x * scale_w + bias.
Twice the matrix rate of bf16 on compute capability 8.9 and above, half the bytes of the weights.
"""

from typing import NamedTuple

import torch

from ._triton import tl, triton
from .dispatch import block_size, uses_kernels

FP8_MAX = 448.0
FP8 = torch.float8_e4m3fn
MIN_SCALE = 1e-12
"""Minimum scale: a row of zeros has no maximum to divide by, and stays a row of zeros."""


class QuantizedRows(NamedTuple):
    """A matrix [M, K] in FP8 with one scale per row."""

    stored: torch.Tensor  # e4m3 [M, K]
    scale: torch.Tensor  # fp32 [M]
    dtype: torch.dtype  # before the quantization, and of the products


def fp8_linear(
    x: torch.Tensor | QuantizedRows, weight: torch.Tensor, weight_scale: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """The linear layer on x [M, K], quantized here or by the op before it.

    Args:
        weight: e4m3 [N, K]; on a GPU K must be a multiple of 16.
        weight_scale: fp32 [N].
        bias: [N].

    Returns:
        [M, N] in the dtype that x has or had before its quantization.
    """
    if not uses_kernels(x.stored if isinstance(x, QuantizedRows) else x):
        return fp8_linear_reference(x, weight, weight_scale, bias)
    stored, scale, dtype = x if isinstance(x, QuantizedRows) else quantize_rows(x)
    (m, k), n = stored.shape, weight.shape[0]
    out = stored.new_empty(m, n, dtype=dtype)
    if m:
        # A 128 x 128 tile of fp32 sums is 64 registers for each thread of 8 warps; four stages of its two 128 x 64
        # operands are 64 KiB of shared memory, within the 99 KiB of compute capability 8.9.
        _fp8_linear_kernel[(triton.cdiv(m, 128) * triton.cdiv(n, 128),)](
            x=stored,
            weight=weight,
            x_scale=scale,
            weight_scale=weight_scale,
            bias=bias,
            out=out,
            m=m,
            n=n,
            k=k,
            BLOCK_M=128,
            BLOCK_N=128,
            BLOCK_K=64,
            GROUP=8,
            num_warps=8,
            num_stages=4,
        )
    return out


def quantize_rows(x: torch.Tensor) -> QuantizedRows:
    """The matrix x [M, K] in FP8."""
    if not uses_kernels(x):
        return quantize_rows_reference(x)
    rows, width = x.shape
    stored, scale = torch.empty_like(x, dtype=FP8), x.new_empty(rows, dtype=torch.float32)
    if rows:
        _quantize_rows_kernel[(rows,)](
            x=x.contiguous(),
            stored=stored,
            scale=scale,
            width=width,
            min_scale=MIN_SCALE,
            BLOCK=block_size(width),
            num_warps=8,
        )
    return QuantizedRows(stored, scale, x.dtype)


def quantize_rows_reference(x: torch.Tensor) -> QuantizedRows:
    """The op in plain torch; argument and result as in `quantize_rows`."""
    wide = x.float()
    scale = (wide.abs().amax(-1) / FP8_MAX).clamp(min=MIN_SCALE)
    return QuantizedRows((wide / scale[:, None]).clamp(-FP8_MAX, FP8_MAX).to(FP8), scale, x.dtype)


def fp8_linear_reference(
    x: torch.Tensor | QuantizedRows, weight: torch.Tensor, weight_scale: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """The op in plain torch; arguments and result as in `fp8_linear`. fp32 holds a product of stored values exactly."""
    stored, scale, dtype = x if isinstance(x, QuantizedRows) else quantize_rows_reference(x)
    out = (stored.float() @ weight.float().T) * scale[:, None] * weight_scale
    return (out if bias is None else out + bias.float()).to(dtype)


@triton.jit
def quantize(value: tl.tensor, min_scale: float) -> tl.tuple:
    """Values that e4m3 holds for an fp32 tile [ROWS, BLOCK] of whole rows, and the scale of each row.

    Columns past the end of a row must be 0.
    """
    scale = tl.maximum(tl.max(tl.abs(value), 1) / 448.0, min_scale)
    scale += tl.sum(value * 0.0, 1)  # NaN if a value is not finite: the maximum ignores NaN
    # The clamp is for the largest value of a row: the division may round it above the range.
    quotient = tl.clamp(value / scale[:, None], -448.0, 448.0, propagate_nan=tl.PropagateNan.ALL)
    # Round to nearest even before the cast, which truncates in the interpreter. Adding 1.5 * 2^20 times the power of
    # two of a value leaves fp32 only the 3 bits of mantissa that e4m3 has, and subtracting it restores the value.
    power = (quotient.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
    anchor = tl.maximum(power, 0.015625) * 1572864.0  # below 2^-6 e4m3 is denormal, with steps of 2^-9
    return (quotient + anchor) - anchor, scale


@triton.jit
def _quantize_rows_kernel(
    x: tl.tensor,  # [rows, width], as stored
    stored: tl.tensor,
    scale: tl.tensor,  # [rows]
    width: int,
    min_scale: float,
    BLOCK: tl.constexpr,
) -> None:
    # One row per program: its maximum must be known before its first value is stored, and a row fits in registers.
    row, column = tl.program_id(0).to(tl.int64) + tl.arange(0, 1), tl.arange(0, BLOCK)[None, :]
    offsets = row[:, None] * width + column
    rounded, row_scale = quantize(tl.load(x + offsets, column < width, 0.0).to(tl.float32), min_scale)
    tl.store(stored + offsets, rounded.to(stored.dtype.element_ty), column < width)
    tl.store(scale + row, row_scale)


@triton.jit(do_not_specialize=["m"])
def _fp8_linear_kernel(
    x: tl.tensor,  # e4m3 [m, k]
    weight: tl.tensor,  # e4m3 [n, k]
    x_scale: tl.tensor,
    weight_scale: tl.tensor,
    bias: tl.tensor | None,
    out: tl.tensor,  # [m, n]
    m: int,
    n: int,
    k: int,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
) -> None:
    # Programs walk down GROUP tiles before the next column of tiles, so that those running at the same time read the
    # same rows of x and of the weight from L2. The last group may have fewer tiles.
    program, column_tiles = tl.program_id(0), tl.cdiv(n, BLOCK_N)
    first = program // (GROUP * column_tiles) * GROUP
    group_size = tl.minimum(tl.cdiv(m, BLOCK_M) - first, GROUP)
    row = (first + program % (GROUP * column_tiles) % group_size) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = program % (GROUP * column_tiles) // group_size * BLOCK_N + tl.arange(0, BLOCK_N)
    inner = tl.arange(0, BLOCK_K)
    # Rows and columns past the end wrap to the first ones, which may be read: no mask in the loop, for sums that are
    # not stored. Only k, which the sum runs over, needs zeros past its end.
    x_tile = x + (row % m).to(tl.int64)[:, None] * k + inner[None, :]
    weight_tile = weight + (column % n).to(tl.int64)[None, :] * k + inner[:, None]
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, k, BLOCK_K):
        left = tl.load(x_tile + start, (inner < k - start)[None, :], 0.0)
        right = tl.load(weight_tile + start, (inner < k - start)[:, None], 0.0)
        total = tl.dot(left, right, total)
    # Both scales are constant along k, so they multiply the finished sum, not its terms.
    row_mask, column_mask = row < m, column < n
    total *= tl.load(x_scale + row, row_mask, 0.0)[:, None] * tl.load(weight_scale + column, column_mask, 0.0)[None, :]
    if bias is not None:
        total += tl.load(bias + column, column_mask, 0.0).to(tl.float32)[None, :]
    target = out + row.to(tl.int64)[:, None] * n + column[None, :]
    tl.store(target, total.to(out.dtype.element_ty), row_mask[:, None] & column_mask[None, :])
