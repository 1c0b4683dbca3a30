"""bfloat16 where the processor has instructions for it, float32 elsewhere (emulation is 30 times slower on AVX2)."""

from contextlib import AbstractContextManager, nullcontext

import torch


def matrix_dtype(device: torch.device) -> torch.dtype:
    """The faster data type for matrix products."""
    fast = device.type == "cuda" or any(torch.cpu.get_capabilities().get(f"{kind}_bf16") for kind in ("avx512", "amx"))
    return torch.bfloat16 if fast else torch.float32


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """Mixed precision where it is faster."""
    dtype = matrix_dtype(device)
    return nullcontext() if dtype is torch.float32 else torch.autocast(device.type, dtype)
