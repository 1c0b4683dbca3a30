import pytest
import torch
import torch.nn.functional as F

from kernels.glu_conv import glu_conv_reference

from .packs import SIZES, assert_close, make_layout, random, rows

CHANNELS = 6
WEIGHT, BIAS = random(2 * CHANNELS, 1, 3, 3, seed=1), random(2 * CHANNELS, seed=2)


@pytest.mark.parametrize("image", range(len(SIZES)))
def test_each_image_is_convolved_with_zeros_at_its_own_border(image: int) -> None:
    layout = make_layout()
    x = random(layout.total, 2 * CHANNELS)
    out = glu_conv_reference(x, WEIGHT, BIAS, layout)
    assert out.shape == (layout.total, CHANNELS)
    height, width = SIZES[image]
    padded = F.pad(x[rows(layout, image)].double().T.unflatten(1, (height, width)), (1, 1, 1, 1))
    expected = torch.empty(height, width, 2 * CHANNELS, dtype=torch.float64)
    for i in range(height):
        for j in range(width):
            expected[i, j] = (padded[:, i : i + 3, j : j + 3] * WEIGHT[:, 0].double()).sum((1, 2)) + BIAS
    a, gate = expected.flatten(0, 1).chunk(2, dim=-1)
    assert_close(out[rows(layout, image)], a * gate * torch.sigmoid(gate))


def test_an_image_of_nan_does_not_reach_its_neighbours() -> None:
    layout = make_layout()
    x = random(layout.total, 2 * CHANNELS)
    clean = glu_conv_reference(x, WEIGHT, BIAS, layout)
    x[rows(layout, 1)] = float("nan")
    out = glu_conv_reference(x, WEIGHT, BIAS, layout)
    others = [i for i in range(layout.total) if layout.image_index[i] != 1]
    assert_close(out[others], clean[others])
