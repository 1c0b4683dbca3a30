import pytest
import torch

from kernels.to_uint8 import to_uint8

from .packs import DEVICE, random


def test_to_uint8_scales_clamps_and_rounds() -> None:
    pixels = torch.tensor([-2.0, -1.0, 0.0, 1.0, 3.0], device=DEVICE).expand(3, 1, 5)
    assert to_uint8(pixels)[0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_to_uint8_rounds_half_to_even() -> None:
    levels = torch.tensor([0.5, 1.5, 2.5, 253.5, 254.5], device=DEVICE)
    pixels = ((levels / 255 - 0.5) * 2).expand(1, 1, 5)
    exact = ((pixels / 2 + 0.5) * 255)[0, 0]
    assert to_uint8(pixels)[0, :, 0].tolist() == exact.round().tolist()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_to_uint8_any_strides(memory_format: torch.memory_format, dtype: torch.dtype) -> None:
    pixels = random(1, 3, 50, 37).to(dtype).contiguous(memory_format=memory_format)[0, :, 3:40]
    out = to_uint8(pixels)
    exact = ((pixels.double() / 2 + 0.5).clamp(0, 1) * 255).permute(1, 2, 0)
    assert out.shape == (37, 37, 3)
    assert out.dtype == torch.uint8
    assert (out.double() - exact).abs().max() <= (0.5001 if dtype == torch.float32 else 1.5)
