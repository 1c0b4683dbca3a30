import torch

from kernels.modulate import gated_add_reference, modulate_reference

from .packs import SIZES, assert_close, make_layout, random, rows

CHANNELS = 12


def test_each_image_is_normalised_and_modulated_by_its_own_vectors() -> None:
    layout = make_layout()
    x = 3 + 2 * random(layout.total, CHANNELS)
    shift, scale = (random(len(SIZES), CHANNELS, seed=s) for s in (1, 2))
    out = modulate_reference(x, shift, scale, layout)
    for image in range(len(SIZES)):
        part = x[rows(layout, image)].double()
        deviation = (part.var(-1, keepdim=True, correction=0) + 1e-6).sqrt()
        normed = (part - part.mean(-1, keepdim=True)) / deviation
        assert_close(out[rows(layout, image)], normed * (1 + scale[image]) + shift[image])


def test_the_gate_multiplies_what_is_added() -> None:
    layout = make_layout()
    x, y = random(layout.total, CHANNELS), random(layout.total, CHANNELS, seed=1)
    gate = random(len(SIZES), CHANNELS, seed=2)
    out = gated_add_reference(x, gate, y, layout)
    for image in range(len(SIZES)):
        r = rows(layout, image)
        assert_close(out[r], x[r] + gate[image] * y[r])


def test_half_precision_stays_half_precision() -> None:
    layout = make_layout()
    x = random(layout.total, CHANNELS).bfloat16()
    vectors = random(len(SIZES), CHANNELS, seed=1).bfloat16()
    assert modulate_reference(x, vectors, vectors, layout).dtype == torch.bfloat16
    assert gated_add_reference(x, vectors, x, layout).dtype == torch.bfloat16
