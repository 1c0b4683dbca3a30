"""AdaLN modulation and gating with one vector per image (DiT, section 3.2): layer_norm(x) * (1 + scale) + shift.

A residual before the norm, gated or not, is added in the same pass; with `fp8` the result is quantized by rows, in that
pass too.
"""

import torch
import torch.nn.functional as F

from ._triton import tl, triton
from .dispatch import block_size, uses_kernels
from .fp8_linear import FP8, MIN_SCALE, QuantizedRows, quantize, quantize_rows_reference
from .layout import TokenLayout

ELEMENTS = 4096
"""Elements per program: 32 for each thread of its 4 warps."""


def modulate(
    x: torch.Tensor,
    shift: torch.Tensor,
    scale: torch.Tensor,
    layout: TokenLayout,
    eps: float = 1e-6,
    fp8: bool = False,
) -> torch.Tensor | QuantizedRows:
    """The modulated norm of x [T, C], in its shape; shift, scale: [N, C], any stride over N."""
    if not uses_kernels(x):
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
    """x + the output of cross-attention, and the modulated norm of the sum; other arguments as in `modulate`.

    Args:
        y: [layout.attended, C], the output for the tokens that need cross-attention.
        constants: [N, C], the output for all other tokens, the same for each token of an image; None if there are none.
    """
    if not uses_kernels(x):
        if constants is not None:
            y = torch.cat([y, constants.index_select(0, layout.image_index[layout.attended :])])
        added = x + y
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
    """x + gate * y, and the modulated norm of the sum: the end of one block and the start of the next one.

    x, y: [T, C]; gate, shift, scale: [N, C], any stride over N.
    """
    if not uses_kernels(x):
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
    """x + gate * y, and the part of the sum that cross-attention reads.

    Args:
        x, y: [T, C].
        gate: [N, C], any stride over N.
        limit: y is clamped to +-limit; None for no clamp.

    Returns:
        The sum [T, C], and its first `layout.attended` tokens, quantized with `fp8`.
    """
    attended = layout.attended
    if not uses_kernels(x):
        added = gated_add_reference(x, gate, y, layout, limit)
        return added, quantize_rows_reference(added[:attended]) if fp8 else added[:attended]
    tokens, width = x.shape
    out = torch.empty_like(x)
    stored = x.new_empty(attended, width, dtype=FP8) if fp8 else None
    stored_scale = x.new_empty(attended, dtype=torch.float32) if fp8 else None
    # Only the quantization needs a whole row in one program. Else blocks of 1024 columns leave fewer lanes masked: 3072
    # for a width of 2240, not 4096.
    block = block_size(width) if fp8 else min(1024, block_size(width))
    block_tokens = max(1, ELEMENTS // 2 // block)  # with all ELEMENTS a limit would spill registers
    _gated_add_kernel[(triton.cdiv(tokens, block_tokens), triton.cdiv(width, block))](
        x=x,
        gate=gate,
        y=y,
        out=out,
        stored=stored,
        stored_scale=stored_scale,
        image_index=layout.tables.image_index,
        attended=attended,
        tokens=tokens,
        width=width,
        gate_stride=gate.stride(0),
        limit=limit,
        min_scale=MIN_SCALE,
        TOKENS=block_tokens,
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
    """Launches the kernel that the three modulations share, and returns the modulated norm; the sum goes to `added`."""
    tokens, width = x.shape
    out = torch.empty_like(x, dtype=FP8 if fp8 else x.dtype)
    out_scale = x.new_empty(tokens, dtype=torch.float32) if fp8 else None
    block = block_size(width)
    block_tokens = max(1, ELEMENTS // block)
    _modulate_kernel[(triton.cdiv(tokens, block_tokens),)](
        x=x,
        gate=gate,
        y=y,
        constants=constants,
        added=added,
        shift=shift,
        scale=scale,
        out=out,
        out_scale=out_scale,
        image_index=layout.tables.image_index,
        attended=layout.attended,
        tokens=tokens,
        width=width,
        gate_stride=0 if gate is None else gate.stride(0),
        shift_stride=shift.stride(0),
        scale_stride=scale.stride(0),
        eps=eps,
        min_scale=MIN_SCALE,
        TOKENS=block_tokens,
        BLOCK=block,
    )
    return out if out_scale is None else QuantizedRows(out, out_scale, x.dtype)


def modulate_reference(
    x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor, layout: TokenLayout, eps: float = 1e-6, fp8: bool = False
) -> torch.Tensor | QuantizedRows:
    """The op in plain torch; arguments and result as in `modulate`."""
    normed, shift, factor = layout.align(F.layer_norm(x, x.shape[-1:], eps=eps), shift, 1 + scale)
    out = torch.addcmul(shift, normed, factor).view_as(x)
    return quantize_rows_reference(out) if fp8 else out


def gated_add_reference(
    x: torch.Tensor, gate: torch.Tensor, y: torch.Tensor, layout: TokenLayout, limit: float | None = None
) -> torch.Tensor:
    """The sum alone in plain torch; arguments as in `gated_add`."""
    branch, gate = layout.align(y if limit is None else y.clamp(-limit, limit), gate)
    return torch.addcmul(x.view_as(branch), gate, branch).view_as(x)


@triton.jit(do_not_specialize=["attended", "tokens"])
def _modulate_kernel(
    x: tl.tensor,  # [tokens, width], as y, added and out
    gate: tl.tensor,  # [images, width], as constants, shift and scale; None for no gate
    y: tl.tensor,  # None, like `added`, if nothing is added before the norm
    constants: tl.tensor,  # None if y has a row for each token
    added: tl.tensor,
    shift: tl.tensor,
    scale: tl.tensor,
    out: tl.tensor,
    out_scale: tl.tensor,  # [tokens]; None if out is not quantized
    image_index: tl.tensor,
    attended: int,
    tokens: int,
    width: int,
    gate_stride: int,
    shift_stride: int,
    scale_stride: int,
    eps: float,
    min_scale: float,
    TOKENS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    # A block holds whole tokens, BLOCK >= width, so that the statistics of the norm need no second pass over memory.
    token = (tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)).to(tl.int64)
    column = tl.arange(0, BLOCK)[None, :]
    mask = (token < tokens)[:, None] & (column < width)
    offsets = token[:, None] * width + column
    # The only use of the layout: tokens of one block may belong to several images, each with its own vectors.
    image = tl.load(image_index + token, token < tokens, 0)[:, None]
    # fp32 from load to store: the residual is rounded once, and the norm reads it before the rounding.
    value = tl.load(x + offsets, mask, 0.0).to(tl.float32)
    if y is not None:
        if constants is None:
            branch = tl.load(y + offsets, mask, 0.0).to(tl.float32)
        else:
            # y ends after `attended` tokens. One of the two loads is masked to 0, so their sum selects.
            has_query = (token < attended)[:, None]
            branch = tl.load(y + offsets, mask & has_query, 0.0).to(tl.float32)
            branch += tl.load(constants + image * width + column, mask & (has_query == 0), 0.0).to(tl.float32)
        if gate is not None:
            branch *= tl.load(gate + image * gate_stride + column, mask, 0.0).to(tl.float32)
        value += branch
        tl.store(added + offsets, value.to(added.dtype.element_ty), mask)
    # Two passes over registers: mean, then squares of the centred values, which E[x^2] - E[x]^2 would cancel. Columns
    # past the width are reset to 0, as they are not after the mean is subtracted.
    centred = tl.where(mask, value - (tl.sum(value, 1) / width)[:, None], 0.0)
    normed = centred * tl.rsqrt(tl.sum(centred * centred, 1) / width + eps)[:, None]
    factor = 1 + tl.load(scale + image * scale_stride + column, mask, 0.0).to(tl.float32)
    result = normed * factor + tl.load(shift + image * shift_stride + column, mask, 0.0).to(tl.float32)
    if out_scale is not None:
        result, row_scale = quantize(result, min_scale)
        tl.store(out_scale + token, row_scale, token < tokens)
    tl.store(out + offsets, result.to(out.dtype.element_ty), mask)


@triton.jit(do_not_specialize=["attended", "tokens"])
def _gated_add_kernel(
    x: tl.tensor,  # [tokens, width], as y and out
    gate: tl.tensor,  # [images, width]
    y: tl.tensor,
    out: tl.tensor,
    stored: tl.tensor,  # [attended, width]; None, like its scale [attended], if nothing is quantized
    stored_scale: tl.tensor,
    image_index: tl.tensor,
    attended: int,
    tokens: int,
    width: int,
    gate_stride: int,
    limit: float | None,
    min_scale: float,
    TOKENS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    token = (tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)).to(tl.int64)
    column = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None, :]
    mask = (token < tokens)[:, None] & (column < width)
    offsets = token[:, None] * width + column
    image = tl.load(image_index + token, token < tokens, 0)[:, None]
    factor = tl.load(gate + image * gate_stride + column, mask, 0.0).to(tl.float32)
    branch = tl.load(y + offsets, mask, 0.0).to(tl.float32)
    if limit is not None:
        # Keeps NaN: an overflow in the model must reach the output and fail the image, not turn into the limit.
        branch = tl.clamp(branch, -limit, limit, propagate_nan=tl.PropagateNan.ALL)
    value = tl.load(x + offsets, mask, 0.0).to(tl.float32) + factor * branch
    tl.store(out + offsets, value.to(out.dtype.element_ty), mask)
    if stored is not None:
        # Only tokens with queries are multiplied by the query weights next. Columns past the width are 0, as
        # `quantize` requires: x, factor and branch all load as 0 there.
        rounded, row_scale = quantize(value, min_scale)
        tl.store(stored + offsets, rounded.to(stored.dtype.element_ty), mask & (token < attended)[:, None])
        tl.store(stored_scale + token, row_scale, token < attended)
