"""Root-mean-square norm over the last dimension: x / sqrt(mean(x^2) + eps) * weight (+ bias), statistics in fp32."""

import torch


def rms_norm_reference(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, eps: float = 1e-5
) -> torch.Tensor:
    """x: [..., C]; weight, bias: [C]. Returns the shape of x in the dtype of weight."""
    inverse = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + eps)
    normed = (x * inverse).to(weight.dtype) * weight
    return normed if bias is None else normed + bias
