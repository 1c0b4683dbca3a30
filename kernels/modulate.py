"""AdaLN modulation and gating with one vector per image (DiT, section 3.2): layer_norm(x) * (1 + scale) + shift."""

import torch
import torch.nn.functional as F

from .layout import TokenLayout


def modulate_reference(
    x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor, layout: TokenLayout, eps: float = 1e-6
) -> torch.Tensor:
    """x: [T, C]; shift, scale: [N, C]. Returns [T, C]."""
    normed = F.layer_norm(x, x.shape[-1:], eps=eps)
    return torch.addcmul(layout.spread(shift), normed, layout.spread(1 + scale))


def gated_add_reference(x: torch.Tensor, gate: torch.Tensor, y: torch.Tensor, layout: TokenLayout) -> torch.Tensor:
    """x + gate * y with x, y: [T, C] and gate: [N, C]."""
    return torch.addcmul(x, layout.spread(gate), y)
