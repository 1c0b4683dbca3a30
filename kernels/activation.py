"""Activations by the names that the autoencoder's configuration uses, for references and inside kernels.

silu(x) = x / (1 + exp(-x)). It has its own CPU reference, in which a token's bits do not depend on the batch size.
"""

import torch
import torch.nn.functional as F

from ._triton import tl, triton

ACTIVATIONS = {"silu": F.silu, "relu": F.relu, "relu6": F.relu6}
GRAIN_SIZE = 2**15
"""Elements below which torch runs a pointwise operation on one thread (at::internal::GRAIN_SIZE)."""
VECTOR_SIZE = 64
"""Elements that are a multiple of the vector length in every dtype and instruction set."""


def activation_reference(x: torch.Tensor, name: str | None) -> torch.Tensor:
    """The activation of x, any shape; the identity if the name is None."""
    return x if name is None else ACTIVATIONS[name](x)


def silu_reference(x: torch.Tensor) -> torch.Tensor:
    """SiLU of x, any shape, as a contiguous tensor.

    torch splits x between threads at any element, and the remainder of a part that is no whole vector takes a scalar
    exp, which differs in the last bit. So one call covers the elements that split into whole vectors, and a second
    call, too small for more than one thread, covers the rest.
    """
    if x.device.type != "cpu" or x.requires_grad:
        return F.silu(x)
    x = x.contiguous()
    prefix = vectorized_prefix(x.numel(), torch.get_num_threads())
    if prefix == x.numel():
        return F.silu(x)
    out = torch.empty_like(x)
    source, target = x.view(-1), out.view(-1)
    for part in (slice(prefix), slice(prefix, None)):
        torch.ops.aten.silu.out(source[part], out=target[part])
    return out


def vectorized_prefix(elements: int, threads: int) -> int:
    """The number of leading elements that torch splits between threads into whole vectors."""
    parts = min(threads, -(-elements // GRAIN_SIZE))
    if parts <= 1:
        return elements
    # The second bound leaves a part fewer elements than would start another thread.
    return max(elements - elements % (parts * VECTOR_SIZE), (parts - 1) * GRAIN_SIZE)


@triton.jit
def silu(x: tl.tensor) -> tl.tensor:
    """SiLU of x in fp32."""
    # exp2 is one instruction on a GPU, exp is a multiplication by log2(e) before it: the constant is -log2(e).
    return x / (1 + tl.exp2(x * -1.4426950408889634))


@triton.jit
def activate(x: tl.tensor, NAME: tl.constexpr) -> tl.tensor:
    """The activation of x in fp32; the identity if NAME is None."""
    # The name is a constant, so the compiler drops the branches not taken. Minimum and maximum of the hardware return
    # the number of a pair with NaN: without propagate_nan an overflow would turn into a plausible 0 or 6.
    if NAME == "silu":
        x = silu(x)
    if NAME == "relu" or NAME == "relu6":
        x = tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)
    if NAME == "relu6":
        x = tl.minimum(x, 6.0, propagate_nan=tl.PropagateNan.ALL)
    return x
