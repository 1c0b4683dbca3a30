"""The image to repaint and its mask on the model's grid, and the finished image inside of the original one."""

import numpy as np

from ..types import GenerationParams

ROWS = 256
"""Rows that are blended at once: their values take two bytes each."""


def on_grid(values: np.ndarray, params: GenerationParams, grid_size: tuple[int, int]) -> np.ndarray:
    """An image of the size in `params` in the centre of the grid, its edge repeated around it: [H, W] or [H, W, 3].

    Args:
        values: uint8, row by row, with one or three values per pixel.
        grid_size: (width, height) in pixels.
    """
    image = values.reshape(params.height, params.width, -1)
    top, left = (grid_size[1] - params.height) // 2, (grid_size[0] - params.width) // 2
    bottom, right = grid_size[1] - params.height - top, grid_size[0] - params.width - left
    padded = np.pad(image, ((top, bottom), (left, right), (0, 0)), mode="edge")
    return np.ascontiguousarray(padded[:, :, 0] if padded.shape[2] == 1 else padded)


def latent_mask(mask: np.ndarray, compression: int) -> np.ndarray:
    """Tokens with a pixel to repaint, bool [h * w, 1].

    Args:
        mask: [H, W] on the grid, above 0 where the image is repainted.
    """
    height, width = mask.shape[0] // compression, mask.shape[1] // compression
    cells = mask.reshape(height, compression, width, compression)
    return (cells.max(axis=(1, 3)) > 0).reshape(-1, 1)


def keep_unmasked(pixels: np.ndarray, params: GenerationParams) -> None:
    """Puts the original pixels outside of the mask back, in place; inside, over `mask_feather` pixels, it blends.

    Args:
        pixels: generated image on the grid, uint8 [H, W, 3].
    """
    if params.image is None or params.image.mask is None:
        return
    shape = (params.height, params.width)
    original = np.frombuffer(params.image.pixels, np.uint8).reshape(*shape, 3)
    depth = mask_depth(np.frombuffer(params.image.mask, np.uint8).reshape(shape) > 0, params.mask_feather)
    top, left = (pixels.shape[0] - params.height) // 2, (pixels.shape[1] - params.width) // 2
    generated = pixels[top : top + params.height, left : left + params.width]
    full = params.mask_feather + 1
    for start in range(0, params.height, ROWS):
        rows = slice(start, start + ROWS)
        share = depth[rows, :, None].astype(np.uint16)
        generated[rows] = (generated[rows] * share + original[rows] * (full - share) + full // 2) // full


def mask_depth(mask: np.ndarray, feather: int) -> np.ndarray:
    """Distance of each pixel from the outside of the mask, in steps to one of eight neighbours, at most feather + 1.

    uint8 [H, W]: 0 outside of the mask. What is beyond the image's edge counts as inside.
    """
    depth = mask.astype(np.uint8)
    inside = mask
    for _ in range(feather):
        padded = np.pad(inside, 1, mode="edge")
        rows = padded[:-2] & padded[1:-1] & padded[2:]
        inside = rows[:, :-2] & rows[:, 1:-1] & rows[:, 2:]
        depth += inside
    return depth
