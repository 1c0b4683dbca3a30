import pytest
import torch

from kernels.rms_norm import rms_norm_reference

from .packs import assert_close, random


@pytest.mark.parametrize("eps", [1e-5, 1e-2])
@pytest.mark.parametrize("with_bias", [False, True])
def test_formula(eps: float, with_bias: bool) -> None:
    x, weight = 0.1 * random(3, 4, 16), random(16, seed=1)
    bias = random(16, seed=2) if with_bias else None
    expected = x.double() / (x.double().square().mean(-1, keepdim=True) + eps).sqrt() * weight
    if bias is not None:
        expected = expected + bias
    assert_close(rms_norm_reference(x, weight, bias, eps), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_statistics_are_fp32_and_the_result_has_the_dtype_of_the_weight(dtype: torch.dtype) -> None:
    x = (500 * random(4, 64)).to(dtype)  # squares pass the largest fp16
    weight = random(64, seed=1).to(dtype)
    out = rms_norm_reference(x, weight)
    assert out.dtype == dtype
    wide = rms_norm_reference(x.float(), weight.float())
    assert_close(out, wide, relative=2 * torch.finfo(dtype).eps)
