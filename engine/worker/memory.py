"""Free memory, and an upper bound of the memory that one image needs."""

import os
from pathlib import Path

import torch

from ..checkpoints.checkpoint import Checkpoint
from ..costs import MemoryModel
from ..host import Memory, available_memory

LIVE_WIDTHS = 32
"""Live values per token in a block, in units of its width: the Mix-FFN's four tensors of 5 widths, and residuals."""
HALO_ROWS = 12
"""Rows of pixels above and below the smallest band that the released decoders read with it."""
LIVE_STAGES = 4
"""Live tensors of a decoder stage."""
HOST_PIXEL_BYTES = 14
"""Host memory per pixel of a finished image: 3 of pixels, at most 3 of its PNG, twice 4 of base64 and its response."""
RESERVE = 0.1
"""Share of the free memory that stays free: allocators keep some freed blocks."""
PROMPT_CACHE_SHARE = 0.125
"""Maximum share of the free memory for the prompt cache."""


def device_memory(device: torch.device) -> Memory:
    """Memory of the device; for the CPU, what the host and its control groups allow this process."""
    if device.type == "cuda":
        return Memory(*torch.cuda.mem_get_info(device), "the device")
    return available_memory()


def held_memory(device: torch.device) -> int:
    """Bytes that this process holds on the device; for the CPU, its resident memory, or 0 without /proc."""
    if device.type == "cuda":
        return int(torch.cuda.memory_reserved(device))
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.is_file() else 0


def prompt_cache_bytes(device: torch.device, wanted: int) -> int:
    """Size of the prompt cache: `wanted`, or less on a small device. Call it after loading."""
    return min(wanted, int(PROMPT_CACHE_SHARE * device_memory(device).free))


def memory_model(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, later_bytes: int = 0) -> MemoryModel:
    """Memory model from the shapes of the networks. Call it after loading: `capacity` is what is free now.

    Args:
        later_bytes: memory that the prompt cache and the encoder of images will take.
    """
    decoder = checkpoint.decoder.decoder
    shallow = next((i for i, kind in enumerate(decoder.block_types) if kind != "ResBlock"), len(decoder.widths) - 1)
    itemsize = 4 if dtype == torch.float32 else 2
    deepest = min(shallow, len(decoder.widths) - 1)
    widest = max(width / 4**stage for stage, width in enumerate(decoder.widths[: deepest or 1]))
    # The 2K and 4K checkpoints keep a position embedding in fp32 with every pack.
    position_bytes = 0 if checkpoint.transformer.interpolation_scale is None else 4 * checkpoint.transformer.width
    finished_bytes = 6 if device.type == "cuda" else HOST_PIXEL_BYTES
    memory = device_memory(device)
    return MemoryModel(
        capacity=max(0, int((1 - RESERVE) * memory.free) - later_bytes),
        total=memory.total,
        token=LIVE_WIDTHS * checkpoint.transformer.width * dtype.itemsize + position_bytes,
        pixel=finished_bytes + int(LIVE_STAGES * decoder.widths[deepest] / 4**deepest * itemsize),
        band=int(LIVE_STAGES * widest * itemsize * 2**deepest * (1 + 2 * HALO_ROWS)),
    )
