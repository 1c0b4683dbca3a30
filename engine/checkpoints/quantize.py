"""FP8 for the large matrix products of the transformer, quantized once when the checkpoint is loaded.

In FP8: the projections of self-attention, query and output of cross-attention, both 1x1 convolutions of Mix-FFN: over
97 % of the products of a step. What stays in the transformer's dtype, and why:
    patch_embed, proj_out   32 channels wide: no time to gain, and their error goes straight into the latents
    time_embed              one row per image, and it scales every token of it
    caption_projection,
    attn2.to_k, attn2.to_v  once per prompt, not per step
    conv_depth              nine taps per channel, not a matrix product
"""

import torch
from torch import nn

from kernels.fp8_linear import QuantizedRows, fp8_linear, quantize_rows_reference

from ..config import QUANTIZATIONS
from ..errors import DeviceError
from ..models.linear import PointwiseConv
from ..models.sana import SanaTransformer

LEAST_CAPABILITY = (8, 9)


class FP8Linear(nn.Module):
    """Takes the place of a linear layer or a 1x1 convolution on token rows."""

    weight: torch.Tensor
    weight_scale: torch.Tensor

    def __init__(self, layer: nn.Linear | PointwiseConv) -> None:
        super().__init__()
        stored, scale, _ = quantize_rows_reference(layer.weight.flatten(1))
        self.register_buffer("weight", stored)
        self.register_buffer("weight_scale", scale)
        self.bias = layer.bias

    def forward(self, x: torch.Tensor | QuantizedRows) -> torch.Tensor:
        return fp8_linear(x, self.weight, self.weight_scale, self.bias)


def check_quantization(name: str, device: torch.device) -> None:
    """Raises DeviceError for an unknown quantization, or one that the device has no instructions for."""
    if name not in QUANTIZATIONS:
        raise DeviceError(f"there is no quantization {name!r}: give {' or '.join(QUANTIZATIONS)}")
    if name == "fp8" and device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability < LEAST_CAPABILITY:
            raise DeviceError(
                f"--quantization fp8 needs compute capability 8.9 (Ada, Hopper and later); {device} has "
                f"{capability[0]}.{capability[1]}"
            )


def quantize_transformer(transformer: SanaTransformer) -> None:
    """Replaces the layers named above, one at a time: their weights in the old dtype are released as it goes."""
    for block in transformer.blocks:
        block.fp8 = True
        packed = block.attn1.to_qkv is not None
        if packed:
            del block.attn1.to_q, block.attn1.to_k, block.attn1.to_v  # views of the weight that is replaced
        for owner, names in (
            (block.attn1, ("to_qkv",) if packed else ("to_q", "to_k", "to_v")),
            (block.attn1.to_out, ("0",)),
            (block.attn2, ("to_q",)),
            (block.attn2.to_out, ("0",)),
            (block.ff, ("conv_inverted", "conv_point")),
        ):
            for name in names:
                setattr(owner, name, FP8Linear(owner.get_submodule(name)))  # type: ignore[arg-type]
