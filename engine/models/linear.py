"""Operations on token rows in which a row does not depend on how many others there are, on the CPU in fp32."""

import torch
import torch.nn.functional as F
from torch import nn

MIN_ROWS = 16
"""MKL sums a product of fewer rows in another order, as torch 2.13 shows: up to 15 rows with AVX-512 of Intel, up to 11
on AMD. From 16 on every row is the same to the last bit at the demo's widths; at the widths of a released SANA on one
thread, while Intel's MKL with several cuts a product of up to 511 rows between them by its size."""
SLICE = 2**15
"""Elements below which torch gives a pointwise operation to one thread."""
VECTOR = 64
"""Elements of which a multiple needs no scalar instructions at its end, in any dtype and instruction set."""


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


def silu(x: torch.Tensor) -> torch.Tensor:
    """x: contiguous [T, C], overwritten where no gradient is wanted.

    torch cuts it between threads wherever that comes, and what is no whole vector at the end of a piece gets a scalar
    exp, another one in the last bit. So the first call has pieces of whole vectors, the second is for one thread.
    """
    if x.device.type != "cpu" or x.requires_grad:
        return F.silu(x)
    values = x.view(-1)
    even = evenly_cut(len(values), torch.get_num_threads())
    F.silu(values[:even], inplace=True)
    F.silu(values[even:], inplace=True)
    return x


def evenly_cut(elements: int, threads: int) -> int:
    """The most of them that torch cuts into pieces of whole vectors."""
    pieces = min(threads, -(-elements // SLICE))
    if pieces <= 1:
        return elements
    return max(elements - elements % (pieces * VECTOR), (pieces - 1) * SLICE)
