"""The middle of Mix-FFN: depthwise 3x3 with zero padding at each image's own border, then a gated unit (SANA 2.2).

out = a * silu(g) with (a, g) = halves of depthwise3x3(x) + bias.
"""

import torch
import torch.nn.functional as F

from .layout import TokenLayout


def glu_conv_reference(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, layout: TokenLayout
) -> torch.Tensor:
    """x: [T, 2C], weight: [2C, 1, 3, 3], bias: [2C]. Returns [T, C]."""
    outputs = []
    for run in layout.runs:
        # A view, not a copy: rows of tokens are an image in channels-last order.
        image = x[run.tokens].unflatten(0, (run.count, run.height, run.width)).permute(0, 3, 1, 2)
        convolved = F.conv2d(image, weight, bias, padding=1, groups=weight.shape[0])
        outputs.append(convolved.permute(0, 2, 3, 1).flatten(0, 2))
    a, gate = (torch.cat(outputs) if len(outputs) > 1 else outputs[0]).chunk(2, dim=-1)
    return a * F.silu(gate)
