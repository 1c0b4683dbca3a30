import pytest
import torch

from kernels.fp8_linear import FP8
from kernels.layout import TokenLayout
from kernels.modulate import add_modulate, gated_add, gated_add_modulate, modulate

from .packs import SIZES, assert_close, make_layout, random, random_layouts, rows

CHANNELS = 12


def test_each_image_is_normalised_and_modulated_by_its_own_vectors() -> None:
    layout = make_layout()
    x = 3 + 2 * random(layout.total, CHANNELS)
    shift, scale = (random(len(SIZES), CHANNELS, seed=s) for s in (1, 2))
    out = modulate(x, shift, scale, layout)
    for image in range(len(SIZES)):
        part = x[rows(layout, image)].double()
        deviation = (part.var(-1, keepdim=True, correction=0) + 1e-6).sqrt()
        normed = (part - part.mean(-1, keepdim=True)) / deviation
        assert_close(out[rows(layout, image)], normed * (1 + scale[image]) + shift[image])


def test_the_gate_multiplies_what_is_added() -> None:
    layout = make_layout()
    x, y = random(layout.total, CHANNELS), random(layout.total, CHANNELS, seed=1)
    gate = random(len(SIZES), CHANNELS, seed=2)
    out, asking = gated_add(x, gate, y, layout)
    assert torch.equal(asking, out[: layout.attended])
    for image in range(len(SIZES)):
        r = rows(layout, image)
        assert_close(out[r], x[r] + gate[image] * y[r])


def test_half_precision_stays_half_precision() -> None:
    layout = make_layout()
    x = random(layout.total, CHANNELS).bfloat16()
    vectors = random(len(SIZES), CHANNELS, seed=1).bfloat16()
    assert modulate(x, vectors, vectors, layout).dtype == torch.bfloat16
    assert gated_add(x, vectors, x, layout)[0].dtype == torch.bfloat16


@pytest.mark.parametrize("layout", random_layouts(), ids=lambda layout: str(layout.sizes))
@pytest.mark.parametrize("width", [1, 37, 70])
def test_ragged_packs_and_vectors_that_lie_apart(layout: TokenLayout, width: int) -> None:
    """As the transformer calls them: the vectors are columns of one table."""
    shift, scale, gate = random(len(layout.sizes), 3, width, seed=2).unbind(1)
    x, y = (random(layout.total, width, seed=s) for s in range(2))
    assert_close(gated_add(x, gate, y, layout)[0], x + gate[layout.image_index] * y)
    added, out = add_modulate(x, y, None, shift, scale, layout)
    assert_close(added, x + y)
    total = x.double() + y.double()
    deviation = (total.var(-1, keepdim=True, correction=0) + 1e-6).sqrt()
    normed = (total - total.mean(-1, keepdim=True)) / deviation
    expected = normed * (1 + scale[layout.image_index]) + shift[layout.image_index]
    assert_close(out, expected)
    assert_close(modulate(x + y, shift, scale, layout), expected)
    added, out = gated_add_modulate(x, gate, y / gate[layout.image_index], shift, scale, layout)
    assert_close(added, x + y)
    assert_close(out, expected, 1e-5)  # the division rounds


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_against_fp64(dtype: torch.dtype) -> None:
    layout = make_layout()
    x, y = (random(layout.total, CHANNELS, seed=s, dtype=dtype) for s in range(2))
    shift, scale, gate = (random(len(SIZES), CHANNELS, seed=s, dtype=dtype) for s in (2, 3, 4))
    added, out = add_modulate(x, y, None, shift, scale, layout)
    assert added.dtype == out.dtype == dtype
    eps, image = torch.finfo(dtype).eps, layout.image_index
    total = x.double() + y.double()
    normed = torch.nn.functional.layer_norm(total, (CHANNELS,), eps=1e-6)
    assert_close(out, normed * (1 + scale.double()[image]) + shift.double()[image], 3 * eps)
    assert_close(added, total, eps)
    total = x.double() + gate.double()[image] * y.double()
    assert_close(gated_add(x, gate, y, layout)[0], total, eps)
    added, out = gated_add_modulate(x, gate, y, shift, scale, layout)
    assert added.dtype == out.dtype == dtype
    normed = torch.nn.functional.layer_norm(total, (CHANNELS,), eps=1e-6)
    assert_close(out, normed * (1 + scale.double()[image]) + shift.double()[image], 3 * eps)
    assert_close(added, total, eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_added_may_have_a_limit(dtype: torch.dtype) -> None:
    layout = make_layout()
    x, y = (random(layout.total, CHANNELS, seed=s, dtype=dtype) for s in range(2))
    y[0, 0], y[1, 1] = float("inf"), float("nan")
    gate = random(len(SIZES), CHANNELS, seed=2, dtype=dtype)
    out, _ = gated_add(x, gate, y, layout, limit=0.5)
    assert out[1, 1].isnan()
    x[1, 1], y[1, 1], out[1, 1] = 0, 0, 0
    expected = x.double() + gate.double()[layout.image_index] * y.double().clamp(-0.5, 0.5)
    assert_close(out, expected, 2e-6 if dtype == torch.float32 else torch.finfo(dtype).eps)


@pytest.mark.parametrize("layout", [make_layout(), *random_layouts()], ids=lambda layout: str(layout.texts))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_images_with_one_text_row_add_a_constant(layout: TokenLayout, dtype: torch.dtype) -> None:
    singles = layout.single_text_images
    x, y = (random(layout.total, CHANNELS, seed=s, dtype=dtype) for s in range(2))
    shift, scale = random(len(layout.sizes), 2, CHANNELS, seed=2, dtype=dtype).unbind(1)
    constants = random(len(layout.sizes), CHANNELS, seed=3, dtype=dtype)
    for image in singles:
        y[rows(layout, image)] = constants[image]
    expected = add_modulate(x, y, None, shift, scale, layout)
    out = add_modulate(x, y[: layout.attended].clone(), constants if singles else None, shift, scale, layout)
    assert all(torch.equal(a, b) for a, b in zip(out, expected, strict=True))


@pytest.mark.parametrize("width", [16, 37])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")  # of numpy, which interprets the maximum
def test_a_result_that_comes_quantized(width: int, dtype: torch.dtype) -> None:
    layout = make_layout()
    x, y = (random(layout.total, width, seed=s, dtype=dtype) for s in range(2))
    x[4] = float("nan")
    shift, scale, gate = random(len(SIZES), 3, width, seed=2, dtype=dtype).unbind(1)
    calls = [
        lambda fp8: (x, modulate(x, shift, scale, layout, fp8=fp8)),
        lambda fp8: add_modulate(x, y, None, shift, scale, layout, fp8=fp8),
        lambda fp8: gated_add_modulate(x, gate, y, shift, scale, layout, fp8=fp8),
        lambda fp8: gated_add(x, gate, y, layout, fp8=fp8),
        lambda fp8: gated_add(x, gate, y, layout, limit=0.5, fp8=fp8),
    ]
    for call in calls:
        (added, full), (same, eight) = call(False), call(True)
        assert torch.equal(added.nan_to_num(), same.nan_to_num())
        assert (eight.stored.dtype, eight.dtype) == (FP8, dtype)
        restored = eight.stored.double() * eight.scale.double()[:, None]
        assert restored[4].isnan().all()
        others = [i for i in range(len(full)) if i != 4]
        wide, largest = full[others].double(), full[others].double().abs().amax(-1, keepdim=True)
        rounding = 0 if dtype == torch.float32 else torch.finfo(dtype).eps
        limit = wide.abs() * (2**-4 + rounding) + largest * (2**-10 / 448 + rounding * 2**-4)
        assert ((restored[others] - wide).abs() <= 1.01 * limit).all()
        assert eight.stored[others].float().abs().amax(-1).eq(448).all()
