"""Grids of samples and curves of losses as PNG, to be looked at while training runs."""

from pathlib import Path

import torch
from PIL import Image, ImageDraw

INKS = ("#1f5fd0", "#d05a1f", "#2e9e50")
MARGIN = 40


def save_grid(path: Path, images: torch.Tensor, columns: int) -> None:
    """images: [N, 3, H, W] in [-1, 1], row by row."""
    pixels = ((images.float().clamp(-1, 1) + 1) * 127.5).round().byte().cpu()
    rows = [torch.cat(list(row), dim=-1) for row in pixels.split(columns)]
    width = max(row.shape[-1] for row in rows)
    rows = [torch.nn.functional.pad(row, (0, width - row.shape[-1])) for row in rows]
    Image.fromarray(torch.cat(rows, dim=-2).permute(1, 2, 0).contiguous().numpy()).save(path)


def save_curves(path: Path, curves: dict[str, list[float]], size: tuple[int, int] = (900, 420)) -> None:
    """Each list from left to right on one scale from 0, with its name and last value."""
    picture = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(picture)
    width, height = size[0] - 2 * MARGIN, size[1] - 2 * MARGIN
    top = max((max(values) for values in curves.values() if values), default=1.0)
    pen.rectangle((MARGIN, MARGIN, MARGIN + width, MARGIN + height), outline="#888888")
    pen.text((4, MARGIN - 6), f"{top:.2f}", fill="#444444")
    for ink, (name, values) in zip(INKS, curves.items(), strict=False):
        step = width / max(1, len(values) - 1)
        points = [(MARGIN + i * step, MARGIN + height * (1 - value / top)) for i, value in enumerate(values)]
        if len(points) > 1:
            pen.line(points, fill=ink, width=2)
        if values:
            pen.text((MARGIN + 150 * list(curves).index(name), 12), f"{name} {values[-1]:.4f}", fill=ink)
    picture.save(path)
