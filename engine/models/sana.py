"""SANA's linear diffusion transformer on a packed token matrix (arXiv 2410.10629, 2501.18427, 2503.09641).

Every released family from its config alone; images of any sizes, times and texts in one call.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from kernels.cross_attention import cross_attention
from kernels.fp8_linear import QuantizedRows
from kernels.glu_conv import glu_conv
from kernels.layout import TokenLayout
from kernels.linear_attention import linear_attention
from kernels.modulate import add_modulate, gated_add, gated_add_modulate, modulate
from kernels.rms_norm import rms_norm

from ..errors import CheckpointError
from .embeddings import TimeEmbedding, position_embedding
from .linear import Linear, linear, pack

FLOAT16_MAX = 65504.0
HEAD_EPS = 1e-6
"""Of the norm before proj_out, which no config changes."""


@dataclass(frozen=True)
class SanaConfig:
    """transformer/config.json of a diffusers checkpoint, as far as it decides the arithmetic."""

    in_channels: int = 32
    num_attention_heads: int = 70
    attention_head_dim: int = 32
    num_layers: int = 20
    num_cross_attention_heads: int = 20
    cross_attention_head_dim: int = 112
    caption_channels: int = 2304
    mlp_ratio: float = 2.5
    attention_bias: bool = False
    norm_elementwise_affine: bool = False
    norm_eps: float = 1e-6
    sample_size: int = 32
    interpolation_scale: float | None = None
    guidance_embeds: bool = False
    guidance_embeds_scale: float = 0.1
    qk_norm: str | None = None
    timestep_scale: float = 1.0
    clamp_attention: bool = False
    """Trained in fp16 with self-attention output clamped to +-65504; kept in every dtype. Not in config.json."""

    @classmethod
    def from_dict(cls, config: dict[str, Any], clamp_attention: bool = False) -> "SanaConfig":
        """Raises CheckpointError for a transformer this engine would compute wrongly."""
        fields = {name: config[name] for name in cls.__dataclass_fields__ if name in config}
        known = cls(**(fields | {"clamp_attention": clamp_attention}))
        wanted = {
            "patch_size": (1,),
            "out_channels": (known.in_channels, None),
            "cross_attention_dim": (known.width,),
            "qk_norm": ("rms_norm_across_heads", None),
        }
        for name, allowed in wanted.items():
            if config.get(name, allowed[0]) not in allowed:
                raise CheckpointError(
                    f"transformer/config.json: {name} = {config[name]!r} is not a released SANA; this server reads "
                    f"{' or '.join(map(repr, allowed))}"
                )
        return known

    @property
    def width(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    @property
    def cross_width(self) -> int:
        return self.num_cross_attention_heads * self.cross_attention_head_dim


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


class PointwiseConv(nn.Conv2d):
    """A 1x1 convolution of the checkpoint, that is a matrix product on token rows [T, C]."""

    def __init__(self, width: int, out: int, bias: bool = True) -> None:
        super().__init__(width, out, 1, bias=bias)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return linear(tokens, self.weight.flatten(1), self.bias)


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


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, self.weight, eps=self.eps)


class Attention(nn.Module):
    """The projections of self- or cross-attention, around an op of `kernels`."""

    def __init__(self, config: SanaConfig, heads: int, head_dim: int, bias: bool) -> None:
        super().__init__()
        inner = heads * head_dim
        self.heads = heads
        self.to_q = Linear(config.width, inner, bias=bias)
        self.to_k = Linear(config.width, inner, bias=bias)
        self.to_v = Linear(config.width, inner, bias=bias)
        self.register_module("to_qkv", None)  # until `pack`
        self.to_out = nn.ModuleList([Linear(inner, config.width)])
        self.norm_q = RMSNorm(inner) if config.qk_norm else nn.Identity()
        self.norm_k = RMSNorm(inner) if config.qk_norm else nn.Identity()

    @property
    def norm_weights(self) -> tuple[torch.Tensor, torch.Tensor] | tuple[()]:
        """Of queries and keys; none without norms."""
        if isinstance(self.norm_q, RMSNorm) and isinstance(self.norm_k, RMSNorm):
            return self.norm_q.weight, self.norm_k.weight
        return ()

    def self_attention(self, x: torch.Tensor | QuantizedRows, layout: TokenLayout) -> torch.Tensor:
        if self.to_qkv is None:
            q, k, v = (project(x).unflatten(-1, (self.heads, -1)) for project in (self.to_q, self.to_k, self.to_v))
        else:
            q, k, v = self.to_qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(1)
        return self.output(linear_attention(q, k, v, layout, *self.norm_weights))

    def pack(self) -> None:
        """From now on one product makes q, k and v of self-attention: x is read once."""
        self.to_qkv = pack((self.to_q, self.to_k, self.to_v))

    def cross_attention(
        self, x: torch.Tensor, layout: TokenLayout, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The output for the rows of x, [layout.attended, width], and what the first text row of each image gives.

        That is all for images with one text row (an empty negative prompt): softmax over one key is 1.
        """
        attended = self.output(cross_attention(self.queries(x), keys, values, layout))
        if not layout.single_text_images:
            return attended, None
        return attended, self.output(values.index_select(0, layout.tables.texts[:, 0]))  # [N, width]

    def queries(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm_q(self.to_q(x)).unflatten(-1, (self.heads, -1))  # [T, heads, D]

    def keys(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm_k(self.to_k(x)).unflatten(-1, (self.heads, -1))

    def values(self, x: torch.Tensor) -> torch.Tensor:
        return self.to_v(x).unflatten(-1, (self.heads, -1))

    def output(self, x: torch.Tensor) -> torch.Tensor:
        return self.to_out[0](x.flatten(-2))


class GLUMBConv(nn.Module):
    """Mix-FFN: 1x1, SiLU, depthwise 3x3 with GLU, 1x1."""

    def __init__(self, config: SanaConfig) -> None:
        super().__init__()
        hidden = int(config.mlp_ratio * config.width)
        self.conv_inverted = PointwiseConv(config.width, 2 * hidden)
        self.conv_depth = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden)
        self.conv_point = PointwiseConv(hidden, config.width, bias=False)

    def forward(self, x: torch.Tensor | QuantizedRows, layout: TokenLayout) -> torch.Tensor:
        return self.conv_point(glu_conv(self.conv_inverted(x), self.conv_depth.weight, self.conv_depth.bias, layout))


class SanaBlock(nn.Module):
    def __init__(self, config: SanaConfig) -> None:
        super().__init__()
        self.fp8 = False  # the products behind the norms take their rows quantized
        self.eps, self.limit = config.norm_eps, FLOAT16_MAX if config.clamp_attention else None
        self.attn1 = Attention(config, config.num_attention_heads, config.attention_head_dim, config.attention_bias)
        self.attn2 = Attention(config, config.num_cross_attention_heads, config.cross_attention_head_dim, bias=True)
        self.norm2 = nn.LayerNorm(config.width, config.norm_eps, elementwise_affine=config.norm_elementwise_affine)
        self.ff = GLUMBConv(config)
        self.scale_shift_table = nn.Parameter(torch.randn(6, config.width) / config.width**0.5)

    def forward(
        self,
        x: torch.Tensor,
        hidden: torch.Tensor | QuantizedRows,
        layout: TokenLayout,
        modulation: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The block up to its last residual, which the next norm takes along.

        Args:
            x, hidden: [T, width], the second normed and modulated.
            modulation: [N, 6, width] of this layer.
            keys, values: [S, heads, D] of this layer.

        Returns:
            x, gate [N, width] and branch [T, width]: the block's output is x + gate * branch.
        """
        _, _, gate1, shift2, scale2, gate2 = modulation.unbind(1)
        x = gated_add(x, gate1, self.attn1.self_attention(hidden, layout), layout, self.limit)
        if self.norm2.elementwise_affine:  # (normed * weight + bias) * (1 + scale) + shift, as one scale and shift
            shift2 = torch.addcmul(shift2, self.norm2.bias, 1 + scale2)
            scale2 = self.norm2.weight * (1 + scale2) - 1
        crossed = self.attn2.cross_attention(x[: layout.attended], layout, keys, values)
        x, hidden = add_modulate(x, *crossed, shift2, scale2, layout, self.eps, self.fp8)
        return x, gate2, self.ff(hidden, layout)


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
