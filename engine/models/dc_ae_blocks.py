"""Blocks of DC-AE on [N, C, H, W] tensors: residual convolutions, multi-scale linear attention, resampling.

Tensors are channels-last in memory, so that norms over channels and 1x1 products read contiguous vectors.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from kernels.activation import ACTIVATIONS
from kernels.conv_act import conv_act
from kernels.glu_conv import glu_conv
from kernels.layout import TokenLayout
from kernels.linear_attention import linear_attention
from kernels.rms_norm import rms_norm
from kernels.upsample_conv import phase_weights, shortcut, upsample_conv, upsample_conv_reference

from ..errors import CheckpointError
from .linear import PointwiseConv

FFN_BAND_ELEMENTS = 2**26
"""Largest hidden tensor of a Mix-FFN computed at once (256 MiB in fp32); a larger one is computed in bands of rows."""
MAX_LAYOUTS = 32
"""Layouts that one network keeps. A decode needs less than ten, bands included."""


class LayoutCache:
    """Token layouts of the image shapes seen last, shared by the blocks of one network.

    A layout copies its tables to the device when they are first read: with the cache that happens once per shape
    instead of once per block and image. A CUDA graph reads the tables at their address, so its owner has to keep the
    layouts that it used.
    """

    def __init__(self) -> None:
        self._layouts: dict[tuple[torch.Size, torch.device], TokenLayout] = {}

    @property
    def layouts(self) -> tuple[TokenLayout, ...]:
        return tuple(self._layouts.values())

    def layout_of(self, pixels: torch.Tensor) -> TokenLayout:
        """Layout of [N, H, W, C] as N packed images without text."""
        key = pixels.shape[:3], pixels.device
        layout = self._layouts.pop(key, None)
        if layout is None:
            n, height, width = key[0]
            layout = TokenLayout(((height, width),) * n, ((0, 1),) * n, pixels.device)
            if len(self._layouts) == MAX_LAYOUTS:
                del self._layouts[next(iter(self._layouts))]
        self._layouts[key] = layout  # a dict keeps its order: the least recently used is the first
        return layout

    def clear(self) -> None:
        self._layouts.clear()


def checked_activation(name: str) -> str:
    """`name`, if the kernels have this activation. Raises CheckpointError for any other."""
    if name not in ACTIVATIONS:
        raise CheckpointError(f"vae/config.json: activation must be {' or '.join(ACTIVATIONS)}, got {name!r}")
    return name


class RMSNorm2d(nn.Module):
    """RMSNorm over channels at every pixel, then an optional activation, plus an optional residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None, act: str | None = None) -> torch.Tensor:
        if residual is not None:
            residual = residual.movedim(1, -1)
        return rms_norm(x.movedim(1, -1), self.weight, self.bias, residual=residual, act=act).movedim(-1, 1)


class ResBlock(nn.Module):
    """3x3 convolution, activation, 3x3 convolution and RMSNorm, plus the input."""

    def __init__(self, width: int, act: str) -> None:
        super().__init__()
        self.act = checked_activation(act)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = RMSNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = conv_act(x, self.conv1.weight, self.conv1.bias, self.act)
        out = conv_act(hidden, self.conv2.weight, None, None) if self.conv2.weight.is_mkldnn else self.conv2(hidden)
        return self.norm(out, residual=x)


class DownBlock(nn.Module):
    """Halves the resolution; the shortcut averages the four pixels' channels in groups (DC-AE, section 3.2)."""

    def __init__(self, width: int, out: int, shuffle: bool, shortcut: bool = True) -> None:
        super().__init__()
        self.shuffle = shuffle
        self.group = width * 4 // out if shortcut else 0
        self.conv = nn.Conv2d(width, out // 4 if shuffle else out, 3, stride=1 if shuffle else 2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        down = F.pixel_unshuffle(self.conv(x), 2) if self.shuffle else self.conv(x)
        return down + F.pixel_unshuffle(x, 2).unflatten(1, (-1, self.group)).mean(2) if self.group else down


class UpBlock(nn.Module):
    """Doubles the resolution; the shortcut repeats channels into the four pixels."""

    def __init__(self, width: int, out: int, interpolate: bool, shortcut: bool = True) -> None:
        super().__init__()
        self.interpolate = interpolate
        self.repeats = out * 4 // width if shortcut else 0
        self.conv = nn.Conv2d(width, out if interpolate else out * 4, 3, padding=1)
        self.phases: torch.Tensor | Sequence[torch.Tensor] | None = None

    def freeze(self) -> None:
        """Folds the weights of an upsampling convolution into its four phases; they must not change afterwards."""
        if self.interpolate:
            self.phases = phase_weights(self.conv.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.phases is not None:
            return upsample_conv(x, self.phases, self.conv.bias, self.repeats)
        if self.interpolate:
            up = upsample_conv_reference(x, self.conv.weight, self.conv.bias)
        else:
            up = F.pixel_shuffle(self.conv(x), 2)
        return up + shortcut(x, self.repeats) if self.repeats else up


class MultiScaleProjection(nn.Module):
    """Depthwise k x k, then a 1x1 within each head, on the concatenated q, k, v."""

    def __init__(self, width: int, heads: int, kernel: int) -> None:
        super().__init__()
        self.proj_in = nn.Conv2d(3 * width, 3 * width, kernel, padding=kernel // 2, groups=3 * width, bias=False)
        self.proj_out = nn.Conv2d(3 * width, 3 * width, 1, groups=3 * heads, bias=False)

    def forward(self, qkv: torch.Tensor) -> torch.Tensor:
        return self.proj_out(self.proj_in(qkv))


class MultiScaleLinearAttention(nn.Module):
    """EfficientViT's ReLU linear attention over the whole image, with extra heads on k x k aggregated tokens."""

    def __init__(self, width: int, head_dim: int, scales: tuple[int, ...], layouts: LayoutCache) -> None:
        super().__init__()
        self.layouts = layouts
        heads = width // head_dim
        inner = heads * head_dim
        self.head_dim = head_dim
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_k = nn.Linear(width, inner, bias=False)
        self.to_v = nn.Linear(width, inner, bias=False)
        self.to_qkv_multiscale = nn.ModuleList(MultiScaleProjection(inner, heads, kernel) for kernel in scales)
        self.to_out = nn.Linear(inner * (1 + len(scales)), width, bias=False)
        self.norm_out = RMSNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pixels = x.movedim(1, -1)  # [N, H, W, C]
        qkv = torch.cat([self.to_q(pixels), self.to_k(pixels), self.to_v(pixels)], dim=-1).movedim(-1, 1)
        scales = [qkv, *(project(qkv) for project in self.to_qkv_multiscale)]
        attended = torch.cat([self.attend(scale) for scale in scales], dim=-1)  # [N, H, W, C * scales]
        return self.norm_out(self.to_out(attended).movedim(-1, 1), residual=x)

    def attend(self, qkv: torch.Tensor) -> torch.Tensor:
        """[N, 3C, H, W] to [N, H, W, C]. Channels are groups of 3 * head_dim: q, k and v of one head."""
        n, _, height, width = qkv.shape
        pixels = qkv.movedim(1, -1)
        q, k, v = pixels.reshape(n * height * width, -1, 3, self.head_dim).unbind(2)
        return linear_attention(q, k, v, self.layouts.layout_of(pixels)).reshape(n, height, width, -1)


class GLUMBConv(nn.Module):
    """Mix-FFN with RMSNorm and residual."""

    def __init__(self, width: int, layouts: LayoutCache) -> None:
        super().__init__()
        self.layouts = layouts
        hidden = 4 * width
        self.conv_inverted = PointwiseConv(width, 2 * hidden)
        self.conv_depth = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden)
        self.conv_point = PointwiseConv(hidden, width, bias=False)
        self.norm = RMSNorm2d(width)
        self.fused: Callable[[torch.Tensor, TokenLayout], torch.Tensor] | None = None  # set by `reorder`

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, width, height, columns = x.shape
        step = max(1, FFN_BAND_ELEMENTS // (n * 8 * width * columns))
        if step >= height:
            return self.whole(x)
        out = torch.empty_like(x)
        for start in range(0, height, step):
            stop, top = min(start + step, height), max(0, start - 1)
            band = self.whole(x[:, :, top : stop + 1])  # one row of halo for the 3x3
            out[:, :, start:stop] = band[:, :, start - top : stop - top]
        return out

    def whole(self, x: torch.Tensor) -> torch.Tensor:
        """`forward` without bands."""
        pixels = x.movedim(1, -1)  # [N, H, W, C]
        tokens, layout = pixels.flatten(0, 2), self.layouts.layout_of(pixels)
        if self.fused is not None:
            out = self.fused(tokens, layout)
        else:
            hidden = self.conv_inverted(tokens)
            out = self.conv_point(glu_conv(hidden, self.conv_depth.weight, self.conv_depth.bias, layout))
        return self.norm(out.view(pixels.shape).movedim(-1, 1), residual=x)


class EfficientViTBlock(nn.Module):
    """Multi-scale linear attention, then a Mix-FFN."""

    def __init__(self, width: int, head_dim: int, scales: tuple[int, ...], layouts: LayoutCache) -> None:
        super().__init__()
        self.attn = MultiScaleLinearAttention(width, head_dim, scales, layouts)
        self.conv_out = GLUMBConv(width, layouts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv_out(self.attn(x))
