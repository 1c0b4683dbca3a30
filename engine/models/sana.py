"""SANA's linear diffusion transformer on a packed token matrix (arXiv 2410.10629, 2501.18427, 2503.09641).

Every released family from its config alone; images of any sizes, times and texts in one call.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from kernels.layout import TokenLayout
from kernels.modulate import gated_add_modulate, modulate

from .embeddings import TimeEmbedding, position_embedding
from .linear import Linear
from .sana_blocks import PointwiseConv, RMSNorm, SanaBlock
from .sana_config import SanaConfig

HEAD_EPS = 1e-6
"""Of the norm before proj_out, which no config changes."""


@dataclass(frozen=True)
class PackedText:
    """Keys and values of every layer's cross-attention for packed text rows: they do not change between steps."""

    keys: torch.Tensor  # [layers, S, heads, D]
    values: torch.Tensor  # [layers, S, heads, D]

    @property
    def length(self) -> int:
        return self.keys.shape[1]

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    @staticmethod
    def cat(texts: "list[PackedText]") -> "PackedText":
        if len(texts) == 1:
            return texts[0]
        return PackedText(torch.cat([t.keys for t in texts], 1), torch.cat([t.values for t in texts], 1))


class PatchEmbed(nn.Module):
    def __init__(self, config: SanaConfig) -> None:
        super().__init__()
        self.proj = PointwiseConv(config.in_channels, config.width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.proj(tokens)


class CaptionProjection(nn.Module):
    def __init__(self, config: SanaConfig) -> None:
        super().__init__()
        self.linear_1 = Linear(config.caption_channels, config.width)
        self.linear_2 = Linear(config.width, config.width)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        return self.linear_2(nn.functional.gelu(self.linear_1(embeddings), approximate="tanh"))


class SanaTransformer(nn.Module):
    """Predicts velocity (flow checkpoints) or the TrigFlow output (Sprint) for packed latents."""

    def __init__(self, config: SanaConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.patch_embed = PatchEmbed(config)
        self.time_embed = TimeEmbedding(width, config.guidance_embeds)
        self.caption_projection = CaptionProjection(config)
        self.caption_norm = RMSNorm(width)
        self.transformer_blocks = nn.ModuleList(SanaBlock(config) for _ in range(config.num_layers))
        self.scale_shift_table = nn.Parameter(torch.randn(2, width) / width**0.5)
        self.proj_out = Linear(width, config.in_channels)

    @property
    def blocks(self) -> list[SanaBlock]:
        return cast(list[SanaBlock], self.transformer_blocks)

    def pack(self) -> None:
        """For a GPU, once the weights are there; on the CPU they may be views of the checkpoint's files."""
        for block in self.blocks:
            block.attn1.pack()

    def project_text(self, embeddings: torch.Tensor) -> PackedText:
        """Text embeddings [S, caption_channels] to the keys and values of all layers: once per prompt."""
        x = self.caption_norm(self.caption_projection(embeddings))
        attentions = [block.attn2 for block in self.blocks]
        return PackedText(torch.stack([a.keys(x) for a in attentions]), torch.stack([a.values(x) for a in attentions]))

    def forward(
        self,
        tokens: torch.Tensor,
        layout: TokenLayout,
        timesteps: torch.Tensor,
        text: PackedText,
        guidance: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """tokens: [T, in_channels]; timesteps, guidance: [N] (guidance for Sprint only). Returns [T, in_channels].

        positions: as of `positions`, for those who keep it from step to step.
        """
        x = self.patch_embed(tokens)
        if self.config.interpolation_scale is not None:
            x = (x + (self.positions(layout) if positions is None else positions)).to(x.dtype)
        modulation, embedded = self.time_embed(timesteps, guidance, x.dtype)
        tables = torch.stack([block.scale_shift_table for block in self.blocks])
        layers = (tables[:, None] + modulation).unbind()  # [N, 6, width] each
        norms = [
            (*layer[:, :2].unbind(1), layout, block.eps, block.fp8)
            for block, layer in zip(self.blocks, layers, strict=True)
        ]
        norms.append((*(self.scale_shift_table + embedded[:, None]).unbind(1), layout, HEAD_EPS, False))
        hidden = modulate(x, *norms[0])
        for block, layer, norm, keys, values in zip(
            self.blocks, layers, norms[1:], text.keys.unbind(), text.values.unbind(), strict=True
        ):
            x, gate, branch = block(x, hidden, layout, layer, keys, values)
            x, hidden = gated_add_modulate(x, gate, branch, *norm)
        return self.proj_out(hidden)

    def positions(self, layout: TokenLayout) -> torch.Tensor:
        """Sin-cos position embedding of the 2K and 4K checkpoints, fp32 [T, width]."""
        config = self.config
        return torch.cat(
            [
                position_embedding(size, config.width, config.sample_size, config.interpolation_scale, layout.device)
                for size in layout.sizes
            ]
        )
