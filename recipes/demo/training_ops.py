"""Three ops of `kernels`, rewritten for training on a CPU, where autograd through the references dominates a step.

The values are equal up to bf16 rounding.
"""

from functools import lru_cache
from typing import Any

import torch

import engine.models.dc_ae_blocks
import engine.models.sana_blocks
from kernels.activation import activation_reference
from kernels.layout import TokenLayout
from kernels.linear_attention import linear_attention_reference


def use_training_ops() -> None:
    """Replaces the ops of the models in this process by those of this file."""
    engine.models.dc_ae_blocks.rms_norm = rms_norm  # type: ignore[attr-defined]
    engine.models.sana_blocks.rms_norm = rms_norm  # type: ignore[attr-defined]
    engine.models.sana_blocks.linear_attention = linear_attention  # type: ignore[attr-defined, assignment]
    engine.models.sana_blocks.cross_attention = cross_attention  # type: ignore[attr-defined, assignment]


def rms_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    residual: torch.Tensor | None = None,
    act: str | None = None,
) -> torch.Tensor:
    out = activation_reference(RMSNormFunction.apply(x, weight, bias, eps), act)  # type: ignore[no-untyped-call]
    return out if residual is None else out + residual


class RMSNormFunction(torch.autograd.Function):
    """RMSNorm over the last dimension in the dtype of x, with its own backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float) -> torch.Tensor:
        inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        inverse = inverse.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        normed = x * inverse.to(x.dtype)
        ctx.save_for_backward(normed, weight, inverse)
        ctx.biased = bias is not None
        scale = weight.to(x.dtype)
        return normed * scale if bias is None else torch.addcmul(bias.to(x.dtype), normed, scale)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = grads
        normed, weight, inverse = ctx.saved_tensors
        product = grad * normed
        flat = product.flatten(0, -2)
        ones = flat.new_ones(1, flat.shape[0])
        grad_weight = (ones @ flat).flatten().to(weight.dtype)
        grad_bias = (ones @ grad.flatten(0, -2)).flatten().to(weight.dtype) if ctx.biased else None
        scale = weight.to(grad.dtype)
        mean = (product @ scale[:, None]) / scale.shape[0]
        grad_x = torch.addcmul(grad * scale, normed, mean, value=-1).mul_(inverse.to(grad.dtype))
        return grad_x, grad_weight, grad_bias, None


def linear_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: TokenLayout, *norm_weights: torch.Tensor
) -> torch.Tensor:
    """The reference, with the norms of this file."""
    if norm_weights:
        q, k = (rms_norm(x.flatten(1), w).view_as(x) for x, w in zip((q, k), norm_weights, strict=True))
    return linear_attention_reference(q, k, v, layout)


def cross_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: TokenLayout, q_weight: torch.Tensor | None = None
) -> torch.Tensor:
    """One masked product over texts padded to the longest, for images of one size in groups that share a text."""
    if q_weight is not None:
        q = rms_norm(q.flatten(1), q_weight).view_as(q)
    spans = _texts(layout)
    index, mask = _padded(spans)
    queries = q.unflatten(0, (len(spans), -1)).transpose(1, 2)  # [texts, heads, repeats * t, D]
    keys, values = (x.index_select(0, index).unflatten(0, (len(spans), -1)).transpose(1, 2) for x in (k, v))
    # Not fused: the backward of the fused CPU kernel takes ten times as long on so few keys.
    scores = (queries * queries.shape[-1] ** -0.5) @ keys.mT + mask.to(queries.dtype)
    return (scores.softmax(-1, dtype=torch.float32).to(values.dtype) @ values).transpose(1, 2).flatten(0, 1)


@lru_cache(maxsize=2)
def _texts(layout: TokenLayout) -> tuple[tuple[int, int], ...]:
    """The distinct texts of the attended images."""
    spans = tuple(dict.fromkeys(layout.texts[: layout.single_text_images.start]))
    repeats = layout.single_text_images.start // max(1, len(spans))
    if any(layout.texts[i] != spans[i // repeats] for i in range(layout.single_text_images.start)):
        raise ValueError(f"every text must have {repeats} consecutive images, got the texts {layout.texts}")
    return spans


@lru_cache(maxsize=2)
def _padded(spans: tuple[tuple[int, int], ...]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(stop - start for start, stop in spans)
    indices = [[start + min(i, stop - start - 1) for i in range(longest)] for start, stop in spans]
    keep = torch.tensor([[i < stop - start for i in range(longest)] for start, stop in spans])
    mask = torch.zeros(keep.shape).masked_fill_(~keep, float("-inf"))
    return torch.tensor(indices).flatten(), mask[:, None, None, :]
