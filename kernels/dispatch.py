"""The choice between an op's reference and its kernel, which each launcher makes by the device of its input.

No kernel is specialised on a number of tokens or rows: it changes from batch to batch, and Triton would compile another
variant while a request waits.
"""

import torch

from ._triton import triton

# Fused multiply-adds, with which the kernels are tested and measured: on by default before Triton 3.10, off from then.
triton.knobs.language.default_fp_fusion = True
NO_TRITON = ("cpu", "mps")
"""Devices on which every op runs its reference. Tests compile kernels from tensors on the meta device."""


def uses_kernels(x: torch.Tensor) -> bool:
    """Whether an op on x runs its kernel: on GPUs that Triton compiles for, and in its interpreter, which tests enable.

    Training runs the references everywhere: the kernels have no backward pass.
    """
    return not x.requires_grad and (x.device.type not in NO_TRITON or bool(triton.knobs.runtime.interpret))


def dot_precision(x: torch.Tensor) -> str:
    """The precision of `tl.dot` on fp32 operands: exact if the op works in fp32, tf32 if it works in half precision."""
    return "ieee" if x.dtype == torch.float32 else "tf32"


def block_size(width: int) -> int:
    """The smallest power of two that holds `width` columns, at least the 16 that a matrix instruction needs."""
    return max(16, triton.next_power_of_2(width))
