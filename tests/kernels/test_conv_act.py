import pytest
import torch
import torch.nn.functional as F

from kernels.activation import ACTIVATIONS
from kernels.conv_act import conv_act

from .packs import assert_close, random, tolerance


def formula(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, act: str | None) -> torch.Tensor:
    """The op in fp64."""
    out = F.conv2d(x.double(), weight.double(), None if bias is None else bias.double(), padding=1)
    return out if act is None else ACTIVATIONS[act](out)


@pytest.mark.parametrize("act", [None, *ACTIVATIONS])
@pytest.mark.parametrize("size", [(1, 1), (5, 3), (7, 16)], ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_conv_act_formula(act: str | None, size: tuple[int, int], memory_format: torch.memory_format) -> None:
    x = 3 * random(2, 6, *size).contiguous(memory_format=memory_format)
    weight, bias = random(37, 6, 3, 3, seed=1), random(37, seed=2)
    assert_close(conv_act(x, weight, bias, act), formula(x, weight, bias, act))
    assert_close(conv_act(x, weight, None, act), formula(x, weight, None, act))


@pytest.mark.parametrize("act", ["silu", "relu6"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_conv_act_half_precision(act: str, dtype: torch.dtype) -> None:
    x, weight = random(1, 8, 4, 4, dtype=dtype), random(16, 8, 3, 3, seed=1, dtype=dtype)
    bias = random(16, seed=2, dtype=dtype)
    out = conv_act(x, weight, bias, act)
    assert out.dtype == dtype
    assert_close(out, formula(x, weight, bias, act), tolerance(dtype, 4))


@pytest.mark.parametrize("act", [None, *ACTIVATIONS])
def test_conv_act_keeps_nan(act: str | None) -> None:
    x = random(1, 4, 5, 5)
    x[0, 0, 0, 0] = float("nan")
    out = conv_act(x, random(4, 4, 3, 3, seed=1), random(4, seed=2), act)
    assert out[0, :, :2, :2].isnan().all()
    assert out[0, :, 2:].isfinite().all()
