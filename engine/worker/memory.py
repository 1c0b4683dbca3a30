"""How much memory there is, and a bound of what one picture takes of it."""

import os
from pathlib import Path

import torch

from ..checkpoints.diffusers import Checkpoint
from ..costs import MemoryModel

LIVE_WIDTHS = 32
"""Rows of a block that live at once, in units of its width: the Mix-FFN's four tensors of 5 widths, and the stream."""
HALO_ROWS = 12
"""Of the smallest band of the released decoders, above and below."""
LIVE_STAGES = 4
"""Tensors of a decoder stage that live at once."""


def free_memory(device: torch.device) -> tuple[int, int]:
    """(free, total) bytes of the device; of the machine for the CPU."""
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
    """Bytes that this process holds on a device; of the machine's memory for the CPU, 0 where nobody tells."""
    if device.type == "cuda":
        return int(torch.cuda.memory_reserved(device))
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.is_file() else 0


def memory_model(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> MemoryModel:
    """From the networks' shapes. `capacity` is what is free now: call it when the weights are loaded."""
    decoder = checkpoint.decoder.decoder
    shallow = next((i for i, kind in enumerate(decoder.block_types) if kind != "ResBlock"), len(decoder.widths) - 1)
    itemsize = 4 if dtype == torch.float32 else 2
    deepest = min(shallow, len(decoder.widths) - 1)
    widest = max(width / 4**stage for stage, width in enumerate(decoder.widths[: deepest or 1]))
    return MemoryModel(
        capacity=free_memory(device)[0],
        token=LIVE_WIDTHS * checkpoint.transformer.width * dtype.itemsize,
        pixel=6 + int(LIVE_STAGES * decoder.widths[deepest] / 4**deepest * itemsize),
        band=int(LIVE_STAGES * widest * itemsize * 2**deepest * (1 + 2 * HALO_ROWS)),
    )
