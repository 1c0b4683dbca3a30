"""ReLU linear attention: one [D, D] state per image and head instead of a T x T matrix (SANA, section 2.2).

out_t = (sum_s v_s relu(k_s)^T) relu(q_t) / (sum_s relu(k_s) . relu(q_t) + 1e-15), state in fp32. With weights for q
and k these are rms_norm over all heads first (SANA-1.5, section 2.3); the kernels apply it where they read.
"""

import torch
import triton
import triton.language as tl

from .dispatch import block_of, precision, runs_kernels
from .layout import TokenLayout
from .rms_norm import inverse_rms, rms_norm_reference

EPS = 1e-15
CHUNK = 256
"""Rows of one program. Its partial state is 4 KiB beside the 32 KiB of keys and values it reads (bf16, D = 32)."""
STATE_BLOCK_T, BLOCK_T = 32, 64
"""With 64 rows at once the state's kernel spills a register on 8.0 or 8.9 as Triton 3.6 compiles it."""


def linear_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    layout: TokenLayout,
    q_weight: torch.Tensor | None = None,
    k_weight: torch.Tensor | None = None,
    norm_eps: float = 1e-5,
) -> torch.Tensor:
    """Attention of every image to itself.

    Args:
        q, k, v: [T, heads, D] before norm and ReLU, any strides over T and heads; without a gap between heads where
            there is a norm.
        q_weight, k_weight: [heads * D], both or neither.

    Returns:
        [T, heads, D] in the dtype of v.
    """
    if not runs_kernels(v):
        return linear_attention_reference(q, k, v, layout, q_weight, k_weight, norm_eps)
    rows, heads, width = v.shape
    tables = layout.tables
    chunks, images = triton.cdiv(rows, CHUNK), tables.images
    # A chunk meets one image more than its predecessor at most: chunk + image numbers the partial states without gaps.
    partial = v.new_empty(chunks + images, heads, width + 1, width, dtype=torch.float32)
    state = v.new_empty(images, heads, width + 1, width, dtype=torch.float32)
    out = v.new_empty(rows, heads, width)
    # A query's norm is a factor of numerator and denominator both: only its weight is left of it.
    k_scale = None if k_weight is None else inverse_rms(k.flatten(1), norm_eps)
    blocks = {"CHUNK": CHUNK, "BLOCK_D": block_of(width)}
    _linear_attention_state_kernel[(chunks, heads)](
        *(k, k_scale, k_weight, v, partial, tables.image_index, tables.starts, rows, width),
        *(k.stride(0), k.stride(1), v.stride(0), v.stride(1)),
        **(blocks | {"BLOCK_T": STATE_BLOCK_T, "PRECISION": precision(v)}),
    )
    _linear_attention_reduce_kernel[(images, heads)](partial, state, tables.starts, width, **blocks)
    _linear_attention_kernel[(chunks, heads)](
        *(q, q_weight, state, out, tables.image_index, tables.starts, rows, width, q.stride(0), q.stride(1), EPS),
        **(blocks | {"BLOCK_T": BLOCK_T, "PRECISION": precision(v)}),
    )
    return out


def linear_attention_reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    layout: TokenLayout,
    q_weight: torch.Tensor | None = None,
    k_weight: torch.Tensor | None = None,
    norm_eps: float = 1e-5,
) -> torch.Tensor:
    """Arguments and result as of `linear_attention`."""
    if q_weight is not None and k_weight is not None:
        q = rms_norm_reference(q.flatten(1), q_weight, eps=norm_eps).view_as(q)
        k = rms_norm_reference(k.flatten(1), k_weight, eps=norm_eps).view_as(k)
    outputs = [
        relu_attention_state(*(x[run.tokens].unflatten(0, (run.count, -1)).transpose(1, 2) for x in (q, k, v)))
        .transpose(1, 2)
        .flatten(0, 1)
        for run in layout.runs
    ]
    return torch.cat(outputs).to(v.dtype) if len(outputs) > 1 else outputs[0].to(v.dtype)


def relu_attention_state(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The formula on dense batches: q, k, v [..., t, D]. Returns fp32 [..., t, D]."""
    q, k, v = torch.relu(q).float(), torch.relu(k).float(), v.float()
    state = k.transpose(-1, -2) @ v  # [..., D, D]
    normaliser = q @ k.sum(-2).unsqueeze(-1)  # [..., t, 1]
    return (q @ state) / (normaliser + EPS)


@triton.jit
def _relu(x: tl.tensor) -> tl.tensor:
    # Without propagate_nan an overflow would turn into a plausible zero.
    return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit(do_not_specialize=["rows"])
def _linear_attention_state_kernel(
    k: tl.tensor,
    k_scale: tl.tensor | None,  # of rows; None, as the weight of channels, where there is no norm
    k_weight: tl.tensor | None,
    v: tl.tensor,
    partial: tl.tensor,  # [chunks + images, heads, D + 1, D]: K^T V, and below it the sum of K
    image_index: tl.tensor,
    starts: tl.tensor,
    rows: int,
    width: int,
    k_row: int,
    k_head: int,
    v_row: int,
    v_head: int,
    CHUNK: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    chunk, head, heads = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    first, last = chunk * CHUNK, tl.minimum(chunk * CHUNK + CHUNK, rows)
    d = tl.arange(0, BLOCK_D)
    if k_weight is not None:
        weight = tl.load(k_weight + head * width + d, d < width, 0.0).to(tl.float32)[None, :]
    for image in range(tl.load(image_index + first).to(tl.int32), tl.load(image_index + last - 1).to(tl.int32) + 1):
        start, stop = tl.maximum(tl.load(starts + image), first), tl.minimum(tl.load(starts + image + 1), last)
        state, total = tl.zeros((BLOCK_D, BLOCK_D), tl.float32), tl.zeros((BLOCK_D,), tl.float32)
        for t in range(start, stop, BLOCK_T):
            row = (t + tl.arange(0, BLOCK_T)).to(tl.int64)[:, None]
            mask = (row < stop) & (d < width)[None, :]
            keys = tl.load(k + row * k_row + head * k_head + d[None, :], mask, 0.0).to(tl.float32)
            if k_scale is not None:
                keys *= tl.load(k_scale + row, row < stop, 0.0) * weight
            keys = _relu(keys).to(k.dtype.element_ty)
            values = tl.load(v + row * v_row + head * v_head + d[None, :], mask, 0.0)
            state += tl.dot(tl.trans(keys), values, input_precision=PRECISION)
            total += tl.sum(keys.to(tl.float32), 0)
        base = partial + ((chunk + image) * heads + head).to(tl.int64) * (width + 1) * width
        tl.store(base + d[:, None] * width + d[None, :], state, (d < width)[:, None] & (d < width)[None, :])
        tl.store(base + width * width + d, total, d < width)


@triton.jit
def _linear_attention_reduce_kernel(
    partial: tl.tensor, state: tl.tensor, starts: tl.tensor, width: int, CHUNK: tl.constexpr, BLOCK_D: tl.constexpr
) -> None:
    """Adds an image's partial states in their order: no atomics, the same sum on every run."""
    image, head, heads = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    i, d = tl.arange(0, 2 * BLOCK_D)[:, None], tl.arange(0, BLOCK_D)[None, :]
    mask = (i < width + 1) & (d < width)
    total = tl.zeros((2 * BLOCK_D, BLOCK_D), tl.float32)
    start, stop = tl.load(starts + image), tl.load(starts + image + 1)
    if stop > start:  # an image without rows has no partial states, and nobody reads its own
        for chunk in range(start // CHUNK, tl.cdiv(stop, CHUNK)):
            base = partial + ((chunk + image) * heads + head).to(tl.int64) * (width + 1) * width
            total += tl.load(base + i * width + d, mask, 0.0)
        tl.store(state + (image * heads + head).to(tl.int64) * (width + 1) * width + i * width + d, total, mask)


@triton.jit(do_not_specialize=["rows"])
def _linear_attention_kernel(
    q: tl.tensor,
    q_weight: tl.tensor | None,
    state: tl.tensor,
    out: tl.tensor,
    image_index: tl.tensor,
    starts: tl.tensor,
    rows: int,
    width: int,
    q_row: int,
    q_head: int,
    eps: float,
    CHUNK: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    chunk, head, heads = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    first, last = chunk * CHUNK, tl.minimum(chunk * CHUNK + CHUNK, rows)
    d = tl.arange(0, BLOCK_D)
    if q_weight is not None:
        weight = tl.load(q_weight + head * width + d, d < width, 0.0).to(tl.float32)[None, :]
    for image in range(tl.load(image_index + first).to(tl.int32), tl.load(image_index + last - 1).to(tl.int32) + 1):
        start, stop = tl.maximum(tl.load(starts + image), first), tl.minimum(tl.load(starts + image + 1), last)
        base = state + (image * heads + head).to(tl.int64) * (width + 1) * width
        matrix = tl.load(base + d[:, None] * width + d[None, :], (d < width)[:, None] & (d < width)[None, :], 0.0)
        total = tl.load(base + width * width + d, d < width, 0.0)
        for t in range(start, stop, BLOCK_T):
            row = (t + tl.arange(0, BLOCK_T)).to(tl.int64)[:, None]
            mask = (row < stop) & (d < width)[None, :]
            queries = tl.load(q + row * q_row + head * q_head + d[None, :], mask, 0.0).to(tl.float32)
            if q_weight is not None:
                queries *= weight
            queries = _relu(queries)
            normaliser = tl.sum(queries * total[None, :], 1)[:, None] + eps
            attended = tl.dot(queries, matrix, input_precision=PRECISION) / normaliser
            tl.store(out + (row * heads + head) * width + d[None, :], attended.to(out.dtype.element_ty), mask)
