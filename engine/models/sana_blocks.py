"""The blocks of SANA's transformer: linear self-attention, cross-attention, Mix-FFN (arXiv 2410.10629, section 2.2)."""

from collections.abc import Callable

import torch
from torch import nn

from kernels.cross_attention import cross_attention
from kernels.fp8_linear import QuantizedRows
from kernels.glu_conv import glu_conv
from kernels.layout import TokenLayout
from kernels.linear_attention import linear_attention
from kernels.modulate import add_modulate, gated_add
from kernels.rms_norm import rms_norm

from .configs import SanaConfig
from .linear import Linear, PointwiseConv, pack

FLOAT16_MAX = 65504.0


class RMSNorm(nn.Module):
    """RMSNorm over the last dimension."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, self.weight, eps=self.eps)


class Attention(nn.Module):
    """Projections of self- or cross-attention; the attention itself is an op of `kernels`."""

    def __init__(self, config: SanaConfig, heads: int, head_dim: int, bias: bool) -> None:
        super().__init__()
        inner = heads * head_dim
        self.heads = heads
        self.to_q = Linear(config.width, inner, bias=bias)
        self.to_k = Linear(config.width, inner, bias=bias)
        self.to_v = Linear(config.width, inner, bias=bias)
        self.register_module("to_qkv", None)  # set by `pack`
        self.to_out = nn.ModuleList([Linear(inner, config.width)])
        self.norm_q = RMSNorm(inner) if config.qk_norm else nn.Identity()
        self.norm_k = RMSNorm(inner) if config.qk_norm else nn.Identity()

    @property
    def norm_weights(self) -> tuple[torch.Tensor, torch.Tensor] | tuple[()]:
        """Norm weights of queries and keys; empty if the checkpoint has no such norms."""
        if isinstance(self.norm_q, RMSNorm) and isinstance(self.norm_k, RMSNorm):
            return self.norm_q.weight, self.norm_k.weight
        return ()

    def self_attention(self, x: torch.Tensor | QuantizedRows, layout: TokenLayout) -> torch.Tensor:
        """x: [T, width], as the output."""
        if self.to_qkv is None:
            q, k, v = (project(x).unflatten(-1, (self.heads, -1)) for project in (self.to_q, self.to_k, self.to_v))
        else:
            q, k, v = self.to_qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(1)
        return self.output(linear_attention(q, k, v, layout, *self.norm_weights))

    def pack(self) -> None:
        """Merges the projections of self-attention: one product makes q, k and v, and reads x once."""
        self.to_qkv = pack((self.to_q, self.to_k, self.to_v))

    def cross_attention(
        self, x: torch.Tensor | QuantizedRows, layout: TokenLayout, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """x: [layout.attended, width], as the output."""
        queries = self.to_q(x).unflatten(-1, (self.heads, -1))
        return self.output(cross_attention(queries, keys, values, layout, *self.norm_weights[:1]))

    def keys(self, x: torch.Tensor) -> torch.Tensor:
        """Text [S, width] to [S, heads, D]."""
        return self.norm_k(self.to_k(x)).unflatten(-1, (self.heads, -1))

    def values(self, x: torch.Tensor) -> torch.Tensor:
        """Text [S, width] to [S, heads, D]."""
        return self.to_v(x).unflatten(-1, (self.heads, -1))

    def output(self, x: torch.Tensor) -> torch.Tensor:
        """Heads [..., heads, D] to [..., width]."""
        return self.to_out[0](x.flatten(-2))


class GLUMBConv(nn.Module):
    """Mix-FFN: 1x1 convolution, SiLU, depthwise 3x3 convolution with GLU, 1x1 convolution."""

    def __init__(self, config: SanaConfig) -> None:
        super().__init__()
        hidden = int(config.mlp_ratio * config.width)
        self.conv_inverted = PointwiseConv(config.width, 2 * hidden)
        self.conv_depth = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden)
        self.conv_point = PointwiseConv(hidden, config.width, bias=False)
        self.fused: Callable[[torch.Tensor, TokenLayout], torch.Tensor] | None = None  # set by `reorder`

    def forward(self, x: torch.Tensor | QuantizedRows, layout: TokenLayout) -> torch.Tensor:
        if self.fused is not None and isinstance(x, torch.Tensor):
            return self.fused(x, layout)
        return self.conv_point(glu_conv(self.conv_inverted(x), self.conv_depth.weight, self.conv_depth.bias, layout))


class SanaBlock(nn.Module):
    """Self-attention, cross-attention and Mix-FFN, with AdaLN-single modulation."""

    def __init__(self, config: SanaConfig) -> None:
        super().__init__()
        self.fp8 = False  # whether the products after the norms take quantized input
        self.eps, self.limit = config.norm_eps, FLOAT16_MAX if config.clamp_attention else None
        self.attn1 = Attention(config, config.num_attention_heads, config.attention_head_dim, config.attention_bias)
        self.attn2 = Attention(config, config.num_cross_attention_heads, config.cross_attention_head_dim, bias=True)
        self.norm2 = nn.LayerNorm(config.width, config.norm_eps, elementwise_affine=config.norm_elementwise_affine)
        self.ff = GLUMBConv(config)
        self.scale_shift_table = nn.Parameter(torch.zeros(6, config.width))

    def forward(
        self,
        x: torch.Tensor,
        hidden: torch.Tensor | QuantizedRows,
        layout: TokenLayout,
        modulation: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        constants: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The block without its last residual, which is added by the op of the next norm.

        Args:
            x, hidden: [T, width]; the second is x after this block's first modulated norm.
            modulation: [N, 6, width] of this layer.
            keys, values: text of this layer, [S, heads, D].
            constants: output of cross-attention for each image with one text token, [N, width]. Their tokens are those
                after the first `layout.attended`.

        Returns:
            x, gate [N, width] and branch [T, width]: the block's output is x + gate * branch.
        """
        _, _, gate1, shift2, scale2, gate2 = modulation.unbind(1)
        attended = self.attn1.self_attention(hidden, layout)
        x, queries = gated_add(x, gate1, attended, layout, self.limit, self.fp8)
        if self.norm2.elementwise_affine:  # (normed * weight + bias) * (1 + scale) + shift, as one scale and shift
            shift2 = torch.addcmul(shift2, self.norm2.bias, 1 + scale2)
            scale2 = self.norm2.weight * (1 + scale2) - 1
        crossed = self.attn2.cross_attention(queries, layout, keys, values)
        x, hidden = add_modulate(x, crossed, constants, shift2, scale2, layout, self.eps, self.fp8)
        return x, gate2, self.ff(hidden, layout)
