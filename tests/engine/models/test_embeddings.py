"""Time and position embeddings against diffusers'."""

import pytest
import torch
from diffusers.models.embeddings import get_2d_sincos_pos_embed, get_timestep_embedding

from engine.models.embeddings import position_embedding, sinusoids

from ...reference import REL, relative_error

CPU = torch.device("cpu")


def test_sinusoids_equal_diffusers() -> None:
    times = torch.tensor([0.0, 1.0, 136.0, 999.0, 1000.0, 0.45, 0.6093])
    expected = get_timestep_embedding(times, 256, flip_sin_to_cos=True, downscale_freq_shift=0)
    assert torch.equal(sinusoids(times), expected)


@pytest.mark.parametrize("size", [(1, 1), (3, 7), (64, 64), (70, 2)], ids=str)
@pytest.mark.parametrize(("base_size", "scale"), [(64, 1.0), (128, 2.0)])
def test_position_embedding_equals_diffusers(size: tuple[int, int], base_size: int, scale: float) -> None:
    expected = get_2d_sincos_pos_embed(
        64, size, base_size=base_size, interpolation_scale=scale, output_type="pt", device=CPU
    )
    assert relative_error(position_embedding(size, 64, base_size, scale, CPU), expected) <= REL
