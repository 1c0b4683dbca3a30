"""Free memory, and an upper bound of the memory that one image needs."""

import os
from pathlib import Path

import torch

from ..checkpoints.checkpoint import Checkpoint
from ..costs import MemoryModel

LIVE_WIDTHS = 32
"""Live values per token in a block, in units of its width: the Mix-FFN's four tensors of 5 widths, and residuals."""
HALO_ROWS = 12
"""Rows of pixels above and below the smallest band that the released decoders read with it."""
LIVE_STAGES = 4
"""Live tensors of a decoder stage."""


def free_memory(device: torch.device) -> tuple[int, int]:
    """(free, total) bytes of memory of the device; for the CPU, of the machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)
    page = os.sysconf("SC_PAGE_SIZE")
    total = os.sysconf("SC_PHYS_PAGES") * page
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024, total
    return total, total


def held_memory(device: torch.device) -> int:
    """Bytes that this process holds on the device; for the CPU, its resident memory, or 0 without /proc."""
    if device.type == "cuda":
        return int(torch.cuda.memory_reserved(device))
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.is_file() else 0


def memory_model(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> MemoryModel:
    """Memory model from the shapes of the networks. Call it after loading: `capacity` is what is free now."""
    decoder = checkpoint.decoder.decoder
    shallow = next((i for i, kind in enumerate(decoder.block_types) if kind != "ResBlock"), len(decoder.widths) - 1)
    itemsize = 4 if dtype == torch.float32 else 2
    deepest = min(shallow, len(decoder.widths) - 1)
    widest = max(width / 4**stage for stage, width in enumerate(decoder.widths[: deepest or 1]))
    # The 2K and 4K checkpoints keep a position embedding in fp32 with every pack.
    position_bytes = 0 if checkpoint.transformer.interpolation_scale is None else 4 * checkpoint.transformer.width
    return MemoryModel(
        capacity=free_memory(device)[0],
        token=LIVE_WIDTHS * checkpoint.transformer.width * dtype.itemsize + position_bytes,
        pixel=6 + int(LIVE_STAGES * decoder.widths[deepest] / 4**deepest * itemsize),
        band=int(LIVE_STAGES * widest * itemsize * 2**deepest * (1 + 2 * HALO_ROWS)),
    )
