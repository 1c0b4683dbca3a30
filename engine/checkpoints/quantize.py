"""FP8 for the large matrix products of the transformer, quantized once when the checkpoint is loaded.

The projections of self-attention, query and output of cross-attention and both 1x1 convolutions of Mix-FFN are in FP8:
over 97 % of the multiplications of a step. These stay in the transformer's dtype:
    patch_embed, proj_out   32 channels are too few to gain time, and their error goes straight into the latents
    time_embed              one vector per image, which scales all of its tokens
    caption_projection,
    attn2.to_k, attn2.to_v  run once per prompt, not once per step
    conv_depth              nine taps per channel, not a matrix product
"""

import torch
from torch import nn

from kernels.fp8_linear import QuantizedRows, fp8_linear, quantize_rows_reference

from ..config import QUANTIZATIONS
from ..errors import DeviceError
from ..models.linear import PointwiseConv
from ..models.sana import SanaTransformer

MIN_CAPABILITY = (8, 9)


class FP8Linear(nn.Module):
    """FP8 replacement of a linear layer or of a 1x1 convolution on tokens."""

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
    """Raises DeviceError if the quantization is unknown or the device has no instructions for it."""
    if name not in QUANTIZATIONS:
        raise DeviceError(f"quantization must be {' or '.join(QUANTIZATIONS)}, got {name!r}")
    if name == "fp8" and device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability < MIN_CAPABILITY:
            raise DeviceError(
                f"--quantization fp8 needs compute capability 8.9 or later (Ada, Hopper), but {device} has "
                f"{capability[0]}.{capability[1]}"
            )


def quantize_transformer(transformer: SanaTransformer) -> None:
    """Replaces the layers named above one at a time, so that at most one is in memory in both dtypes."""
    for block in transformer.blocks:
        block.fp8 = True
        packed = block.attn1.to_qkv is not None
        if packed:
            del block.attn1.to_q, block.attn1.to_k, block.attn1.to_v  # they view the weight that is replaced
        for owner, names in (
            (block.attn1, ("to_qkv",) if packed else ("to_q", "to_k", "to_v")),
            (block.attn1.to_out, ("0",)),
            (block.attn2, ("to_q",)),
            (block.attn2.to_out, ("0",)),
            (block.ff, ("conv_inverted", "conv_point")),
        ):
            for name in names:
                setattr(owner, name, FP8Linear(owner.get_submodule(name)))  # type: ignore[arg-type]
