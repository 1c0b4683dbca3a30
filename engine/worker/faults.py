"""What an exception from the device means: too little memory, a device that is lost, or something else."""

import torch

FATAL = ("CUDA error", "device-side assert", "an illegal memory access", "CUDNN_STATUS", "CUBLAS_STATUS")
"""Words after which the process can no longer use its device."""


def is_out_of_memory(error: Exception) -> bool:
    """On any device; the CPU's allocator raises a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def is_fatal(error: Exception) -> bool:
    """No further call on this device will succeed in this process."""
    lost = isinstance(error, getattr(torch, "AcceleratorError", ())) or any(words in str(error) for words in FATAL)
    return lost and not is_out_of_memory(error)


def explain(error: Exception) -> str:
    """One line for the user; the log has the rest."""
    if is_out_of_memory(error):
        return "the device ran out of memory for this picture; ask for a smaller size or fewer images"
    return f"the engine failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
