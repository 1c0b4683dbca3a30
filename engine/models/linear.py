"""Matrix products whose result for a token does not depend on the number of tokens, on the CPU in fp32."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from kernels.onednn import linear_act

MIN_ROWS = 16
"""MKL sums a product of fewer rows in another order (measured with torch 2.13: up to 15 rows with AVX-512 on Intel, up
to 11 on AMD). From 16 rows on, every row is the same to the last bit at the demo's widths, and on one thread at those
of a released SANA, where with several threads Intel's MKL splits a product of up to 511 rows by its size."""


class Linear(nn.Linear):
    """Linear layer, [T, C] to [T, out]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight, self.bias)


class PointwiseConv(nn.Conv2d):
    """1x1 convolution in the checkpoint, a matrix product on tokens [T, C] here."""

    def __init__(self, width: int, out: int, bias: bool = True) -> None:
        super().__init__(width, out, 1, bias=bias)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return linear(tokens, self.weight.flatten(1), self.bias)


def pack(layers: Sequence[nn.Linear]) -> Linear:
    """One layer with the outputs of `layers` end to end. Their weights become views of its weight."""
    weight = torch.cat([layer.weight for layer in layers])
    bias = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
    with torch.device("meta"):
        packed = Linear(weight.shape[1], weight.shape[0], bias is not None)
    packed.weight = nn.Parameter(weight, requires_grad=False)
    packed.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
    for i, layer in enumerate(layers):
        layer.weight = nn.Parameter(weight.chunk(len(layers))[i], requires_grad=False)
    return packed


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x [T, C] times weight [out, C], plus bias.

    On the CPU, x is padded with zeros to `MIN_ROWS` rows, unless oneDNN has reordered the weight (see `reorder`).
    """
    if weight.is_mkldnn:
        return linear_act(x, weight, bias)
    tokens = x.shape[0]
    if tokens >= MIN_ROWS or x.device.type != "cpu":
        return F.linear(x, weight, bias)
    return F.linear(F.pad(x, (0, 0, 0, MIN_ROWS - tokens)), weight, bias)[:tokens]
