"""Scenes encoded once: standardized latents [N, h, w, 32] in fp16 with the scenes that they show."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random

import numpy as np
import torch

from .autoencoder import Autoencoder, pixels
from .cells import scene_cells
from .precision import autocast
from .render import render
from .world import Scene, sample_scene


@dataclass(frozen=True)
class LatentSet:
    """Latents and scenes of one size of the cascade."""

    latents: torch.Tensor  # fp16 [N, h, w, 32]
    scenes: list[Scene]

    @cached_property
    def cells(self) -> torch.Tensor:
        """Maps of the scenes, int64 [N, h * w, 3]."""
        height, width = self.latents.shape[1:3]
        return torch.from_numpy(np.stack([scene_cells(scene, height, width) for scene in self.scenes])).flatten(1, 2)


@torch.no_grad()
def encode_scenes(model: Autoencoder, height: int, width: int, count: int, work: Path) -> LatentSet:
    """Encodes `count` scenes of height x width px, or loads their latents; the seed of a scene is its index."""
    first_seed = (height * 1000 + width) * 1_000_000
    scenes = [sample_scene(Random(first_seed + i)) for i in range(count)]
    path = work / f"latents{height}x{width}.pt"
    if path.exists():
        return LatentSet(torch.load(path, weights_only=True), scenes)
    device, parts = model.device, []
    for start in range(0, count, 32):
        images = pixels([render(scene, height, width) for scene in scenes[start : start + 32]]).to(device)
        with autocast(device):
            latents = model.encoder(images.contiguous(memory_format=torch.channels_last))
        parts.append(latents.permute(0, 2, 3, 1).half().cpu())
    latents = torch.cat(parts).contiguous()
    torch.save(latents, path)
    return LatentSet(latents, scenes)
