"""Matrix products of token rows in which a row does not depend on how many others there are, on the CPU in fp32."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

MIN_ROWS = 16
"""MKL sums a product of fewer rows in another order, as torch 2.13 shows: up to 15 rows with AVX-512 of Intel, up to 11
on AMD. From 16 on every row is the same to the last bit at the demo's widths; at the widths of a released SANA on one
thread, while Intel's MKL with several cuts a product of up to 511 rows between them by its size."""


class Linear(nn.Linear):
    """[T, C] to [T, out]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight, self.bias)


class PointwiseConv(nn.Conv2d):
    """A 1x1 convolution of the checkpoint, that is a matrix product on token rows [T, C]."""

    def __init__(self, width: int, out: int, bias: bool = True) -> None:
        super().__init__(width, out, 1, bias=bias)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return linear(tokens, self.weight.flatten(1), self.bias)


def pack(layers: Sequence[nn.Linear]) -> Linear:
    """One layer that computes what `layers` do, end to end. Their weights become views of its own."""
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
    """x: [T, C], weight: [out, C]. Too few rows are filled up with zeros."""
    rows = x.shape[0]
    if rows >= MIN_ROWS or x.device.type != "cpu":
        return F.linear(x, weight, bias)
    return F.linear(F.pad(x, (0, 0, 0, MIN_ROWS - rows)), weight, bias)[:rows]
