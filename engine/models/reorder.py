"""Weights in oneDNN's own layout, for networks that run on the CPU: products and convolutions then take each weight as
it is, with bias and activation in the same pass. Call it once the weights are loaded: the original ones are gone."""

import torch
from torch import nn

from kernels.layout import TokenLayout
from kernels.onednn import (
    bfloat16_instructions,
    conv2d_act,
    depthwise_product,
    linear_act,
    reorder_conv,
    reorder_linear,
)

from . import dc_ae_blocks, sana_blocks
from .dc_ae import DCAEDecoder, DCAEEncoder
from .linear import Linear
from .sana import SanaTransformer


class FusedGLU:
    """Mix-FFN in five calls: two halves of the first product with SiLU, two of the convolution, the last product.

    The second half of the convolution applies SiLU, the first multiplies by it.
    """

    def __init__(self, ff: sana_blocks.GLUMBConv | dc_ae_blocks.GLUMBConv) -> None:
        def halves(x: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
            assert x is not None
            a, gate = (half.detach().clone() for half in x.chunk(2))
            return a, gate

        self.products = tuple(map(reorder_linear, halves(ff.conv_inverted.weight.flatten(1))))
        self.biases = halves(ff.conv_inverted.bias)
        self.taps, self.tap_biases = halves(ff.conv_depth.weight), halves(ff.conv_depth.bias)
        self.last = reorder_linear(ff.conv_point.weight.flatten(1))
        for conv in (ff.conv_inverted, ff.conv_depth, ff.conv_point):
            conv.weight = conv.bias = None  # type: ignore[assignment]

    def __call__(self, x: torch.Tensor, layout: TokenLayout) -> torch.Tensor:
        """x: [T, width], as the output."""
        a, gate = (linear_act(x, *half, act="silu") for half in zip(self.products, self.biases, strict=True))
        gated = torch.empty_like(a)
        for run in layout.runs:
            # Views, not copies: the tokens of an image are its pixels in channels-last order.
            shape = (run.count, run.height, run.width, a.shape[1])
            images = (half[run.tokens].view(shape).permute(0, 3, 1, 2) for half in (a, gate))
            image, gate_image = images
            factor = conv2d_act(gate_image, self.taps[1], self.tap_biases[1], 1, "silu", groups=a.shape[1])
            product = depthwise_product(image, self.taps[0], self.tap_biases[0], factor)
            gated[run.tokens] = product.permute(0, 2, 3, 1).flatten(0, 2)
        return linear_act(gated, self.last, None)


def reorder_transformer(transformer: SanaTransformer) -> None:
    """Reorders the weights of all blocks. Worth it in bfloat16 only: in fp32 MKL multiplies as fast or faster."""
    for block in transformer.blocks:
        block.ff.fused = FusedGLU(block.ff)
        for attention in (block.attn1, block.attn2):
            if attention.to_qkv is not None:
                for part in (attention.to_q, attention.to_k, attention.to_v):
                    part.weight = None  # type: ignore[assignment]  # a view of to_qkv's
            for layer in attention.modules():
                if isinstance(layer, Linear) and layer.weight is not None:
                    layer.weight = nn.Parameter(reorder_linear(layer.weight.detach()), requires_grad=False)


def reorder_autoencoder(half: DCAEDecoder | DCAEEncoder) -> None:
    """Reorders the weights of the blocks' 3x3 and upsampling convolutions and of Mix-FFN. Call it after `freeze`."""
    for module in half.modules():
        if isinstance(module, dc_ae_blocks.ResBlock):
            for conv in (module.conv1, module.conv2):
                conv.weight = nn.Parameter(reorder_conv(conv.weight.detach(), padding=1), requires_grad=False)
        elif isinstance(module, dc_ae_blocks.UpBlock) and module.phases is not None:
            module.phases = [reorder_conv(phase, padding=1) for phase in module.phases]
            module.conv.weight = None  # type: ignore[assignment]
        elif isinstance(module, dc_ae_blocks.GLUMBConv):
            module.fused = FusedGLU(module)


def reorder_for_cpu(transformer: SanaTransformer, decoder: DCAEDecoder) -> None:
    """Reorders the weights of the networks where that makes them faster on this CPU."""
    if reorders_autoencoder(decoder.conv_in.weight.dtype):
        reorder_autoencoder(decoder)
    if transformer.proj_out.weight.dtype == torch.bfloat16 and reorders_autoencoder(torch.bfloat16):
        reorder_transformer(transformer)


def reorders_autoencoder(dtype: torch.dtype) -> bool:
    """Whether reordered weights make the autoencoder faster on this CPU.

    oneDNN computes in bfloat16 only where the CPU does; elsewhere torch has its own, slower operators for it.
    """
    available = torch.backends.mkldnn.is_available()  # not in torch's builds for some processors
    return available and (dtype == torch.float32 or bfloat16_instructions() is not None)
