"""Activations by name, for references and inside kernels: the autoencoder's configuration names them.

silu(x) = x / (1 + exp(-x)). On token rows it has a reference of its own, in which a row does not depend on how many
others there are, on the CPU.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

ACTIVATIONS = {"silu": F.silu, "relu": F.relu, "relu6": F.relu6}
SLICE = 2**15
"""Elements below which torch gives a pointwise operation to one thread."""
VECTOR = 64
"""Elements of which a multiple needs no scalar instructions at its end, in any dtype and instruction set."""


def activation_reference(x: torch.Tensor, name: str | None) -> torch.Tensor:
    """None is the identity."""
    return x if name is None else ACTIVATIONS[name](x)


def silu_reference(x: torch.Tensor) -> torch.Tensor:
    """x of any shape. Returns a contiguous tensor.

    torch cuts it between threads wherever that comes, and what is no whole vector at the end of a piece gets a scalar
    exp, another one in the last bit. So the first call has pieces of whole vectors, the second is for one thread.
    """
    if x.device.type != "cpu" or x.requires_grad:
        return F.silu(x)
    x = x.contiguous()
    even = evenly_cut(x.numel(), torch.get_num_threads())
    if even == x.numel():
        return F.silu(x)
    out = torch.empty_like(x)
    source, target = x.view(-1), out.view(-1)
    for part in (slice(even), slice(even, None)):
        torch.ops.aten.silu.out(source[part], out=target[part])
    return out


def evenly_cut(elements: int, threads: int) -> int:
    """The most of them that torch cuts into pieces of whole vectors."""
    pieces = min(threads, -(-elements // SLICE))
    if pieces <= 1:
        return elements
    return max(elements - elements % (pieces * VECTOR), (pieces - 1) * SLICE)


@triton.jit
def silu(x: tl.tensor) -> tl.tensor:
    """x in fp32."""
    return x / (1 + tl.exp2(x * -1.4426950408889634))


@triton.jit
def activate(x: tl.tensor, NAME: tl.constexpr) -> tl.tensor:
    """x in fp32. NaN stays NaN."""
    if NAME == "silu":
        x = silu(x)
    if NAME == "relu" or NAME == "relu6":
        x = tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)
    if NAME == "relu6":
        x = tl.minimum(x, 6.0, propagate_nan=tl.PropagateNan.ALL)
    return x
