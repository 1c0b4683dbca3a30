"""Sinusoids: the time (and Sprint's guidance) embedding, and the position embedding of the 2K and 4K checkpoints."""

import math
from functools import lru_cache

import torch
from torch import nn

from .linear import Linear

SINUSOIDS = 256


def sinusoids(values: torch.Tensor, max_period: float = 10000.0) -> torch.Tensor:
    """[N] to fp32 [N, 256], cosines first."""
    half = SINUSOIDS // 2
    frequencies = torch.exp(
        -math.log(max_period) * torch.arange(half, dtype=torch.float32, device=values.device) / half
    )
    angles = values[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class Embedder(nn.Module):
    """Linear, SiLU, Linear on sinusoids."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = Linear(SINUSOIDS, width)
        self.linear_2 = Linear(width, width)

    def forward(self, values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return self.linear_2(nn.functional.silu(self.linear_1(sinusoids(values).to(dtype))))


class TimeEmbedding(nn.Module):
    """AdaLN-single: one embedding of time (plus guidance for Sprint), one projection to the six modulation vectors.

    The two checkpoint layouts differ: `emb.timestep_embedder` without guidance, `timestep_embedder` and
    `guidance_embedder` with it.
    """

    def __init__(self, width: int, guidance: bool) -> None:
        super().__init__()
        if guidance:
            self.timestep_embedder = Embedder(width)
            self.guidance_embedder = Embedder(width)
        else:
            self.emb = nn.ModuleDict({"timestep_embedder": Embedder(width)})
        self.linear = Linear(width, 6 * width)

    def forward(
        self, timesteps: torch.Tensor, guidance: torch.Tensor | None, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """[N] to modulation [N, 6, width] and the embedding itself [N, width]."""
        if guidance is None:
            embedded = self.emb["timestep_embedder"](timesteps, dtype)
        else:
            embedded = self.timestep_embedder(timesteps, dtype) + self.guidance_embedder(guidance, dtype)
        return self.linear(nn.functional.silu(embedded)).unflatten(-1, (6, -1)), embedded


@lru_cache(maxsize=8)  # 147 MB for 4096 x 4096 at width 2240
def position_embedding(
    size: tuple[int, int], width: int, base_size: int, scale: float, device: torch.device
) -> torch.Tensor:
    """2-D sin-cos over grid / (grid / base_size) / scale; columns fill the first half. fp32 [H * W, width]."""
    rows, columns = (torch.arange(n, dtype=torch.float32, device=device) / (n / base_size) / scale for n in size)
    omega = 1.0 / 10000 ** (torch.arange(width // 4, dtype=torch.float64, device=device) / (width / 4))

    def encode(positions: torch.Tensor) -> torch.Tensor:
        angles = torch.outer(positions.double(), omega)
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    grid_columns, grid_rows = torch.meshgrid(columns, rows, indexing="xy")  # each [H, W]
    return torch.cat([encode(grid_columns.flatten()), encode(grid_rows.flatten())], dim=1).float()
