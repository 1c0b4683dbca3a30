"""The one choice between an op's reference and its kernel: launchers make it by the device of their input.

No kernel is specialised on a count of rows, which changes from batch to batch: Triton would compile another while a
request waits.
"""

import torch
import triton


def runs_kernels(x: torch.Tensor) -> bool:
    """The CPU runs the references; every other device, and Triton's interpreter, which tests set up, the kernels.

    Training runs the references everywhere: the kernels have no backward.
    """
    return not x.requires_grad and (x.device.type != "cpu" or bool(triton.knobs.runtime.interpret))


def precision(x: torch.Tensor) -> str:
    """How a kernel multiplies fp32 operands: in tf32 where the op works in half precision, exactly where in fp32."""
    return "ieee" if x.dtype == torch.float32 else "tf32"


def block_of(width: int) -> int:
    """The power of two that holds `width` columns; a matrix instruction needs at least 16."""
    return max(16, triton.next_power_of_2(width))
