"""Grids of samples as one PNG, to be looked at while training runs."""

from pathlib import Path

import torch
from PIL import Image


def save_grid(path: Path, images: torch.Tensor, columns: int) -> None:
    """images: [N, 3, H, W] in [-1, 1], row by row."""
    pixels = ((images.float().clamp(-1, 1) + 1) * 127.5).round().byte()
    rows = [torch.cat(list(row), dim=-1) for row in pixels.split(columns)]
    width = max(row.shape[-1] for row in rows)
    rows = [torch.nn.functional.pad(row, (0, width - row.shape[-1])) for row in rows]
    Image.fromarray(torch.cat(rows, dim=-2).permute(1, 2, 0).contiguous().numpy()).save(path)
