import pytest
import torch
import torch.nn.functional as F

from kernels.glu_conv import TOKENS, glu_conv

from .packs import DEVICE, SIZES, assert_close, image_tokens, make_layout, random, tolerance

# Few tokens: the kernel walks over them one by one, and the interpreter takes 50 ms for each.
CHANNELS = 6
SMALL = make_layout(((2, 3), (3, 2), (1, 4)), (2, 2, 2))
WEIGHT, BIAS = random(2 * CHANNELS, 1, 3, 3, seed=1), random(2 * CHANNELS, seed=2)


def formula(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The op on one image in fp64: x [h * w, 2C] to [h * w, C]."""
    height, width = size
    padded = F.pad(F.silu(x.double()).T.unflatten(1, size), (1, 1, 1, 1))
    convolved = torch.empty(height, width, x.shape[1], dtype=torch.float64, device=DEVICE)
    for i in range(height):
        for j in range(width):
            convolved[i, j] = (padded[:, i : i + 3, j : j + 3] * WEIGHT[:, 0].double()).sum((1, 2)) + BIAS
    a, gate = convolved.flatten(0, 1).chunk(2, dim=-1)
    return a * gate * torch.sigmoid(gate)


def test_glu_conv_zero_padding_per_image() -> None:
    layout = make_layout()
    x = random(layout.total, 2 * CHANNELS)
    out = glu_conv(x, WEIGHT, BIAS, layout)
    assert out.shape == (layout.total, CHANNELS)
    for image, size in enumerate(SIZES):
        tokens = image_tokens(layout, image)
        assert_close(out[tokens], formula(x[tokens], size))


def test_glu_conv_nan_stays_in_image() -> None:
    x = random(SMALL.total, 2 * CHANNELS)
    clean = glu_conv(x, WEIGHT, BIAS, SMALL)
    x[image_tokens(SMALL, 1)] = float("nan")
    out = glu_conv(x, WEIGHT, BIAS, SMALL)
    others = [i for i in range(SMALL.total) if SMALL.image_index[i] != 1]
    assert_close(out[others], clean[others])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_glu_conv_dtypes(dtype: torch.dtype) -> None:
    x = random(SMALL.total, 2 * CHANNELS, dtype=dtype)
    out = glu_conv(x, WEIGHT.to(dtype), BIAS.to(dtype), SMALL)
    assert out.dtype == dtype
    for image, size in enumerate(SMALL.sizes):
        tokens = image_tokens(SMALL, image)
        assert_close(out[tokens], formula(x[tokens], size), tolerance(dtype, 3))


@pytest.mark.parametrize("sizes", [((2, 6),), ((3, 2), (5, 9), (3, 5), (2, 2)), ((9, 4), (1, 11), (4, 1))], ids=str)
def test_glu_conv_ragged_packs(sizes: tuple[tuple[int, int], ...]) -> None:
    layout = make_layout(sizes, (2,) * len(sizes))
    x = random(layout.total, 2 * CHANNELS)
    out = glu_conv(x, WEIGHT, BIAS, layout)
    for image, size in enumerate(sizes):
        tokens = image_tokens(layout, image)
        assert_close(out[tokens], formula(x[tokens], size))


def test_glu_conv_without_bias() -> None:
    x = random(SMALL.total, 2 * CHANNELS)
    zeros = torch.zeros(2 * CHANNELS, device=DEVICE)
    assert torch.equal(glu_conv(x, WEIGHT, None, SMALL), glu_conv(x, WEIGHT, zeros, SMALL))


def test_glu_conv_lines_across_programs() -> None:
    """Images end before, at and after the border of a program, in lines shorter and longer than a program."""
    layout = make_layout(((2, 16), (1, 33), (3, 1), (1, 1), (2, 40)), (2, 2, 2, 2, 2))
    assert TOKENS in layout.offsets
    x = random(layout.total, 2 * CHANNELS)
    out = glu_conv(x, WEIGHT, BIAS, layout)
    for image, size in enumerate(layout.sizes):
        tokens = image_tokens(layout, image)
        assert_close(out[tokens], formula(x[tokens], size))


@pytest.mark.filterwarnings("ignore:overflow encountered in exp2:RuntimeWarning")  # numpy's, in the interpreter
def test_glu_conv_large_values_stay_finite() -> None:
    layout = make_layout(((2, 3),), (2,))
    x = (
        torch.tensor([-1e4, -100.0, -1.0, 1.0, 100.0, 1e4], device=DEVICE)[:, None]
        .expand(-1, 2 * CHANNELS)
        .contiguous()
    )
    assert_close(glu_conv(x, WEIGHT, BIAS, layout), formula(x, (2, 3)))
