"""Classification of exceptions: out of memory, an unusable device, or anything else."""

import torch

from ..errors import GenerationFailed, SanaError

FATAL = ("CUDA error", "device-side assert", "an illegal memory access", "CUDNN_STATUS", "CUBLAS_STATUS")
"""Parts of messages after which this process cannot use its device any more."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device was out of memory. The CPU's allocator raises a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def is_fatal(error: Exception) -> bool:
    """Whether every further call on the device will fail in this process."""
    lost = isinstance(error, getattr(torch, "AcceleratorError", ())) or any(part in str(error) for part in FATAL)
    return lost and not is_out_of_memory(error)


def user_error(error: Exception) -> SanaError:
    """The error for the user, on one line; the log has the traceback."""
    if isinstance(error, SanaError):
        return error
    if is_out_of_memory(error):
        return GenerationFailed("the device ran out of memory; request a smaller size or fewer images")
    first_line = next(iter(str(error).splitlines()), "")
    return GenerationFailed(f"the engine failed: {type(error).__name__}: {first_line}")
