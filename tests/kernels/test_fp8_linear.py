"""The quantization bit for bit, the product against fp64 of the stored values, and the error of FP8 itself."""

import pytest
import torch

from kernels.fp8_linear import FP8, FP8_MAX, fp8_linear, quantize_rows, quantize_rows_reference

from .packs import DEVICE, assert_close, random

SHAPES = [(1, 16, 1), (5, 48, 9), (130, 80, 3), (3, 144, 130)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("rows", "width"), [(1, 16), (7, 33), (3, 300)])
def test_quantize_rows_uses_whole_range(rows: int, width: int, dtype: torch.dtype) -> None:
    x = random(rows, width).to(dtype) * torch.tensor([1e-3, 1.0, 50.0], device=DEVICE).repeat(3)[:rows, None].to(dtype)
    stored, scale, _ = quantize_rows(x)
    assert (stored.dtype, scale.dtype) == (FP8, torch.float32)
    assert stored.float().abs().amax(-1).eq(FP8_MAX).all()
    assert_close(scale, x.double().abs().amax(-1) / FP8_MAX)
    error = (stored.double() * scale.double()[:, None] - x.double()).abs()
    assert (error <= 1.001 * (x.double().abs() * 2**-4 + scale[:, None] * 2**-10)).all()  # 3 bits, or denormal
    same = stored.view(torch.uint8) == quantize_rows_reference(x)[0].view(torch.uint8)
    assert same.all() if DEVICE.type == "cpu" else same.float().mean() > 0.99  # a GPU's division may round otherwise


def test_fp8_linear_zero_rows_give_bias() -> None:
    weight, weight_scale, _ = quantize_rows(random(4, 16, seed=1))
    bias = random(4, seed=2)
    assert torch.equal(fp8_linear(torch.zeros(3, 16, device=DEVICE), weight, weight_scale, bias), bias.expand(3, 4))


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(("m", "k", "n"), SHAPES)
def test_fp8_linear_product_of_stored_values(m: int, k: int, n: int, with_bias: bool) -> None:
    x, bias = random(m, k), random(n, seed=2) if with_bias else None
    weight, weight_scale, _ = quantize_rows(random(n, k, seed=1))
    stored, scale, _ = quantize_rows(x)
    expected = (stored.double() * scale.double()[:, None]) @ (weight.double() * weight_scale.double()[:, None]).T
    expected = expected if bias is None else expected + bias
    assert_close(fp8_linear(x, weight, weight_scale, bias), expected, 1e-6)
    assert_close(fp8_linear(quantize_rows(x), weight, weight_scale, bias), expected, 1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_fp8_linear_error_is_that_of_fp8(dtype: torch.dtype) -> None:
    """Each operand has 3 bits of mantissa: an error of about 2.6 % each, independent, so 3.7 % together."""
    x, full = random(64, 256).to(dtype), random(32, 256, seed=1)
    weight, weight_scale, _ = quantize_rows(full)
    out = fp8_linear(x, weight, weight_scale, None)
    exact = x.double() @ full.double().T
    assert out.dtype == dtype
    assert_close(out, exact, 0.05)
    assert (out.double() - exact).norm() > 0.01 * exact.norm()  # FP8, not the full weight


def test_fp8_linear_nan_stays_in_row() -> None:
    x = random(4, 32)
    x[2, 5] = float("nan")
    weight, weight_scale, _ = quantize_rows(random(6, 32, seed=1))
    out = fp8_linear(x, weight, weight_scale, None)
    assert out[2].isnan().all()
    assert out[[0, 1, 3]].isfinite().all()
