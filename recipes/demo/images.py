"""Sample grids and loss curves as PNG files, to watch while training runs."""

from pathlib import Path

import torch
from PIL import Image, ImageDraw

LINE_COLORS = ("#1f5fd0", "#d05a1f", "#2e9e50")
MARGIN = 40


def save_grid(path: Path, images: torch.Tensor, columns: int) -> None:
    """Writes images [N, 3, H, W] in [-1, 1] as a grid, row by row."""
    pixels = ((images.float().clamp(-1, 1) + 1) * 127.5).round().byte().cpu()
    rows = [torch.cat(list(row), dim=-1) for row in pixels.split(columns)]
    width = max(row.shape[-1] for row in rows)
    rows = [torch.nn.functional.pad(row, (0, width - row.shape[-1])) for row in rows]
    Image.fromarray(torch.cat(rows, dim=-2).permute(1, 2, 0).contiguous().numpy()).save(path)


def save_curves(path: Path, curves: dict[str, list[float]], size: tuple[int, int] = (900, 420)) -> None:
    """Plots each list from left to right on a common scale from 0, with its name and last value; size in pixels."""
    image = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(image)
    width, height = size[0] - 2 * MARGIN, size[1] - 2 * MARGIN
    top = max((max(values) for values in curves.values() if values), default=1.0)
    pen.rectangle((MARGIN, MARGIN, MARGIN + width, MARGIN + height), outline="#888888")
    pen.text((4, MARGIN - 6), f"{top:.2f}", fill="#444444")
    for color, (name, values) in zip(LINE_COLORS, curves.items(), strict=False):
        step = width / max(1, len(values) - 1)
        points = [(MARGIN + i * step, MARGIN + height * (1 - value / top)) for i, value in enumerate(values)]
        if len(points) > 1:
            pen.line(points, fill=color, width=2)
        if values:
            pen.text((MARGIN + 150 * list(curves).index(name), 12), f"{name} {values[-1]:.4f}", fill=color)
    image.save(path)
