"""oneDNN's products and convolutions on the CPU with the activation in the same pass, and weights reordered once.

F.linear and F.conv2d reorder the weights in every call, and the bias and the activation are passes of their own. torch
ships these operators for its compiler; they take ordinary tensors and run eagerly.
"""

import torch

ONEDNN_NAMES = {None: "none", "silu": "swish", "relu": "relu", "relu6": "hardtanh"}
"""Activations of `ACTIVATIONS` by oneDNN's names."""
SCALARS: dict[str | None, list[float]] = {"relu6": [0.0, 6.0]}
ONE = (1, 1)
CPU_BFLOAT16 = ("amx_bf16", "avx512_bf16")
"""Instruction sets with products in bfloat16, as `torch.cpu.get_capabilities` names them; oneDNN uses both."""


def bfloat16_instructions() -> str | None:
    """The CPU's instruction set for products in bfloat16, or None."""
    capabilities = torch.cpu.get_capabilities()
    return next((name for name in CPU_BFLOAT16 if capabilities.get(name)), None)


def reorder_linear(weight: torch.Tensor) -> torch.Tensor:
    """A weight [out, C] in oneDNN's own layout, for `linear_act` alone."""
    return torch.ops.mkldnn._reorder_linear_weight(weight)


def linear_act(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, act: str | None = None
) -> torch.Tensor:
    """act(x [T, C] times the reordered weight [out, C], plus bias)."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, ONEDNN_NAMES[act], SCALARS.get(act, []), "")


def reorder_conv(weight: torch.Tensor, padding: int) -> torch.Tensor:
    """A weight [O, C, k, k] in oneDNN's own layout, for `conv2d_act` with this padding alone."""
    return torch.ops.mkldnn._reorder_convolution_weight(weight, (padding, padding), ONE, ONE, 1, None)


def conv2d_act(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    padding: int,
    act: str | None = None,
    groups: int = 1,
) -> torch.Tensor:
    """act(conv(x) + bias) of x [N, C, H, W] in channels-last memory, which the result has too."""
    name, scalars = ONEDNN_NAMES[act], SCALARS.get(act, [])
    x = x.contiguous(memory_format=torch.channels_last)
    return torch.ops.mkldnn._convolution_pointwise(
        x, weight, bias, (padding, padding), ONE, ONE, groups, name, scalars, ""
    )


def depthwise_product(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, factor: torch.Tensor
) -> torch.Tensor:
    """(depthwise 3x3 convolution of x + bias) * factor; x, factor: [N, C, H, W] in channels-last memory."""
    return torch.ops.mkldnn._convolution_pointwise.binary(
        x, factor, weight, bias, ONE, ONE, ONE, x.shape[1], "mul", None, None, [], None
    )
