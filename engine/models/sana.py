"""SANA's linear diffusion transformer on a packed token matrix (arXiv 2410.10629, 2501.18427, 2503.09641).

One class covers every released family, by its config; a call takes images of any sizes, times and texts.
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
"""Epsilon of the norm before proj_out, which no config changes."""


@dataclass(frozen=True)
class PackedText:
    """Texts as every layer's cross-attention reads them, projected once per prompt: no step changes them.

    Args:
        keys, values: [layers, S, heads, D], all texts end to end.
        first: [layers, texts, width], output of cross-attention to the first token of each text alone, which is its
            output for any query of an image whose text has one token: softmax over one key is 1.
    """

    keys: torch.Tensor
    values: torch.Tensor
    first: torch.Tensor

    @property
    def length(self) -> int:
        """Text tokens, S."""
        return self.keys.shape[1]

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes + self.first.nbytes

    @staticmethod
    def cat(texts: "list[PackedText]") -> "PackedText":
        """The texts end to end."""
        if len(texts) == 1:
            return texts[0]
        parts = zip(*((text.keys, text.values, text.first) for text in texts), strict=True)
        return PackedText(*(torch.cat(part, 1) for part in parts))


class PatchEmbed(nn.Module):
    """Latent tokens to the width of the transformer; patches are 1 x 1."""

    def __init__(self, config: SanaConfig) -> None:
        super().__init__()
        self.proj = PointwiseConv(config.in_channels, config.width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.proj(tokens)


class CaptionProjection(nn.Module):
    """Text embeddings to the width of the transformer."""

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
        self.scale_shift_table = nn.Parameter(torch.zeros(2, width))
        self.proj_out = Linear(width, config.in_channels)

    @property
    def blocks(self) -> list[SanaBlock]:
        return cast(list[SanaBlock], self.transformer_blocks)

    def pack(self) -> None:
        """Merges the q, k and v projections of self-attention. Call it once the weights are loaded."""
        for block in self.blocks:
            block.attn1.pack()

    def project_text(self, *texts: torch.Tensor) -> PackedText:
        """Embeddings of texts, [length, caption_channels] each, projected for all layers."""
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
        """Predicts the network's output for N packed images, [T, in_channels].

        Args:
            tokens: [T, in_channels].
            timesteps: [N].
            text: text of all images.
            guidance: scale to embed, [N], for Sprint only.
            positions: result of `positions`, if the caller has kept it from an earlier step.
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
        if layout.single_text_images:  # their cross-attention does not depend on the image
            constants = text.first.index_select(1, layout.tables.text_index).unbind()  # [N, width] each
        # A block ends before its last residual: adding it is fused with the modulated norm that follows, of the next
        # block or of the output, so that x is read and written once.
        hidden = modulate(x, *norms[0])
        for block, layer, next_norm, keys, values, constant in zip(
            self.blocks, layers, norms[1:], text.keys.unbind(), text.values.unbind(), constants, strict=True
        ):
            x, gate, branch = block(x, hidden, layout, layer, keys, values, constant)
            x, hidden = gated_add_modulate(x, gate, branch, *next_norm)
        return self.proj_out(hidden)

    def positions(self, layout: TokenLayout) -> torch.Tensor:
        """Sin-cos position embedding of the 2K and 4K checkpoints, fp32 [T, width]."""
        config, scale = self.config, self.config.interpolation_scale
        assert scale is not None
        by_size = {
            size: position_embedding(size, config.width, config.sample_size, scale, layout.device)
            for size in set(layout.sizes)
        }
        return torch.cat([by_size[size] for size in layout.sizes])
