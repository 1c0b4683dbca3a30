import pytest
import torch

from kernels.layout import TokenLayout
from kernels.linear_attention import linear_attention, relu_attention_state

from .packs import DEVICE, HALF, SIZES, assert_close, make_layout, random, random_layouts, rows


def quadratic(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The same attention as a t x t matrix in fp64: [t, heads, D]."""
    q, k, v = (x.double().transpose(0, 1) for x in (q.relu(), k.relu(), v))
    scores = q @ k.transpose(-1, -2)
    return (scores @ v / (scores.sum(-1, keepdim=True) + 1e-15)).transpose(0, 1)


def qkv(heads: int = 2, dim: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    total = make_layout().total
    return tuple(random(total, heads, dim, seed=s) for s in range(3))  # type: ignore[return-value]


def test_each_image_attends_to_itself_only() -> None:
    layout, (q, k, v) = make_layout(), qkv()
    out = linear_attention(q, k, v, layout)
    for image in range(len(SIZES)):
        r = rows(layout, image)
        assert_close(out[r], quadratic(q[r], k[r], v[r]))


def test_an_image_of_nan_does_not_reach_its_neighbours() -> None:
    layout, (q, k, v) = make_layout(), qkv()
    clean = linear_attention(q, k, v, layout)
    v[rows(layout, 1)] = float("nan")
    out = linear_attention(q, k, v, layout)
    others = [i for i in range(layout.total) if layout.image_index[i] != 1]
    assert torch.equal(out[others], clean[others])
    assert out[rows(layout, 1)].isnan().all()


def test_queries_without_a_positive_part_give_zero() -> None:
    layout, (q, k, v) = make_layout(), qkv()
    assert linear_attention(-q.abs(), k, v, layout).eq(0).all()


@pytest.mark.parametrize("dtype", HALF)
def test_the_state_is_fp32_and_the_output_of_the_dtype_of_v(dtype: torch.dtype) -> None:
    layout, (q, k, v) = make_layout(), qkv()
    # Sums of 25 products of 300 x 300 pass the largest fp16; only an fp32 state survives.
    q, k, v = (300 * q).to(dtype), (300 * k).to(dtype), v.to(dtype)
    out = linear_attention(q, k, v, layout)
    assert out.dtype == dtype
    r = rows(layout, 5)
    assert_close(out[r], quadratic(q[r], k[r], v[r]), relative=torch.finfo(dtype).eps)
    assert relu_attention_state(q, k, v).dtype == torch.float32


@pytest.mark.parametrize("layout", random_layouts(), ids=lambda layout: str(layout.sizes))
@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_ragged_packs_and_heads_of_any_width(layout: TokenLayout, dtype: torch.dtype) -> None:
    q, k, v = (random(layout.total, 2, 24, seed=s, dtype=dtype) for s in range(3))
    out = linear_attention(q, k, v, layout)
    for image in range(len(layout.sizes)):
        r = rows(layout, image)
        tolerance = 2e-6 if dtype == torch.float32 else torch.finfo(dtype).eps
        assert_close(out[r], quadratic(q[r], k[r], v[r]), tolerance)


def test_an_image_of_several_chunks_among_small_ones() -> None:
    """The kernel adds up states of 256 rows each; borders of images and of chunks fall together and apart."""
    layout = TokenLayout(((2, 3), (25, 30), (1, 1), (1, 11), (16, 16), (3, 3)), ((0, 2),) * 6, DEVICE)
    assert 768 in layout.offsets
    q, k, v = (random(layout.total, 1, 16, seed=s) for s in range(3))
    out = linear_attention(q, k, v, layout)
    for image in range(len(layout.sizes)):
        r = rows(layout, image)
        assert_close(out[r], quadratic(q[r], k[r], v[r]))


def test_heads_may_lie_apart_in_memory() -> None:
    """The autoencoder keeps q, k and v of a head together."""
    layout = make_layout()
    qkv = random(layout.total, 2, 3, 8)
    expected = linear_attention(*(part.contiguous() for part in qkv.unbind(2)), layout)
    assert torch.equal(linear_attention(*qkv.unbind(2), layout), expected)


@pytest.mark.parametrize("layout", random_layouts(2), ids=lambda layout: str(layout.sizes))
@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_queries_and_keys_are_normalised_over_all_heads(layout: TokenLayout, dtype: torch.dtype) -> None:
    """In the views that one packed projection gives."""
    q, k, v = (50 * random(layout.total, 3, 2, 24, seed=1)).to(dtype).unbind(1)
    q_weight, k_weight = (random(2 * 24, seed=s, dtype=dtype) for s in (2, 3))
    out = linear_attention(q, k, v, layout, q_weight, k_weight)
    normed = []
    for x, weight in ((q, q_weight), (k, k_weight)):
        wide = x.double().flatten(1)
        inverse = (wide.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
        normed.append((wide * inverse * weight.double()).view_as(x))
    for image in range(len(layout.sizes)):
        r = rows(layout, image)
        tolerance = 2e-6 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps
        assert_close(out[r], quadratic(normed[0][r], normed[1][r], v[r]), tolerance)
