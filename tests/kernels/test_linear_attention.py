import pytest
import torch

from kernels.layout import TokenLayout
from kernels.linear_attention import CHUNK, linear_attention, relu_linear_attention

from .packs import (
    DEVICE,
    HALF,
    SIZES,
    assert_close,
    image_tokens,
    make_layout,
    random,
    random_layouts,
    rms_normed,
    tolerance,
)


def quadratic_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The same attention as a t x t matrix in fp64, [t, heads, D]."""
    q, k, v = (x.double().transpose(0, 1) for x in (q.relu(), k.relu(), v))
    scores = q @ k.transpose(-1, -2)
    return (scores @ v / (scores.sum(-1, keepdim=True) + 1e-15)).transpose(0, 1)


def assert_attention_per_image(
    out: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: TokenLayout, relative: float = 2e-6
) -> None:
    """Compares each image of `out` with the attention of its tokens alone."""
    for image in range(len(layout.sizes)):
        tokens = image_tokens(layout, image)
        assert_close(out[tokens], quadratic_attention(q[tokens], k[tokens], v[tokens]), relative)


def qkv(heads: int = 2, dim: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    total = make_layout().total
    return tuple(random(total, heads, dim, seed=s) for s in range(3))  # type: ignore[return-value]


def test_linear_attention_per_image() -> None:
    layout, (q, k, v) = make_layout(), qkv()
    assert_attention_per_image(linear_attention(q, k, v, layout), q, k, v, layout)


def test_linear_attention_nan_stays_in_image() -> None:
    layout, (q, k, v) = make_layout(), qkv()
    clean = linear_attention(q, k, v, layout)
    v[image_tokens(layout, 1)] = float("nan")
    out = linear_attention(q, k, v, layout)
    others = [i for i in range(layout.total) if layout.image_index[i] != 1]
    assert torch.equal(out[others], clean[others])
    assert out[image_tokens(layout, 1)].isnan().all()


def test_linear_attention_negative_queries_give_zero() -> None:
    layout, (q, k, v) = make_layout(), qkv()
    assert linear_attention(-q.abs(), k, v, layout).eq(0).all()


@pytest.mark.parametrize("dtype", HALF)
def test_linear_attention_fp32_state_in_half_precision(dtype: torch.dtype) -> None:
    layout, (q, k, v) = make_layout(), qkv()
    # Sums of 25 products of 300 x 300 exceed the largest fp16; only an fp32 state survives.
    q, k, v = (300 * q).to(dtype), (300 * k).to(dtype), v.to(dtype)
    out = linear_attention(q, k, v, layout)
    assert out.dtype == dtype
    largest = image_tokens(layout, SIZES.index((5, 5)))
    assert_close(out[largest], quadratic_attention(q[largest], k[largest], v[largest]), tolerance(dtype))
    assert relu_linear_attention(q, k, v).dtype == torch.float32


@pytest.mark.parametrize("layout", random_layouts(), ids=lambda layout: str(layout.sizes))
@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_linear_attention_ragged_packs(layout: TokenLayout, dtype: torch.dtype) -> None:
    """Heads of 24 channels, no power of two."""
    q, k, v = (random(layout.total, 2, 24, seed=s, dtype=dtype) for s in range(3))
    assert_attention_per_image(linear_attention(q, k, v, layout), q, k, v, layout, tolerance(dtype))


def test_linear_attention_image_across_chunks() -> None:
    """Partial states are those of chunks; borders of images coincide with theirs and do not."""
    layout = TokenLayout(((2, 3), (25, 30), (1, 1), (1, 11), (16, 16), (3, 3)), ((0, 2),) * 6, DEVICE)
    assert 3 * CHUNK in layout.offsets
    q, k, v = (random(layout.total, 1, 16, seed=s) for s in range(3))
    assert_attention_per_image(linear_attention(q, k, v, layout), q, k, v, layout)


def test_linear_attention_strided_heads() -> None:
    """The autoencoder keeps q, k and v of a head together."""
    layout = make_layout()
    qkv = random(layout.total, 2, 3, 8)
    expected = linear_attention(*(part.contiguous() for part in qkv.unbind(2)), layout)
    assert torch.equal(linear_attention(*qkv.unbind(2), layout), expected)


@pytest.mark.parametrize("layout", random_layouts(2), ids=lambda layout: str(layout.sizes))
@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_linear_attention_norm_over_all_heads(layout: TokenLayout, dtype: torch.dtype) -> None:
    """q, k and v are views of one packed projection."""
    q, k, v = (50 * random(layout.total, 3, 2, 24, seed=1)).to(dtype).unbind(1)
    q_weight, k_weight = (random(2 * 24, seed=s, dtype=dtype) for s in (2, 3))
    out = linear_attention(q, k, v, layout, q_weight, k_weight)
    normed = ((rms_normed(x.flatten(1)) * w.double()).view_as(x) for x, w in ((q, q_weight), (k, k_weight)))
    assert_attention_per_image(out, *normed, v, layout, tolerance(dtype, 2))
