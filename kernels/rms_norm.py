"""Root-mean-square norm over the last dimension: x / sqrt(mean(x^2) + eps) * weight (+ bias), statistics in fp32."""

import torch


def rms_norm_reference(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, eps: float = 1e-5
) -> torch.Tensor:
    """x: [..., C]; weight, bias: [C]. Returns the shape of x in the dtype of weight."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)  # no fp32 copy of x
    inverse = torch.rsqrt(norm.square() / x.shape[-1] + eps)
    normed = (x * inverse).to(weight.dtype)
    return normed * weight if bias is None else torch.addcmul(bias, normed, weight)
