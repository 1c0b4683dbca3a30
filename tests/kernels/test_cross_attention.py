import pytest
import torch

from kernels.cross_attention import cross_attention
from kernels.layout import TokenLayout

from .packs import DEVICE, HALF, SIZES, TEXT_LENGTHS, assert_close, make_layout, random, random_layouts, rows

HEADS, DIM = 2, 8


def softmax_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    q, k, v = (x.double().transpose(0, 1) for x in (q, k, v))
    return ((q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1) @ v).transpose(0, 1)


def test_each_image_reads_its_own_text() -> None:
    layout = make_layout()
    q = random(layout.attended, HEADS, DIM)
    k, v = (random(sum(TEXT_LENGTHS), HEADS, DIM, seed=s) for s in (1, 2))
    out = cross_attention(q, k, v, layout)
    for image in range(layout.single_text_images.start):
        r, text = rows(layout, image), slice(*layout.texts[image])
        assert_close(out[r], softmax_attention(q[r], k[text], v[text]))
    assert len(SIZES) - layout.single_text_images.start == 2


def test_a_text_of_nan_does_not_reach_other_images() -> None:
    layout = make_layout()
    q = random(layout.attended, HEADS, DIM)
    k, v = (random(sum(TEXT_LENGTHS), HEADS, DIM, seed=s) for s in (1, 2))
    v[slice(*layout.texts[2])] = float("nan")  # not k: the CPU's flash attention turns scores of NaN into zeros
    out = cross_attention(q, k, v, layout)
    assert out[rows(layout, 2)].isnan().all()
    assert out[: layout.offsets[2]].isfinite().all()
    assert out[layout.offsets[3] :].isfinite().all()


def test_two_images_share_one_text() -> None:
    shared = TokenLayout(((2, 2), (2, 2)), ((1, 4), (1, 4)), DEVICE)
    copied = TokenLayout(((2, 2), (2, 2)), ((0, 3), (3, 6)), DEVICE)
    q, k, v = (random(8, HEADS, DIM, seed=s) for s in range(3))
    twice = [torch.cat([x[1:4], x[1:4]]) for x in (k, v)]
    assert torch.equal(cross_attention(q, k, v, shared), cross_attention(q, *twice, copied))


def test_a_pack_of_single_row_texts_needs_no_queries() -> None:
    layout = make_layout(((2, 2), (1, 3)), (1, 1))
    k = random(2, HEADS, DIM)
    out = cross_attention(random(0, HEADS, DIM), k, k, layout)
    assert out.shape == (0, HEADS, DIM)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_queries_are_normed_over_all_heads(dtype: torch.dtype) -> None:
    layout = make_layout()
    q = 3 * random(layout.attended, HEADS, DIM, dtype=dtype)
    k, v = (random(sum(TEXT_LENGTHS), HEADS, DIM, seed=s, dtype=dtype) for s in (1, 2))
    weight = 1 + random(HEADS * DIM, seed=3, dtype=dtype)
    out = cross_attention(q, k, v, layout, weight)
    flat = q.double().flatten(1)
    normed = (flat / (flat.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()).view_as(q)
    for image in range(layout.single_text_images.start):
        r, text = rows(layout, image), slice(*layout.texts[image])
        tolerance = 2e-6 if dtype == torch.float32 else 4 * torch.finfo(dtype).eps
        assert_close(out[r], softmax_attention(normed[r], k[text], v[text]), tolerance)


@pytest.mark.parametrize("layout", random_layouts(), ids=lambda layout: str(layout.texts))
@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_ragged_packs_and_heads_of_any_width(layout: TokenLayout, dtype: torch.dtype) -> None:
    q = 3 * random(layout.attended, 2, 20, dtype=dtype)
    k, v = (random(layout.texts[-1][1], 2, 20, seed=s, dtype=dtype) for s in (1, 2))
    out = cross_attention(q, k, v, layout)
    assert out.dtype == dtype
    for image in range(layout.single_text_images.start):
        r, text = rows(layout, image), slice(*layout.texts[image])
        tolerance = 2e-6 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps
        assert_close(out[r], softmax_attention(q[r], k[text], v[text]), tolerance)
