"""Cross-attention of packed image tokens to packed text: softmax(q k^T / sqrt(D)) v, each image to its own text only.

No padding token exists, so no mask does either. With a weight for q this is rms_norm over all heads first (SANA-1.5,
section 2.3), which the kernel applies where it reads; keys are normed once per prompt.
"""

import math

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from .dispatch import block_of, precision, runs_kernels
from .layout import TokenLayout
from .rms_norm import inverse_rms, rms_norm_reference

BLOCK_T, BLOCK_S = 64, 32
"""64 keys at once would spill registers on compute capability 8.0."""
MIN_QUERIES = 4
"""Of an image in the reference. With fewer, and two threads or more, its bits depend on how many images there are."""


def cross_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    layout: TokenLayout,
    q_weight: torch.Tensor | None = None,
    norm_eps: float = 1e-5,
) -> torch.Tensor:
    """q: [layout.attended, heads, D] before its norm; k, v: [S, heads, D], all texts; q_weight: [heads * D].

    Returns [layout.attended, heads, D].
    """
    if not runs_kernels(q):
        return cross_attention_reference(q, k, v, layout, q_weight, norm_eps)
    rows, heads, width = q.shape
    tables = layout.tables
    out = torch.empty_like(q)
    if rows:
        q_scale = None if q_weight is None else inverse_rms(q.flatten(1), norm_eps)
        _cross_attention_kernel[(triton.cdiv(rows, BLOCK_T), heads)](
            *(q, q_scale, q_weight, k, v, out, tables.image_index, tables.starts, tables.texts, rows),
            width**-0.5 * math.log2(math.e),
            WIDTH=width,  # a constant, so that rows of 72 values are known to be aligned to 16 bytes
            BLOCK_T=BLOCK_T,
            BLOCK_S=BLOCK_S,
            BLOCK_D=block_of(width),
            PRECISION=precision(q),
        )
    return out


def cross_attention_reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    layout: TokenLayout,
    q_weight: torch.Tensor | None = None,
    norm_eps: float = 1e-5,
) -> torch.Tensor:
    """Arguments and result as of `cross_attention`."""
    if q_weight is not None:
        q = rms_norm_reference(q.flatten(1), q_weight, eps=norm_eps).view_as(q)
    outputs = []
    for run in layout.text_runs:
        queries = q[run.tokens].unflatten(0, (len(run.texts), -1)).transpose(1, 2)  # [n, heads, t, D]
        count = queries.shape[2]
        if count < MIN_QUERIES:
            queries = F.pad(queries, (0, 0, 0, MIN_QUERIES - count))
        keys, values = run.gather(k).transpose(1, 2), run.gather(v).transpose(1, 2)
        attended = F.scaled_dot_product_attention(queries, keys, values)[:, :, :count]
        outputs.append(attended.transpose(1, 2).flatten(0, 1))
    if not outputs:
        return q
    return torch.cat(outputs) if len(outputs) > 1 else outputs[0]


@triton.jit(do_not_specialize=["rows"])
def _cross_attention_kernel(
    q: tl.tensor,
    q_scale: tl.tensor | None,  # of rows; None, as the weight of channels, where there is no norm
    q_weight: tl.tensor | None,
    k: tl.tensor,
    v: tl.tensor,
    out: tl.tensor,
    image_index: tl.tensor,
    starts: tl.tensor,
    texts: tl.tensor,
    rows: int,
    scale: float,  # of the scores, in units of log2
    WIDTH: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    head, heads = tl.program_id(1), tl.num_programs(1)
    first, last = tl.program_id(0) * BLOCK_T, tl.minimum(tl.program_id(0) * BLOCK_T + BLOCK_T, rows)
    row = first + tl.arange(0, BLOCK_T)
    d = tl.arange(0, BLOCK_D)
    place = (row.to(tl.int64)[:, None] * heads + head) * WIDTH + d[None, :]
    queries = tl.load(q + place, (row < last)[:, None] & (d < WIDTH)[None, :], 0.0)
    if q_scale is not None:
        weight = tl.load(q_weight + head * WIDTH + d, d < WIDTH, 0.0).to(tl.float32)
        normed = queries.to(tl.float32) * tl.load(q_scale + row, row < last, 0.0)[:, None] * weight[None, :]
        queries = normed.to(q.dtype.element_ty)
    # Most blocks lie within one image; those that do not attend to the text of each and keep their own rows.
    for image in range(tl.load(image_index + first).to(tl.int32), tl.load(image_index + last - 1).to(tl.int32) + 1):
        start, stop = tl.load(texts + 2 * image), tl.load(texts + 2 * image + 1)
        best = tl.full((BLOCK_T,), float("-inf"), tl.float32)
        total = tl.zeros((BLOCK_T,), tl.float32)
        attended = tl.zeros((BLOCK_T, BLOCK_D), tl.float32)
        for s in range(start, stop, BLOCK_S):
            key = s + tl.arange(0, BLOCK_S)
            mask = (key < stop)[:, None] & (d < WIDTH)[None, :]
            source = (key.to(tl.int64)[:, None] * heads + head) * WIDTH + d[None, :]
            keys = tl.load(k + source, mask, 0.0)
            scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * scale
            scores = tl.where((key < stop)[None, :], scores, float("-inf"))
            higher = tl.maximum(best, tl.max(scores, 1))
            weights = tl.exp2(scores - higher[:, None])
            shrink = tl.exp2(best - higher)
            total = total * shrink + tl.sum(weights, 1)
            values = tl.load(v + source, mask, 0.0)
            attended *= shrink[:, None]
            attended += tl.dot(weights.to(values.dtype), values, input_precision=PRECISION)
            best = higher
        own = (row >= tl.load(starts + image)) & (row < tl.minimum(tl.load(starts + image + 1), last))
        result = (attended / total[:, None]).to(out.dtype.element_ty)
        tl.store(out + place, result, own[:, None] & (d < WIDTH)[None, :])
