import pytest
import torch

from kernels.cross_attention import cross_attention
from kernels.layout import TokenLayout

from .packs import (
    DEVICE,
    HALF,
    TEXT_LENGTHS,
    assert_close,
    image_tokens,
    make_layout,
    random,
    random_layouts,
    rms_normed,
    tolerance,
)

HEADS, DIM = 2, 8


def softmax_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The attention of one image to its text in fp64."""
    q, k, v = (x.double().transpose(0, 1) for x in (q, k, v))
    return ((q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1) @ v).transpose(0, 1)


def formula(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: TokenLayout) -> torch.Tensor:
    """The attention of each image to its own text in fp64."""
    images = [(image_tokens(layout, i), slice(*layout.texts[i])) for i in range(layout.single_text_images.start)]
    return torch.cat([q[:0].double(), *(softmax_attention(q[t], k[text], v[text]) for t, text in images)])


def test_cross_attention_per_image_text() -> None:
    layout = make_layout()
    q = random(layout.attended, HEADS, DIM)
    k, v = (random(sum(TEXT_LENGTHS), HEADS, DIM, seed=s) for s in (1, 2))
    out, expected = cross_attention(q, k, v, layout), formula(q, k, v, layout)
    for image in range(layout.single_text_images.start):
        tokens = image_tokens(layout, image)
        assert_close(out[tokens], expected[tokens])


def test_cross_attention_nan_text_stays_in_image() -> None:
    layout = make_layout()
    q = random(layout.attended, HEADS, DIM)
    k, v = (random(sum(TEXT_LENGTHS), HEADS, DIM, seed=s) for s in (1, 2))
    v[slice(*layout.texts[2])] = float("nan")  # not k: the CPU's flash attention turns scores of NaN into zeros
    out = cross_attention(q, k, v, layout)
    assert out[image_tokens(layout, 2)].isnan().all()
    assert out[: layout.offsets[2]].isfinite().all()
    assert out[layout.offsets[3] :].isfinite().all()


def test_cross_attention_shared_text_equals_copies() -> None:
    shared = TokenLayout(((2, 2), (2, 2)), ((1, 4), (1, 4)), DEVICE)
    copied = TokenLayout(((2, 2), (2, 2)), ((0, 3), (3, 6)), DEVICE)
    q, k, v = (random(8, HEADS, DIM, seed=s) for s in range(3))
    copies = [torch.cat([x[1:4], x[1:4]]) for x in (k, v)]
    assert torch.equal(cross_attention(q, k, v, shared), cross_attention(q, *copies, copied))


def test_cross_attention_single_token_texts_no_queries() -> None:
    layout = make_layout(((2, 2), (1, 3)), (1, 1))
    k = random(2, HEADS, DIM)
    out = cross_attention(random(0, HEADS, DIM), k, k, layout)
    assert out.shape == (0, HEADS, DIM)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_cross_attention_query_norm_over_all_heads(dtype: torch.dtype) -> None:
    layout = make_layout()
    q = 3 * random(layout.attended, HEADS, DIM, dtype=dtype)
    k, v = (random(sum(TEXT_LENGTHS), HEADS, DIM, seed=s, dtype=dtype) for s in (1, 2))
    weight = 1 + random(HEADS * DIM, seed=3, dtype=dtype)
    normed = (rms_normed(q.flatten(1)) * weight.double()).view_as(q)
    assert_close(cross_attention(q, k, v, layout, weight), formula(normed, k, v, layout), tolerance(dtype, 4))


@pytest.mark.parametrize("layout", random_layouts(), ids=lambda layout: str(layout.texts))
@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_cross_attention_ragged_packs(layout: TokenLayout, dtype: torch.dtype) -> None:
    """Heads of 20 channels, no power of two; texts that end within a tile, with it and after it."""
    q = 3 * random(layout.attended, 2, 20, dtype=dtype)
    k, v = (random(layout.texts[-1][1], 2, 20, seed=s, dtype=dtype) for s in (1, 2))
    out, expected = cross_attention(q, k, v, layout), formula(q, k, v, layout)
    assert out.dtype == dtype
    for image in range(layout.single_text_images.start):
        tokens = image_tokens(layout, image)
        assert_close(out[tokens], expected[tokens], tolerance(dtype, 2))
