"""The op against its formula in fp64; the schedules are tested with the solver."""

import pytest
import torch

from kernels.guided_step import Coefficients, guided_step

from .packs import DEVICE, assert_close, random


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("rows", "width"), [(1, 32), (37, 32), (70, 5)])
@pytest.mark.parametrize("noisy", [False, True])
def test_guided_step_formula(rows: int, width: int, noisy: bool, dtype: torch.dtype) -> None:
    x, old, noise = (random(rows, width, seed=s) for s in range(3))
    output = random(2 * rows + 3, width, seed=3).to(dtype)
    order = torch.randperm(2 * rows + 3, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    conditional, unconditional = order[:rows], order[rows : 2 * rows]
    unconditional[::3] = conditional[::3]  # rows without guidance
    guidance, coefficients = 4.5 * random(rows, 1, seed=4), random(rows, 6, seed=5)
    if not noisy:
        coefficients[:, Coefficients._fields.index("noise_scale")] = 0
    result = guided_step(x, output, conditional, unconditional, guidance, old, noise if noisy else None, coefficients)

    c, u = output[conditional].double(), output[unconditional].double()
    a = Coefficients(*coefficients.double().split(1, dim=1))
    denoised = a.data_latents * x + a.data_output * (u + guidance * (c - u))
    assert_close(result[1], denoised)
    expected = a.x_scale * x + a.denoised_scale * denoised + a.change_scale * (denoised - old)
    assert_close(result[0], expected + a.noise_scale * noise.double())


def test_guided_step_nan_stays_in_token() -> None:
    x, old = random(8, 4), random(8, 4, seed=1)
    output = random(8, 4, seed=2)
    output[3] = float("nan")
    index = torch.arange(8, device=DEVICE)
    x_next, denoised = guided_step(
        x, output, index, index, torch.ones(8, 1, device=DEVICE), old, None, random(8, 6, seed=3)
    )
    for result in (x_next, denoised):
        assert result[3].isnan().all()
        assert result[index != 3].isfinite().all()
