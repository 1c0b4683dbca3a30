"""Sinusoids: the time (and Sprint's guidance) embedding, and the position embedding of the 2K and 4K checkpoints."""

import math

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

    Parameter names follow the checkpoints: `emb.timestep_embedder` without embedded guidance, `timestep_embedder` and
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
        """Times (and guidance) [N] to modulation [N, 6, width] and the embedding itself [N, width]."""
        if guidance is None:
            embedded = self.emb["timestep_embedder"](timesteps, dtype)
        else:
            embedded = self.timestep_embedder(timesteps, dtype) + self.guidance_embedder(guidance, dtype)
        return self.linear(nn.functional.silu(embedded)).unflatten(-1, (6, -1)), embedded


def position_embedding(
    size: tuple[int, int], width: int, base_size: int, scale: float, device: torch.device
) -> torch.Tensor:
    """2-D sin-cos over grid / (grid / base_size) / scale; columns fill the first half. fp32 [H * W, width].

    Only one row and one column of the grid are computed, in fp64; the result, 147 MB for 4096 x 4096 px at width 2240,
    repeats them. That is cheap enough to need no cache.
    """
    omega = 1.0 / 10000 ** (torch.arange(width // 4, dtype=torch.float64, device=device) / (width / 4))

    def encode(n: int) -> torch.Tensor:
        positions = torch.arange(n, dtype=torch.float32, device=device) / (n / base_size) / scale
        angles = torch.outer(positions.double(), omega)
        return torch.cat([angles.sin(), angles.cos()], dim=1).float()  # [n, width / 2]

    rows, columns = (encode(n) for n in size)
    grid = (columns.expand(size[0], -1, -1), rows[:, None].expand(-1, size[1], -1))  # each [H, W, width / 2]
    return torch.cat(grid, dim=2).flatten(0, 1)
