"""Scenes encoded once: latents [N, h, w, 32] in fp16 beside the scenes they show; the encoder standardises them."""

from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch

from .autoencoder import Autoencoder, pixels
from .world import Scene, render, sample_scene


@dataclass(frozen=True)
class LatentSet:
    """One resolution of the cascade."""

    latents: torch.Tensor  # fp16 [N, h, w, 32]
    scenes: list[Scene]

    @property
    def size(self) -> int:
        return self.latents.shape[1]


@torch.no_grad()
def encode_scenes(model: Autoencoder, size: int, count: int, path: Path) -> LatentSet:
    """Draw `count` scenes of `size` px and encode them, or read them back: a scene's seed is its number."""
    scenes = [sample_scene(Random(size * 1_000_000 + i)) for i in range(count)]
    if path.exists():
        return LatentSet(torch.load(path, weights_only=True), scenes)
    parts = []
    for start in range(0, count, 32):
        images = pixels([render(scene, size, size) for scene in scenes[start : start + 32]])
        with torch.autocast("cpu", torch.bfloat16):
            latents = model.encoder(images.contiguous(memory_format=torch.channels_last))
        parts.append(latents.permute(0, 2, 3, 1).half())
    latents = torch.cat(parts).contiguous()
    torch.save(latents, path)
    return LatentSet(latents, scenes)


def with_pairs_twice(data: LatentSet) -> LatentSet:
    """Scenes of two different objects counted twice: which colour belongs to which shape is learnt last."""
    pairs = [i for i, scene in enumerate(data.scenes) if scene.relation]
    return LatentSet(torch.cat([data.latents, data.latents[pairs]]), data.scenes + [data.scenes[i] for i in pairs])
