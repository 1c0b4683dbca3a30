"""DC-AE, the 32x autoencoder of SANA (arXiv 2410.10733): latents to pixels, and pixels to latents.

Stages count from the outermost (full resolution). The shallow stages of both halves are local, so they run in bands of
rows with exact halos: a 4096 x 4096 image takes bounded memory and has no seams.
"""

import math
from collections.abc import Iterator

import torch
from torch import nn

from ..errors import CheckpointError
from .configs import DCAEConfig, HalfConfig
from .dc_ae_blocks import (
    DownBlock,
    EfficientViTBlock,
    LayoutCache,
    ResBlock,
    RMSNorm2d,
    UpBlock,
    checked_activation,
)

BAND_ELEMENTS = 2**28
"""Largest tensor of a band: 1 GiB in fp32, 2 Mpx of the real decoder's 128 channels. Smaller bands repeat more of the
halo."""


def stage_blocks(config: DCAEConfig, half: HalfConfig, stage: int, layouts: LayoutCache) -> list[nn.Module]:
    """The blocks of a stage, without resampling. Raises CheckpointError for an unknown block type."""
    width, kind, layers = half.widths[stage], half.block_types[stage], range(half.layers[stage])
    if kind == "ResBlock":
        return [ResBlock(width, half.acts[stage]) for _ in layers]
    if kind == "EfficientViTBlock":
        return [EfficientViTBlock(width, config.attention_head_dim, half.scales[stage], layouts) for _ in layers]
    raise CheckpointError(f"vae/config.json: block type must be ResBlock or EfficientViTBlock, got {kind!r}")


class DCAEEncoder(nn.Module):
    """Pixels [N, 3, H, W] in [-1, 1] to unscaled latents [N, 32, H/32, W/32]."""

    def __init__(self, config: DCAEConfig) -> None:
        super().__init__()
        self.layouts = LayoutCache()
        half = config.encoder
        shuffle = half.resample == "pixel_unshuffle"
        self.conv_in: nn.Module
        if half.layers[0] > 0:
            self.conv_in = nn.Conv2d(config.in_channels, half.widths[0], 3, padding=1)
        else:
            self.conv_in = DownBlock(config.in_channels, half.widths[1], shuffle, shortcut=False)
        self.down_blocks = nn.ModuleList()
        for stage, layers in enumerate(half.layers):
            blocks = stage_blocks(config, half, stage, self.layouts)
            if layers > 0 and stage < len(half.widths) - 1:
                blocks.append(DownBlock(half.widths[stage], half.widths[stage + 1], shuffle))
            self.down_blocks.append(nn.Sequential(*blocks))
        self.conv_out = nn.Conv2d(half.widths[-1], config.latent_channels, 3, padding=1)
        self.group = half.widths[-1] // config.latent_channels if half.shortcut else 0
        self.local_stages = local_stages(half)
        self.halo = encoder_halo_rows(half, self.local_stages)
        self.elements_per_pixel = max(half.widths[stage] / 4**stage for stage in range(self.local_stages))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.deep(self.shallow(pixels))

    def in_bands(self, pixels: torch.Tensor, band_elements: int = BAND_ELEMENTS) -> torch.Tensor:
        """The latents of `forward`, with the shallow stages computed in bands of rows.

        Args:
            band_elements: largest tensor of a band, in elements.
        """
        scale = 2**self.local_stages
        height = pixels.shape[2] // scale  # of the shallow stages' output
        row_elements = pixels.shape[0] * pixels.shape[3] * scale * self.elements_per_pixel
        step = max(1, int(band_elements // row_elements))
        bands = []
        for start in range(0, height, step):
            stop = min(start + step, height)
            top, bottom = max(0, start - self.halo), min(height, stop + self.halo)
            band = self.shallow(pixels[:, :, top * scale : bottom * scale])
            bands.append(band[:, :, start - top : stop - top])
        return self.deep(torch.cat(bands, dim=2))

    def shallow(self, pixels: torch.Tensor) -> torch.Tensor:
        """The outermost stages, which have only convolutions and per-pixel norms."""
        x = self.conv_in(pixels)
        for block in self.down_blocks[: self.local_stages]:
            x = block(x)
        return x

    def deep(self, x: torch.Tensor) -> torch.Tensor:
        """The stages with attention, whose output depends on the whole image, and the output convolution."""
        for block in self.down_blocks[self.local_stages :]:
            x = block(x)
        latents = self.conv_out(x)
        return latents + x.unflatten(1, (-1, self.group)).mean(2) if self.group else latents


class DCAEDecoder(nn.Module):
    """Unscaled latents [N, 32, h, w] to pixels [N, 3, 32h, 32w] in about [-1, 1]."""

    def __init__(self, config: DCAEConfig) -> None:
        super().__init__()
        self.layouts = LayoutCache()
        half = config.decoder
        interpolate = half.resample == "interpolate"
        self.compression = config.compression
        self.conv_in = nn.Conv2d(config.latent_channels, half.widths[-1], 3, padding=1)
        self.repeats = half.widths[-1] // config.latent_channels if half.shortcut else 0
        stages = []
        for stage, layers in enumerate(half.layers):
            blocks = stage_blocks(config, half, stage, self.layouts)
            if layers > 0 and stage < len(half.widths) - 1:
                blocks.insert(0, UpBlock(half.widths[stage + 1], half.widths[stage], interpolate))
            stages.append(nn.Sequential(*blocks))
        self.up_blocks = nn.ModuleList(stages)
        width = half.widths[0] if half.layers[0] > 0 else half.widths[1]
        self.norm_out = RMSNorm2d(width)
        self.act = checked_activation(half.final_act)
        self.conv_out: nn.Module
        if half.layers[0] > 0:
            self.conv_out = nn.Conv2d(width, config.in_channels, 3, padding=1)
        else:
            self.conv_out = UpBlock(width, config.in_channels, interpolate, shortcut=False)
        self.local_stages = local_stages(half)
        self.halo = halo_rows(half, self.local_stages)
        self.elements_per_pixel = max(half.widths[stage] / 4**stage for stage in range(self.local_stages))

    def freeze(self) -> None:
        """Prepares what depends on the weights alone. Call it once they are loaded."""
        for module in self.modules():
            if isinstance(module, UpBlock):
                module.freeze()

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.shallow(self.deep(latents))

    def bands(self, latents: torch.Tensor, band_elements: int = BAND_ELEMENTS) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yields the pixels of `forward` in bands of rows, as (rows, [N, 3, rows, W]). Peak memory is that of one band.

        Args:
            band_elements: largest tensor of a band, in elements.
        """
        deep = self.deep(latents)
        height = deep.shape[-2]
        scale = latents.shape[-2] * self.compression // height
        row_elements = deep.shape[0] * deep.shape[-1] * scale * scale * self.elements_per_pixel
        step = max(1, int(band_elements // row_elements))
        for start in range(0, height, step):
            stop = min(start + step, height)
            top, bottom = max(0, start - self.halo), min(height, stop + self.halo)
            pixels = self.shallow(deep[:, :, top:bottom])
            yield (
                slice(start * scale, stop * scale),
                pixels[:, :, (start - top) * scale : (stop - top) * scale],
            )

    def deep(self, latents: torch.Tensor) -> torch.Tensor:
        """conv_in and the stages with attention, whose output depends on the whole image."""
        x = self.conv_in(latents)
        if self.repeats:
            x = x + latents.repeat_interleave(self.repeats, dim=1)
        for block in reversed(self.up_blocks[self.local_stages :]):
            x = block(x)
        return x

    def shallow(self, x: torch.Tensor) -> torch.Tensor:
        """The outermost stages, which have only convolutions and per-pixel norms, and the output convolution."""
        for block in reversed(self.up_blocks[: self.local_stages]):
            x = block(x)
        return self.conv_out(self.norm_out(x, act=self.act))


def local_stages(half: HalfConfig) -> int:
    """Number of outermost stages that are local: those before the first with attention, at most all but the deepest."""
    for stage, kind in enumerate(half.block_types[:-1]):
        if kind != "ResBlock":
            return stage
    return len(half.block_types) - 1


def halo_rows(half: HalfConfig, stages: int) -> int:
    """Rows above, and as many below, of the shallow part's input that an output row depends on beyond its own."""
    rows = 0.0
    for stage in range(stages):
        scale = 2 ** (stages - stage)  # rows of this stage per row of the input
        if half.layers[stage] == 0:
            continue
        upsample = 1 / scale if half.resample == "interpolate" else 2 / scale
        rows += upsample + 2 * half.layers[stage] / scale
    # The output convolution works at full resolution, or one stage down where the outermost stage has no blocks.
    return math.ceil(rows + 2 / 2**stages)


def encoder_halo_rows(half: HalfConfig, stages: int) -> int:
    """Rows above, and as many below, of the encoder's shallow output whose pixels an output row depends on."""
    pixels = 1  # the input convolution, at full resolution even where it halves the image
    for stage in range(stages):
        if half.layers[stage]:
            pixels += 2**stage * (2 * half.layers[stage] + 1)  # two convolutions per block, one to halve the image
    return -(-pixels // 2**stages)
