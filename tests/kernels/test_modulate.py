from collections.abc import Callable
from typing import Any

import pytest
import torch

from kernels.fp8_linear import FP8, FP8_MAX
from kernels.layout import TokenLayout
from kernels.modulate import add_modulate, gated_add, gated_add_modulate, modulate

from .packs import SIZES, assert_close, image_tokens, layer_normed, make_layout, random, random_layouts, tolerance

CHANNELS = 12


def modulated(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor, layout: TokenLayout) -> torch.Tensor:
    """The modulated norm in fp64."""
    image = layout.image_index
    return layer_normed(x) * (1 + scale.double()[image]) + shift.double()[image]


def gated(x: torch.Tensor, gate: torch.Tensor, y: torch.Tensor, layout: TokenLayout) -> torch.Tensor:
    """The gated sum in fp64."""
    return x.double() + gate.double()[layout.image_index] * y.double()


def test_modulate_vectors_per_image() -> None:
    layout = make_layout()
    x = 3 + 2 * random(layout.total, CHANNELS)
    shift, scale = (random(len(SIZES), CHANNELS, seed=s) for s in (1, 2))
    assert_close(modulate(x, shift, scale, layout), modulated(x, shift, scale, layout))


def test_gated_add_gate_per_image() -> None:
    layout = make_layout()
    x, y = random(layout.total, CHANNELS), random(layout.total, CHANNELS, seed=1)
    gate = random(len(SIZES), CHANNELS, seed=2)
    out, attended = gated_add(x, gate, y, layout)
    assert torch.equal(attended, out[: layout.attended])
    assert_close(out, gated(x, gate, y, layout))


@pytest.mark.parametrize("layout", random_layouts(), ids=lambda layout: str(layout.sizes))
@pytest.mark.parametrize("width", [1, 37, 70])
def test_modulate_ragged_packs_strided_vectors(layout: TokenLayout, width: int) -> None:
    """The transformer passes columns of one table of vectors."""
    shift, scale, gate = random(len(layout.sizes), 3, width, seed=2).unbind(1)
    x, y = (random(layout.total, width, seed=s) for s in range(2))
    assert_close(gated_add(x, gate, y, layout)[0], gated(x, gate, y, layout))
    added, out = add_modulate(x, y, None, shift, scale, layout)
    assert_close(added, x + y)
    expected = modulated(x.double() + y.double(), shift, scale, layout)
    assert_close(out, expected)
    assert_close(modulate(x + y, shift, scale, layout), expected)
    added, out = gated_add_modulate(x, gate, y / gate[layout.image_index], shift, scale, layout)
    assert_close(added, x + y)
    assert_close(out, expected, 1e-5)  # the division rounds


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_modulate_half_precision(dtype: torch.dtype) -> None:
    layout = make_layout()
    x, y = (random(layout.total, CHANNELS, seed=s, dtype=dtype) for s in range(2))
    shift, scale, gate = (random(len(SIZES), CHANNELS, seed=s, dtype=dtype) for s in (2, 3, 4))
    out = modulate(x, shift, scale, layout)
    assert out.dtype == dtype
    assert_close(out, modulated(x, shift, scale, layout), tolerance(dtype, 3))
    total, gated_total = x.double() + y.double(), gated(x, gate, y, layout)
    out, attended = gated_add(x, gate, y, layout)
    assert out.dtype == attended.dtype == dtype
    assert_close(out, gated_total, tolerance(dtype))
    for (added, out), expected in (
        (add_modulate(x, y, None, shift, scale, layout), total),
        (gated_add_modulate(x, gate, y, shift, scale, layout), gated_total),
    ):
        assert added.dtype == out.dtype == dtype
        assert_close(added, expected, tolerance(dtype))
        assert_close(out, modulated(expected, shift, scale, layout), tolerance(dtype, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gated_add_limit_keeps_nan(dtype: torch.dtype) -> None:
    layout = make_layout()
    x, y = (random(layout.total, CHANNELS, seed=s, dtype=dtype) for s in range(2))
    y[0, 0], y[1, 1] = float("inf"), float("nan")
    gate = random(len(SIZES), CHANNELS, seed=2, dtype=dtype)
    out, _ = gated_add(x, gate, y, layout, limit=0.5)
    assert out[1, 1].isnan()
    x[1, 1], y[1, 1], out[1, 1] = 0, 0, 0
    assert_close(out, gated(x, gate, y.clamp(-0.5, 0.5), layout), tolerance(dtype))


@pytest.mark.parametrize("layout", [make_layout(), *random_layouts()], ids=lambda layout: str(layout.texts))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_add_modulate_constants_of_single_token_texts(layout: TokenLayout, dtype: torch.dtype) -> None:
    singles = layout.single_text_images
    x, y = (random(layout.total, CHANNELS, seed=s, dtype=dtype) for s in range(2))
    shift, scale = random(len(layout.sizes), 2, CHANNELS, seed=2, dtype=dtype).unbind(1)
    constants = random(len(layout.sizes), CHANNELS, seed=3, dtype=dtype)
    for image in singles:
        y[image_tokens(layout, image)] = constants[image]
    expected = add_modulate(x, y, None, shift, scale, layout)
    out = add_modulate(x, y[: layout.attended].clone(), constants if singles else None, shift, scale, layout)
    assert all(torch.equal(a, b) for a, b in zip(out, expected, strict=True))


@pytest.mark.parametrize("width", [16, 37])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")  # numpy's, of the maximum in the interpreter
def test_modulate_fp8_result(width: int, dtype: torch.dtype) -> None:
    layout = make_layout()
    x, y = (random(layout.total, width, seed=s, dtype=dtype) for s in range(2))
    x[4] = float("nan")
    shift, scale, gate = random(len(SIZES), 3, width, seed=2, dtype=dtype).unbind(1)
    calls: list[Callable[[bool], tuple[torch.Tensor, Any]]] = [
        lambda fp8: (x, modulate(x, shift, scale, layout, fp8=fp8)),
        lambda fp8: add_modulate(x, y, None, shift, scale, layout, fp8=fp8),
        lambda fp8: gated_add_modulate(x, gate, y, shift, scale, layout, fp8=fp8),
        lambda fp8: gated_add(x, gate, y, layout, fp8=fp8),
        lambda fp8: gated_add(x, gate, y, layout, limit=0.5, fp8=fp8),
    ]
    for call in calls:
        (added, full), (same, quantized) = call(False), call(True)
        torch.testing.assert_close(same, added, rtol=0, atol=0, equal_nan=True)
        assert (quantized.stored.dtype, quantized.dtype) == (FP8, dtype)
        restored = quantized.stored.double() * quantized.scale.double()[:, None]
        assert restored[4].isnan().all()
        others = [i for i in range(len(full)) if i != 4]
        wide, largest = full[others].double(), full[others].double().abs().amax(-1, keepdim=True)
        # Half a step of 3 bits, or of a denormal, and the rounding of the result that is not quantized.
        rounding = 0 if dtype == torch.float32 else torch.finfo(dtype).eps
        limit = wide.abs() * (2**-4 + rounding) + largest * (2**-10 / FP8_MAX + rounding * 2**-4)
        assert ((restored[others] - wide).abs() <= 1.01 * limit).all()
        assert quantized.stored[others].float().abs().amax(-1).eq(FP8_MAX).all()
