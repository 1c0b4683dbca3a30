import pytest
import torch

from kernels.upsample_conv import phase_weights, upsample_conv, upsample_conv_reference

from .packs import assert_close, random, tolerance


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 3), (7, 8)], ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("with_bias", [False, True])
def test_upsample_conv_formula(size: tuple[int, int], memory_format: torch.memory_format, with_bias: bool) -> None:
    x = random(2, 6, *size).contiguous(memory_format=memory_format)
    weight, bias = random(5, 6, 3, 3, seed=1), random(5, seed=2) if with_bias else None
    out = upsample_conv(x, phase_weights(weight), bias)
    exact = upsample_conv_reference(x.double(), weight.double(), None if bias is None else bias.double())
    assert_close(out, exact)
    assert_close(upsample_conv_reference(x, weight, bias), exact)


@pytest.mark.parametrize("size", [(1, 1), (3, 5)], ids=str)
@pytest.mark.parametrize(("channels", "out_channels", "repeats"), [(6, 3, 2), (4, 4, 4), (12, 3, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_upsample_conv_adds_shortcut(
    size: tuple[int, int], channels: int, out_channels: int, repeats: int, dtype: torch.dtype
) -> None:
    x, weight = random(2, channels, *size, dtype=dtype), random(out_channels, channels, 3, 3, seed=1, dtype=dtype)
    bias = random(out_channels, seed=2, dtype=dtype)
    phases = phase_weights(weight)
    out = upsample_conv(x, phases, bias, repeats)
    plain = upsample_conv(x.double().requires_grad_(), phases.double(), bias.double()).detach()  # of the reference
    added = x.double().repeat_interleave(repeats, dim=1).unflatten(1, (out_channels, 2, 2))  # [N, O, 2, 2, H, W]
    expected = plain + added.permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert_close(out, expected, tolerance(dtype, 2))


def test_phase_weights_summed_in_fp32() -> None:
    weight = random(5, 6, 3, 3).bfloat16()
    assert torch.equal(phase_weights(weight), phase_weights(weight.double()).bfloat16())


def test_upsample_conv_half_precision_channels_last() -> None:
    out = upsample_conv(random(1, 8, 4, 4).bfloat16(), phase_weights(random(8, 8, 3, 3, seed=1).bfloat16()), None)
    assert out.dtype == torch.bfloat16
    assert out.is_contiguous(memory_format=torch.channels_last)
