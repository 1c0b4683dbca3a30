"""ReLU linear attention: one [D, D] state per image and head instead of a T x T matrix (SANA, section 2.2).

out_t = (sum_s v_s relu(k_s)^T) relu(q_t) / (sum_s relu(k_s) . relu(q_t) + 1e-15), state in fp32. If q and k have
weights, rms_norm over all heads comes first (SANA-1.5, section 2.3): the kernels apply it as they read.

Three kernels: partial states of chunks of tokens, their sum per image, and the product of every query with the state of
its image. Chunks make enough programs for a GPU even if the batch is a single image.
"""

import torch

from ._triton import tl, triton
from .dispatch import block_size, dot_precision, uses_kernels
from .layout import TokenLayout
from .rms_norm import inverse_rms, rms_norm_reference

EPS = 1e-15
CHUNK = 256
"""Tokens per program. Its partial state is 4 KiB beside the 32 KiB of keys and values it reads (bf16, D = 32)."""
STATE_BLOCK_T, BLOCK_T = 32, 64
"""Tokens per tile. With 64 the state kernel spills a register on 8.0 or 8.9 as Triton 3.6 compiles it."""


def linear_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    layout: TokenLayout,
    q_weight: torch.Tensor | None = None,
    k_weight: torch.Tensor | None = None,
    norm_eps: float = 1e-5,
) -> torch.Tensor:
    """Attention of the tokens of each image to each other.

    Args:
        q, k, v: [T, heads, D] before norm and ReLU, any strides over T and heads; if there is a norm, the heads of a
            token must be contiguous.
        q_weight, k_weight: [heads * D], both or neither.

    Returns:
        [T, heads, D] in the dtype of v.
    """
    if not uses_kernels(v):
        return linear_attention_reference(q, k, v, layout, q_weight, k_weight, norm_eps)
    tokens, heads, width = v.shape
    tables = layout.tables
    chunks, images = triton.cdiv(tokens, CHUNK), tables.images
    # A chunk begins with the last image of the chunk before or a later one, so chunk + image differs for each partial
    # state, and chunks + images states hold them all.
    partial = v.new_empty(chunks + images, heads, width + 1, width, dtype=torch.float32)
    state = v.new_empty(images, heads, width + 1, width, dtype=torch.float32)
    out = v.new_empty(tokens, heads, width)
    # The norm of a query is a positive factor of numerator and denominator alike and cancels: only its weight counts.
    k_scale = None if k_weight is None else inverse_rms(k.flatten(1), norm_eps)
    block_d = block_size(width)
    _linear_attention_state_kernel[(chunks, heads)](
        k=k,
        k_scale=k_scale,
        k_weight=k_weight,
        v=v,
        partial=partial,
        image_index=tables.image_index,
        starts=tables.starts,
        tokens=tokens,
        width=width,
        k_token_stride=k.stride(0),
        k_head_stride=k.stride(1),
        v_token_stride=v.stride(0),
        v_head_stride=v.stride(1),
        CHUNK=CHUNK,
        BLOCK_T=STATE_BLOCK_T,
        BLOCK_D=block_d,
        PRECISION=dot_precision(v),
    )
    _linear_attention_reduce_kernel[(images, heads)](
        partial=partial,
        state=state,
        starts=tables.starts,
        width=width,
        CHUNK=CHUNK,
        BLOCK_D=block_d,
    )
    _linear_attention_kernel[(chunks, heads)](
        q=q,
        q_weight=q_weight,
        state=state,
        out=out,
        image_index=tables.image_index,
        starts=tables.starts,
        tokens=tokens,
        width=width,
        q_token_stride=q.stride(0),
        q_head_stride=q.stride(1),
        eps=EPS,
        CHUNK=CHUNK,
        BLOCK_T=BLOCK_T,
        BLOCK_D=block_d,
        PRECISION=dot_precision(v),
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
    """The op in plain torch; arguments and result as in `linear_attention`."""
    if q_weight is not None and k_weight is not None:
        # The norm of a query is a positive factor of numerator and denominator alike and cancels.
        q = q * q_weight.view(q.shape[1:])
        k = rms_norm_reference(k.flatten(1), k_weight, eps=norm_eps).view_as(k)
    outputs = [
        relu_linear_attention(*(x[run.tokens].unflatten(0, (run.count, -1)).transpose(1, 2) for x in (q, k, v)))
        .transpose(1, 2)
        .flatten(0, 1)
        for run in layout.runs
    ]
    return torch.cat(outputs).to(v.dtype) if len(outputs) > 1 else outputs[0].to(v.dtype)


def relu_linear_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The formula on dense batches q, k, v [..., t, D], without the norm; fp32 [..., t, D]."""
    # Products need contiguous heads: one copy of each operand, which is also the conversion to fp32.
    q, k, v = (x.to(torch.float32, memory_format=torch.contiguous_format).contiguous() for x in (q, k, v))
    q, k = torch.relu(q), torch.relu(k)
    state = k.transpose(-1, -2) @ v  # [..., D, D]
    normaliser = (q * k.sum(-2, keepdim=True)).sum(-1, keepdim=True)  # [..., t, 1], faster than a product
    return (q @ state) / (normaliser + EPS)


@triton.jit
def _relu(x: tl.tensor) -> tl.tensor:
    """ReLU that keeps NaN."""
    # Without propagate_nan an overflow would turn into a plausible zero.
    return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit(do_not_specialize=["tokens"])
def _linear_attention_state_kernel(
    k: tl.tensor,
    k_scale: tl.tensor | None,  # [tokens]; None, like k_weight [heads * width], if k has no norm
    k_weight: tl.tensor | None,
    v: tl.tensor,
    partial: tl.tensor,  # [chunks + images, heads, width + 1, width]: K^T V, and the sum of K as the last row
    image_index: tl.tensor,
    starts: tl.tensor,
    tokens: int,
    width: int,
    k_token_stride: int,
    k_head_stride: int,
    v_token_stride: int,
    v_head_stride: int,
    CHUNK: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """The partial state of each image in a chunk, for one head."""
    chunk, head, heads = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    first, last = chunk * CHUNK, tl.minimum(chunk * CHUNK + CHUNK, tokens)
    d = tl.arange(0, BLOCK_D)
    if k_weight is not None:
        weight = tl.load(k_weight + head * width + d, d < width, 0.0).to(tl.float32)[None, :]
    for image in range(tl.load(image_index + first).to(tl.int32), tl.load(image_index + last - 1).to(tl.int32) + 1):
        start = tl.maximum(tl.load(starts + image), first)
        stop = tl.minimum(tl.load(starts + image + 1), last)
        # fp32: the sums grow with the number of tokens, and those of fp16 would overflow.
        state, total = tl.zeros((BLOCK_D, BLOCK_D), tl.float32), tl.zeros((BLOCK_D,), tl.float32)
        for t in range(start, stop, BLOCK_T):
            token = (t + tl.arange(0, BLOCK_T)).to(tl.int64)[:, None]
            mask = (token < stop) & (d < width)[None, :]
            keys = tl.load(k + token * k_token_stride + head * k_head_stride + d[None, :], mask, 0.0).to(tl.float32)
            if k_scale is not None:
                keys *= tl.load(k_scale + token, token < stop, 0.0) * weight
            # Back to the dtype of k for the matrix units. The sum takes the same rounded keys as the product, so that
            # the normaliser fits the numerator. Tokens past the end are 0 and add nothing to either.
            keys = _relu(keys).to(k.dtype.element_ty)
            values = tl.load(v + token * v_token_stride + head * v_head_stride + d[None, :], mask, 0.0)
            state += tl.dot(tl.trans(keys), values, input_precision=PRECISION)
            total += tl.sum(keys.to(tl.float32), 0)
        base = partial + ((chunk + image) * heads + head).to(tl.int64) * (width + 1) * width
        tl.store(base + d[:, None] * width + d[None, :], state, (d < width)[:, None] & (d < width)[None, :])
        tl.store(base + width * width + d, total, d < width)


@triton.jit
def _linear_attention_reduce_kernel(
    partial: tl.tensor,
    state: tl.tensor,  # [images, heads, width + 1, width], as partial
    starts: tl.tensor,
    width: int,
    CHUNK: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> None:
    """The sum of an image's partial states in the order of its chunks: no atomics, so every run gives the same bits."""
    image, head, heads = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    # A block has a power of two of rows, and width + 1 of them are needed: 2 * BLOCK_D is the next one.
    i, d = tl.arange(0, 2 * BLOCK_D)[:, None], tl.arange(0, BLOCK_D)[None, :]
    mask = (i < width + 1) & (d < width)
    total = tl.zeros((2 * BLOCK_D, BLOCK_D), tl.float32)
    start, stop = tl.load(starts + image), tl.load(starts + image + 1)
    if (
        stop > start
    ):  # an image without tokens, as in a graph's tables, has no partial states, and nothing reads its own
        for chunk in range(start // CHUNK, tl.cdiv(stop, CHUNK)):
            base = partial + ((chunk + image) * heads + head).to(tl.int64) * (width + 1) * width
            total += tl.load(base + i * width + d, mask, 0.0)
        tl.store(state + (image * heads + head).to(tl.int64) * (width + 1) * width + i * width + d, total, mask)


@triton.jit(do_not_specialize=["tokens"])
def _linear_attention_kernel(
    q: tl.tensor,
    q_weight: tl.tensor | None,
    state: tl.tensor,
    out: tl.tensor,  # [tokens, heads, width]
    image_index: tl.tensor,
    starts: tl.tensor,
    tokens: int,
    width: int,
    q_token_stride: int,
    q_head_stride: int,
    eps: float,
    CHUNK: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """The output of the tokens of a chunk, for one head."""
    chunk, head, heads = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    first, last = chunk * CHUNK, tl.minimum(chunk * CHUNK + CHUNK, tokens)
    d = tl.arange(0, BLOCK_D)
    if q_weight is not None:
        weight = tl.load(q_weight + head * width + d, d < width, 0.0).to(tl.float32)[None, :]
    for image in range(tl.load(image_index + first).to(tl.int32), tl.load(image_index + last - 1).to(tl.int32) + 1):
        start = tl.maximum(tl.load(starts + image), first)
        stop = tl.minimum(tl.load(starts + image + 1), last)
        # A chunk serves up to CHUNK queries, so the state is read once per chunk and image and stays in registers.
        base = state + (image * heads + head).to(tl.int64) * (width + 1) * width
        matrix = tl.load(base + d[:, None] * width + d[None, :], (d < width)[:, None] & (d < width)[None, :], 0.0)
        total = tl.load(base + width * width + d, d < width, 0.0)
        for t in range(start, stop, BLOCK_T):
            token = (t + tl.arange(0, BLOCK_T)).to(tl.int64)[:, None]
            mask = (token < stop) & (d < width)[None, :]
            queries = tl.load(q + token * q_token_stride + head * q_head_stride + d[None, :], mask, 0.0)
            queries = queries.to(tl.float32)
            if q_weight is not None:
                queries *= weight
            queries = _relu(queries)
            # Queries stay fp32, unlike keys: a product takes two operands of one dtype, and the state is fp32, with
            # sums beyond the range of fp16. In half precision tf32 is enough: it has the mantissa of fp16.
            normaliser = tl.sum(queries * total[None, :], 1)[:, None] + eps
            attended = tl.dot(queries, matrix, input_precision=PRECISION) / normaliser
            tl.store(out + (token * heads + head) * width + d[None, :], attended.to(out.dtype.element_ty), mask)
