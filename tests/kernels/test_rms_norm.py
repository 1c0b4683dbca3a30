import pytest
import torch

from kernels.activation import ACTIVATIONS
from kernels.rms_norm import inverse_rms, rms_norm

from .packs import DEVICE, assert_close, random, rms_normed, tolerance


@pytest.mark.parametrize("eps", [1e-5, 1e-2])
@pytest.mark.parametrize("with_bias", [False, True])
def test_rms_norm_formula(eps: float, with_bias: bool) -> None:
    x, weight = 0.1 * random(3, 4, 16), random(16, seed=1)
    bias = random(16, seed=2) if with_bias else None
    expected = rms_normed(x, eps) * weight
    if bias is not None:
        expected = expected + bias
    assert_close(rms_norm(x, weight, bias, eps), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rms_norm_fp32_statistics_in_half_precision(dtype: torch.dtype) -> None:
    x = (500 * random(4, 64)).to(dtype)  # squares exceed the largest fp16
    weight = random(64, seed=1).to(dtype)
    out = rms_norm(x, weight)
    assert out.dtype == dtype
    assert_close(out, rms_normed(x) * weight.double(), tolerance(dtype, 2))


@pytest.mark.parametrize("shape", [(1, 1), (5, 33), (2, 3, 4, 130), (37, 16)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rms_norm_residual_shapes_and_dtypes(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, residual = random(*shape, dtype=dtype), random(*shape, seed=1, dtype=dtype)
    weight, bias = (random(shape[-1], seed=s, dtype=dtype) for s in (2, 3))
    expected = rms_normed(x) * weight.double() + bias.double() + residual.double()
    out = rms_norm(x, weight, bias, residual=residual)
    assert out.dtype == dtype
    assert_close(out, expected, tolerance(dtype, 2))


@pytest.mark.parametrize("act", ["silu", "relu", "relu6"])
@pytest.mark.parametrize("with_residual", [False, True])
def test_rms_norm_activation_before_residual(act: str, with_residual: bool) -> None:
    x, weight, bias = random(5, 33), 3 * random(33, seed=1), random(33, seed=2)
    residual = random(5, 33, seed=3) if with_residual else None
    normed = rms_normed(x) * weight + bias
    expected = ACTIVATIONS[act](normed) + (0 if residual is None else residual)
    assert_close(rms_norm(x, weight, bias, residual=residual, act=act), expected)


def test_rms_norm_strided_views() -> None:
    """A band of a channels-last image, and an image that is not channels-last."""
    image, weight = random(1, 6, 4, 8), random(6, seed=1)
    rows = image.movedim(1, -1)
    assert not rows.is_contiguous()
    expected = rms_normed(rows) * weight
    assert_close(rms_norm(rows, weight), expected)
    band = rows.contiguous()[:, 1:3]
    assert_close(rms_norm(band, weight, residual=band), expected[:, 1:3] + band)


@pytest.mark.parametrize("width", [1, 33, 130])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_inverse_rms_strided_rows(width: int, dtype: torch.dtype) -> None:
    x = (random(37, 3, width) * torch.tensor([1.0, 1e-3, 100.0], device=DEVICE)[:, None]).to(dtype)
    for part in x.unbind(1):
        out = inverse_rms(part)
        assert out.dtype == torch.float32
        assert_close(out, (part.double().square().mean(-1) + 1e-5).rsqrt())
