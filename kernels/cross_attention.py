"""Cross-attention from packed image tokens to packed text tokens: softmax(q k^T / sqrt(D)) v, per image and head.

Texts are packed without padding, so no attention mask exists: an image's range of text tokens bounds the loop. If q has
a weight, rms_norm over all heads comes first (SANA-1.5, section 2.3): the kernel applies it as it reads q. Keys are
normed once per prompt.
"""

import math

import torch
import torch.nn.functional as F

from ._triton import tl, triton
from .dispatch import block_size, dot_precision, uses_kernels
from .layout import TokenLayout
from .rms_norm import inverse_rms, rms_norm_reference

BLOCK_T, BLOCK_S = 64, 32
"""Image tokens and text tokens of one tile. 64 text tokens would spill registers on compute capability 8.0."""
MIN_QUERIES = 4
"""Minimum queries per image in the reference. With fewer, on two threads or more, bits depend on the batch size."""


def cross_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    layout: TokenLayout,
    q_weight: torch.Tensor | None = None,
    norm_eps: float = 1e-5,
) -> torch.Tensor:
    """Attention of each image's tokens to the tokens of its own text.

    Args:
        q: [layout.attended, heads, D], before its norm.
        k, v: [S, heads, D], the tokens of all texts.
        q_weight: [heads * D], or None for no norm.

    Returns:
        [layout.attended, heads, D].
    """
    if not uses_kernels(q):
        return cross_attention_reference(q, k, v, layout, q_weight, norm_eps)
    tokens, heads, width = q.shape
    tables = layout.tables
    out = torch.empty_like(q)
    if tokens:
        q_scale = None if q_weight is None else inverse_rms(q.flatten(1), norm_eps)
        _cross_attention_kernel[(triton.cdiv(tokens, BLOCK_T), heads)](
            q=q,
            q_scale=q_scale,
            q_weight=q_weight,
            k=k,
            v=v,
            out=out,
            image_index=tables.image_index,
            starts=tables.starts,
            texts=tables.texts,
            tokens=tokens,
            scale=width**-0.5 * math.log2(math.e),
            WIDTH=width,  # a constant, so that the compiler knows that heads of 72 channels are aligned to 16 bytes
            BLOCK_T=BLOCK_T,
            BLOCK_S=BLOCK_S,
            BLOCK_D=block_size(width),
            PRECISION=dot_precision(q),
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
    """The op in plain torch; arguments and result as in `cross_attention`."""
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


@triton.jit(do_not_specialize=["tokens"])
def _cross_attention_kernel(
    q: tl.tensor,  # [tokens, heads, WIDTH], as out
    q_scale: tl.tensor | None,  # [tokens]; None, like q_weight [heads * WIDTH], if q has no norm
    q_weight: tl.tensor | None,
    k: tl.tensor,  # [S, heads, WIDTH], as v
    v: tl.tensor,
    out: tl.tensor,
    image_index: tl.tensor,
    starts: tl.tensor,
    texts: tl.tensor,
    tokens: int,
    scale: float,  # log2(e) / sqrt(WIDTH), so that softmax needs exp2 alone
    WIDTH: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    # One program computes BLOCK_T consecutive tokens of the pack for one head, whatever images they belong to.
    head, heads = tl.program_id(1), tl.num_programs(1)
    first, last = tl.program_id(0) * BLOCK_T, tl.minimum(tl.program_id(0) * BLOCK_T + BLOCK_T, tokens)
    token = first + tl.arange(0, BLOCK_T)
    d = tl.arange(0, BLOCK_D)
    q_offsets = (token.to(tl.int64)[:, None] * heads + head) * WIDTH + d[None, :]
    # Channels past WIDTH load as 0 in queries and keys: they add nothing to a score, so BLOCK_D may exceed WIDTH.
    queries = tl.load(q + q_offsets, (token < last)[:, None] & (d < WIDTH)[None, :], 0.0)
    if q_scale is not None:
        # The norm in fp32, rounded to the dtype of q once, because the matrix units take their operands in that dtype.
        weight = tl.load(q_weight + head * WIDTH + d, d < WIDTH, 0.0).to(tl.float32)
        normed = queries.to(tl.float32) * tl.load(q_scale + token, token < last, 0.0)[:, None] * weight[None, :]
        queries = normed.to(q.dtype.element_ty)
    # Most blocks lie within one image. A block across borders attends to the text of each of its images in turn, all
    # tokens each time, and stores only the tokens of that image: no branch inside the loop over the text.
    for image in range(tl.load(image_index + first).to(tl.int32), tl.load(image_index + last - 1).to(tl.int32) + 1):
        start, stop = tl.load(texts + 2 * image), tl.load(texts + 2 * image + 1)
        # Online softmax (FlashAttention): maximum, sum and output so far, in fp32 as they add up over the whole text.
        best = tl.full((BLOCK_T,), float("-inf"), tl.float32)
        total = tl.zeros((BLOCK_T,), tl.float32)
        attended = tl.zeros((BLOCK_T, BLOCK_D), tl.float32)
        for s in range(start, stop, BLOCK_S):
            key = s + tl.arange(0, BLOCK_S)
            mask = (key < stop)[:, None] & (d < WIDTH)[None, :]
            kv_offsets = (key.to(tl.int64)[:, None] * heads + head) * WIDTH + d[None, :]
            keys = tl.load(k + kv_offsets, mask, 0.0)
            scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * scale
            # A text has at least one token, so every tile has a finite score and `higher` is never -inf.
            scores = tl.where((key < stop)[None, :], scores, float("-inf"))
            higher = tl.maximum(best, tl.max(scores, 1))
            weights = tl.exp2(scores - higher[:, None])
            rescale = tl.exp2(best - higher)  # 0 in the first tile, where `best` is -inf
            total = total * rescale + tl.sum(weights, 1)
            values = tl.load(v + kv_offsets, mask, 0.0)
            attended *= rescale[:, None]
            attended += tl.dot(weights.to(values.dtype), values, input_precision=PRECISION)
            best = higher
        of_image = (token >= tl.load(starts + image)) & (token < tl.minimum(tl.load(starts + image + 1), last))
        result = (attended / total[:, None]).to(out.dtype.element_ty)
        tl.store(out + q_offsets, result, of_image[:, None] & (d < WIDTH)[None, :])
