"""SANA's linear diffusion transformer on a packed token matrix (arXiv 2410.10629, 2501.18427, 2503.09641).

Every released family from its config alone; images of any sizes, times and texts in one call.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import cast

import torch
from torch import nn

from kernels.layout import TokenLayout, upload
from kernels.modulate import gated_add_modulate, modulate

from .configs import SanaConfig
from .embeddings import TimeEmbedding, position_embedding
from .linear import Linear, PointwiseConv
from .sana_blocks import RMSNorm, SanaBlock

HEAD_EPS = 1e-6
"""Of the norm before proj_out, which no config changes."""


@dataclass(frozen=True)
class PackedText:
    """What every layer's cross-attention needs of packed texts: it does not change between steps.

    Args:
        keys, values: of all text rows, [layers, S, heads, D].
        first: its output for an image whose text has one row, the first: softmax over one key is 1. [layers, texts,
            width].
    """

    keys: torch.Tensor
    values: torch.Tensor
    first: torch.Tensor

    @property
    def length(self) -> int:
        return self.keys.shape[1]

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes + self.first.nbytes

    @staticmethod
    def cat(texts: "list[PackedText]") -> "PackedText":
        if len(texts) == 1:
            return texts[0]
        parts = zip(*((text.keys, text.values, text.first) for text in texts), strict=True)
        return PackedText(*(torch.cat(part, 1) for part in parts))


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

    def project_text(self, *texts: torch.Tensor) -> PackedText:
        """Embeddings of texts, [length, caption_channels] each, to what all layers need of them: once per prompt."""
        x = self.caption_norm(self.caption_projection(torch.cat(texts)))
        starts = upload(torch.tensor(list(accumulate(map(len, texts[:-1]), initial=0))), x.device)
        attentions = [block.attn2 for block in self.blocks]
        keys, values = [a.keys(x) for a in attentions], [a.values(x) for a in attentions]
        first = [a.output(value.index_select(0, starts)) for a, value in zip(attentions, values, strict=True)]
        return PackedText(torch.stack(keys), torch.stack(values), torch.stack(first))

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
        constants: Sequence[torch.Tensor | None] = [None] * len(layers)
        if layout.single_text_images:
            constants = text.first.index_select(1, layout.tables.text_index).unbind()  # [N, width] each
        hidden = modulate(x, *norms[0])
        for block, layer, norm, *crossed in zip(
            self.blocks, layers, norms[1:], text.keys.unbind(), text.values.unbind(), constants, strict=True
        ):
            x, gate, branch = block(x, hidden, layout, layer, *crossed)
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
