"""AdaLN modulation and gating with one vector per image (DiT, section 3.2): layer_norm(x) * (1 + scale) + shift.

A residual before the norm, gated or not, is added in the same pass; with `fp8` the result comes quantized by rows.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from .dispatch import block_of, runs_kernels
from .fp8_linear import FP8, TINY, QuantizedRows, quantize, quantize_rows_reference
from .layout import TokenLayout

ELEMENTS = 4096
"""Of one program: 32 for each thread of its 4 warps."""


def modulate(
    x: torch.Tensor,
    shift: torch.Tensor,
    scale: torch.Tensor,
    layout: TokenLayout,
    eps: float = 1e-6,
    fp8: bool = False,
) -> torch.Tensor | QuantizedRows:
    """x: [T, C]; shift, scale: [N, C], any stride over N. Returns [T, C]."""
    if not runs_kernels(x):
        return modulate_reference(x, shift, scale, layout, eps, fp8)
    return launch_modulate(x, None, None, None, None, shift, scale, layout, eps, fp8)


def add_modulate(
    x: torch.Tensor,
    y: torch.Tensor,
    constants: torch.Tensor | None,
    shift: torch.Tensor,
    scale: torch.Tensor,
    layout: TokenLayout,
    eps: float = 1e-6,
    fp8: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | QuantizedRows]:
    """x + the output of cross-attention, and that modulated. Shapes as in `modulate`, but for

    y: [layout.attended, C]; constants: what the rows behind them add, one vector per image, [N, C] or None.
    """
    if not runs_kernels(x):
        added = x + (y if constants is None else torch.cat([y, constants[layout.image_index[layout.attended :]]]))
        return added, modulate_reference(added, shift, scale, layout, eps, fp8)
    added = torch.empty_like(x)
    return added, launch_modulate(x, None, y, constants, added, shift, scale, layout, eps, fp8)


def gated_add_modulate(
    x: torch.Tensor,
    gate: torch.Tensor,
    y: torch.Tensor,
    shift: torch.Tensor,
    scale: torch.Tensor,
    layout: TokenLayout,
    eps: float = 1e-6,
    fp8: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | QuantizedRows]:
    """x + gate * y, and that modulated: the end of one block and the beginning of the next one."""
    if not runs_kernels(x):
        added = gated_add_reference(x, gate, y, layout)
        return added, modulate_reference(added, shift, scale, layout, eps, fp8)
    added = torch.empty_like(x)
    return added, launch_modulate(x, gate, y, None, added, shift, scale, layout, eps, fp8)


def gated_add(
    x: torch.Tensor,
    gate: torch.Tensor,
    y: torch.Tensor,
    layout: TokenLayout,
    limit: float | None = None,
    fp8: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | QuantizedRows]:
    """x + gate * y with x, y: [T, C] and gate: [N, C], any stride over N; y clamped to +-limit where there is one.

    Returns it, and of its rows those that ask queries of a text: the first `layout.attended`, quantized with `fp8`.
    """
    attended = layout.attended
    if not runs_kernels(x):
        added = gated_add_reference(x, gate, y, layout, limit)
        return added, quantize_rows_reference(added[:attended]) if fp8 else added[:attended]
    rows, width = x.shape
    out = torch.empty_like(x)
    stored = x.new_empty(attended, width, dtype=FP8) if fp8 else None
    stored_scale = x.new_empty(attended, dtype=torch.float32) if fp8 else None
    block = block_of(width) if fp8 else min(1024, block_of(width))
    block_rows = max(1, ELEMENTS // 2 // block)  # a limit would spill registers with all of them
    _gated_add_kernel[(triton.cdiv(rows, block_rows), triton.cdiv(width, block))](
        *(x, gate, y, out, stored, stored_scale, layout.tables.image_index, attended, rows, width),
        *(gate.stride(0), limit, TINY),
        ROWS=block_rows,
        BLOCK=block,
    )
    if stored is None or stored_scale is None:
        return out, out[:attended]
    return out, QuantizedRows(stored, stored_scale, x.dtype)


def launch_modulate(
    x: torch.Tensor,
    gate: torch.Tensor | None,
    y: torch.Tensor | None,
    constants: torch.Tensor | None,
    added: torch.Tensor | None,
    shift: torch.Tensor,
    scale: torch.Tensor,
    layout: TokenLayout,
    eps: float,
    fp8: bool,
) -> torch.Tensor | QuantizedRows:
    rows, width = x.shape
    out = torch.empty_like(x, dtype=FP8 if fp8 else x.dtype)
    out_scale = x.new_empty(rows, dtype=torch.float32) if fp8 else None
    block = block_of(width)
    block_rows = max(1, ELEMENTS // block)
    _modulate_kernel[(triton.cdiv(rows, block_rows),)](
        *(x, gate, y, constants, added, shift, scale, out, out_scale, layout.tables.image_index),
        *(layout.attended, rows, width),
        *(0 if gate is None else gate.stride(0), shift.stride(0), scale.stride(0), eps, TINY),
        ROWS=block_rows,
        BLOCK=block,
    )
    return out if out_scale is None else QuantizedRows(out, out_scale, x.dtype)


def modulate_reference(
    x: torch.Tensor,
    shift: torch.Tensor,
    scale: torch.Tensor,
    layout: TokenLayout,
    eps: float = 1e-6,
    fp8: bool = False,
) -> torch.Tensor | QuantizedRows:
    """x: [T, C]; shift, scale: [N, C]. Returns [T, C]."""
    normed = F.layer_norm(x, x.shape[-1:], eps=eps)
    out = torch.addcmul(layout.spread(shift), normed, layout.spread(1 + scale))
    return quantize_rows_reference(out) if fp8 else out


def gated_add_reference(
    x: torch.Tensor, gate: torch.Tensor, y: torch.Tensor, layout: TokenLayout, limit: float | None = None
) -> torch.Tensor:
    """The sum alone; arguments as of `gated_add`."""
    return torch.addcmul(x, layout.spread(gate), y if limit is None else y.clamp(-limit, limit))


@triton.jit(do_not_specialize=["attended", "rows"])
def _modulate_kernel(
    x: tl.tensor,
    gate: tl.tensor,  # None where there is none
    y: tl.tensor,  # None, as `added`, where nothing is added before the norm
    constants: tl.tensor,  # None where y has a row for every row of x
    added: tl.tensor,
    shift: tl.tensor,
    scale: tl.tensor,
    out: tl.tensor,
    out_scale: tl.tensor,  # None where out is not quantized
    image_index: tl.tensor,
    attended: int,
    rows: int,
    width: int,
    gate_image: int,
    shift_image: int,
    scale_image: int,
    eps: float,
    tiny: float,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = tl.arange(0, BLOCK)[None, :]
    mask = (row < rows)[:, None] & (column < width)
    place = row[:, None] * width + column
    image = tl.load(image_index + row, row < rows, 0)[:, None]
    value = tl.load(x + place, mask, 0.0).to(tl.float32)
    if y is not None:
        if constants is None:
            branch = tl.load(y + place, mask, 0.0).to(tl.float32)
        else:
            asked = (row < attended)[:, None]
            branch = tl.load(y + place, mask & asked, 0.0).to(tl.float32)
            branch += tl.load(constants + image * width + column, mask & (asked == 0), 0.0).to(tl.float32)
        if gate is not None:
            branch *= tl.load(gate + image * gate_image + column, mask, 0.0).to(tl.float32)
        value += branch
        tl.store(added + place, value.to(added.dtype.element_ty), mask)
    centred = tl.where(mask, value - (tl.sum(value, 1) / width)[:, None], 0.0)
    normed = centred * tl.rsqrt(tl.sum(centred * centred, 1) / width + eps)[:, None]
    factor = 1 + tl.load(scale + image * scale_image + column, mask, 0.0).to(tl.float32)
    result = normed * factor + tl.load(shift + image * shift_image + column, mask, 0.0).to(tl.float32)
    if out_scale is not None:
        result, own = quantize(result, tiny)
        tl.store(out_scale + row, own, row < rows)
    tl.store(out + place, result.to(out.dtype.element_ty), mask)


@triton.jit(do_not_specialize=["attended", "rows"])
def _gated_add_kernel(
    x: tl.tensor,
    gate: tl.tensor,
    y: tl.tensor,
    out: tl.tensor,
    stored: tl.tensor,  # None, as its scale, where no rows are quantized
    stored_scale: tl.tensor,
    image_index: tl.tensor,
    attended: int,
    rows: int,
    width: int,
    gate_image: int,
    limit: float | None,
    tiny: float,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None, :]
    mask = (row < rows)[:, None] & (column < width)
    place = row[:, None] * width + column
    image = tl.load(image_index + row, row < rows, 0)[:, None]
    factor = tl.load(gate + image * gate_image + column, mask, 0.0).to(tl.float32)
    branch = tl.load(y + place, mask, 0.0).to(tl.float32)
    if limit is not None:
        branch = tl.clamp(branch, -limit, limit, propagate_nan=tl.PropagateNan.ALL)
    value = tl.load(x + place, mask, 0.0).to(tl.float32) + factor * branch
    tl.store(out + place, value.to(out.dtype.element_ty), mask)
    if stored is not None:
        rounded, own = quantize(value, tiny)
        tl.store(stored + place, rounded.to(stored.dtype.element_ty), mask & (row < attended)[:, None])
        tl.store(stored_scale + row, own, row < attended)
