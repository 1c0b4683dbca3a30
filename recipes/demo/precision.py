"""bfloat16 where the processor multiplies it, float32 where it only pretends to (30 times slower on AVX2)."""

from contextlib import AbstractContextManager, nullcontext

import torch


def matrix_dtype(device: torch.device) -> torch.dtype:
    """What matrix products run in."""
    fast = device.type == "cuda" or any(torch.cpu.get_capabilities().get(f"{kind}_bf16") for kind in ("avx512", "amx"))
    return torch.bfloat16 if fast else torch.float32


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """Mixed precision where it is faster."""
    dtype = matrix_dtype(device)
    return nullcontext() if dtype is torch.float32 else torch.autocast(device.type, dtype)
