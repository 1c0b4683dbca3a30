"""Matrix products of token rows in which a row does not depend on how many others there are, on the CPU in fp32."""

import torch
import torch.nn.functional as F
from torch import nn

MIN_ROWS = 12
"""MKL sums a product of fewer rows in another order, as torch 2.13 shows: 1 to 3 rows on one thread, on two also 5 to 7
and 9 to 11. From 12 on every row is the same to the last bit, at any width of a released SANA."""


class Linear(nn.Linear):
    """[T, C] to [T, out]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x: [T, C], weight: [out, C]. Too few rows are filled up with zeros."""
    rows = x.shape[0]
    if rows >= MIN_ROWS or x.device.type != "cpu":
        return F.linear(x, weight, bias)
    return F.linear(F.pad(x, (0, 0, 0, MIN_ROWS - rows)), weight, bias)[:rows]
