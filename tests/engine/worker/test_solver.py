"""Both solvers against diffusers' schedulers: schedules bit for bit, steps on random network outputs."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SCMScheduler

from engine.worker.solver import (
    Schedule,
    dpmpp_2m_schedule,
    euler_schedule,
    flow_sigmas,
    flow_timesteps,
    scm_schedule,
    scm_times,
)
from kernels.guided_step import guide, solver_step

from ...checkpoints import flow_scheduler
from ...reference import REL, quiet, relative_error

PUBLISHED = [999, 982, 963, 944, 922, 899, 874, 847, 817, 785, 749, 710, 666, 617, 562, 499, 428, 345, 249, 136]
"""Timesteps of 20 steps with shift 3, as the released pipelines run them."""
NO_NOISE = torch.zeros(())


@pytest.mark.parametrize("shift", [3.0, 6.0])
def test_flow_schedule_equals_diffusers(shift: float) -> None:
    scheduler = flow_scheduler(shift)
    for steps in range(1, 51):
        with quiet():
            scheduler.set_timesteps(steps)
        sigmas = flow_sigmas(steps, shift)
        assert torch.equal(torch.from_numpy(sigmas).float(), scheduler.sigmas)
        assert flow_timesteps(sigmas).tolist() == scheduler.timesteps.tolist()
        assert dpmpp_2m_schedule(steps, shift).times.tolist() == scheduler.timesteps.tolist()


def test_flow_timesteps_of_twenty_steps() -> None:
    assert flow_timesteps(flow_sigmas(20, 3.0)).tolist() == PUBLISHED


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_scm_schedule_equals_diffusers(steps: int) -> None:
    scheduler = SCMScheduler()
    scheduler.set_timesteps(steps, intermediate_timesteps=1.3 if steps == 2 else None)
    assert scm_times(steps) == scheduler.timesteps.tolist()
    angles = scheduler.timesteps[:-1]
    times = angles.sin() / (angles.cos() + angles.sin())
    assert relative_error(scm_schedule(steps, 0.5).times, times) <= 1e-6


def noise(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def row(schedule: Schedule, step: int, start: int = 0) -> torch.Tensor:
    """Coefficients of one step for all latents, [1, 6]."""
    return torch.tensor([schedule.coefficients_at(step, start)])


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
@pytest.mark.parametrize("shift", [1.0, 3.0, 7.0])
def test_euler_steps_equal_diffusers(shift: float, steps: int) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    schedule = euler_schedule(steps, shift)
    assert relative_error(schedule.times, scheduler.timesteps) <= 1e-6
    x = theirs = noise((12, 32), seed=0)
    old_denoised = torch.full_like(x, 1e6)  # no step reads it
    for step in range(steps):
        velocity = noise((12, 32), seed=step + 1)
        theirs = scheduler.step(velocity, scheduler.timesteps[step], theirs).prev_sample
        x, old_denoised = solver_step(x, velocity, old_denoised, NO_NOISE, row(schedule, step))
        assert relative_error(x, theirs) <= REL


def compare_dpmpp_2m(shift: float, steps: int, start: int) -> None:
    """All steps from `start` on, against a scheduler of diffusers that begins there with an empty history."""
    scheduler = flow_scheduler(shift)
    with quiet():
        scheduler.set_timesteps(steps)
    scheduler.set_begin_index(start)
    schedule = dpmpp_2m_schedule(steps, shift)
    x = theirs = noise((12, 32), seed=0)
    old_denoised = torch.full_like(x, 1e6)  # the first step must not read it
    for step in range(start, steps):
        velocity = noise((12, 32), seed=step + 1)
        theirs = scheduler.step(velocity, scheduler.timesteps[step], theirs).prev_sample
        x, old_denoised = solver_step(x, velocity, old_denoised, NO_NOISE, row(schedule, step, start))
        assert relative_error(x, theirs) <= REL
        assert relative_error(old_denoised, scheduler.model_outputs[-1]) <= REL


@pytest.mark.parametrize("steps", [*range(1, 9), 14, 15, 20, 50])
@pytest.mark.parametrize("shift", [3.0, 6.0])
def test_dpmpp_2m_steps_equal_diffusers(shift: float, steps: int) -> None:
    compare_dpmpp_2m(shift, steps, start=0)


@pytest.mark.parametrize(("steps", "start"), [(2, 1), (5, 1), (8, 3), (20, 1), (20, 7), (20, 18), (20, 19)])
def test_dpmpp_2m_start_inside_schedule_is_first_order(steps: int, start: int) -> None:
    compare_dpmpp_2m(3.0, steps, start)


def test_dpmpp_2m_second_order_wherever_possible() -> None:
    """Between the first and the last step, whichever step an image started at."""
    schedule = dpmpp_2m_schedule(20, 3.0)
    for start in (0, 5):
        changes = [schedule.coefficients_at(step, start).change_scale for step in range(start, 20)]
        assert changes[0] == changes[-1] == 0
        assert min(changes[1:-1]) > 0


@pytest.mark.parametrize("steps", [1, 4, 20])
def test_dpmpp_2m_scales_are_one_without_noise(steps: int) -> None:
    schedule = dpmpp_2m_schedule(steps, 3.0)
    assert schedule.steps == steps
    assert schedule.initial_scale == schedule.final_scale == 1
    assert schedule.input_scale.eq(1).all()
    assert not any(schedule.adds_noise(step) for step in range(steps))


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_scm_steps_equal_diffusers(steps: int) -> None:
    """As in its Sprint pipeline: scaled input, output changed to TrigFlow's, fresh noise from the generator."""
    scheduler = SCMScheduler()
    scheduler.set_timesteps(steps, intermediate_timesteps=1.3 if steps == 2 else None)
    sigma_data = scheduler.config.sigma_data
    schedule = scm_schedule(steps, sigma_data)
    initial = noise((1, 32, 4, 3), seed=0)
    theirs, x = initial * sigma_data, initial * schedule.initial_scale
    their_generator, our_generator = (torch.Generator().manual_seed(5) for _ in range(2))
    denoised = torch.zeros(())
    for step in range(steps):
        output = noise((1, 32, 4, 3), seed=step + 1)
        angle = scheduler.timesteps[step]
        s = angle.sin() / (angle.cos() + angle.sin())
        norm = (s**2 + (1 - s) ** 2).sqrt()
        model_input = theirs / sigma_data * norm
        assert relative_error(x * schedule.input_scale[step], model_input) <= REL
        trig = ((1 - 2 * s) * model_input + (1 - 2 * s + 2 * s**2) * output) / norm * sigma_data
        theirs, denoised = scheduler.step(trig, angle, theirs, generator=their_generator, return_dict=False)
        fresh = NO_NOISE
        assert schedule.adds_noise(step) == (step < steps - 1)
        if schedule.adds_noise(step):
            fresh = torch.randn(1, 32, 4, 3, generator=our_generator)
        x, _ = solver_step(x, output, torch.zeros_like(x), fresh, row(schedule, step)[0])
        if step < steps - 1:
            assert relative_error(x, theirs) <= REL
    assert relative_error(x, denoised / sigma_data) <= REL


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("kind", ["dpmpp_2m", "euler", "scm"])
def test_levels_are_those_of_a_perfect_prediction(kind: str, steps: int) -> None:
    """If the network knows the data, each step leads from one level to the next, to the data at the end."""
    made = {"dpmpp_2m": dpmpp_2m_schedule, "euler": euler_schedule, "scm": scm_schedule}[kind]
    schedule = made(steps, 0.5 if kind == "scm" else 3.0)
    data, old_denoised = noise((12, 32), seed=0), torch.zeros(())
    assert schedule.levels[-1] == (1.0, 0.0)
    for step in range(steps):
        fresh = noise((12, 32), seed=step + 1)
        data_scale, noise_scale = schedule.levels[step]
        x = data_scale * data + noise_scale * fresh
        coefficients = schedule.coefficients_at(step, 0)
        denoised = data / schedule.final_scale
        output = (denoised - coefficients.data_latents * x) / coefficients.data_output
        x, old_denoised = solver_step(x, output, denoised, fresh, row(schedule, step))
        data_scale, noise_scale = schedule.levels[step + 1]
        assert relative_error(x, data_scale * data + noise_scale * fresh) <= REL
    assert relative_error(old_denoised * schedule.final_scale, data) <= REL


def test_solver_step_mixed_schedules_equal_separate_ones() -> None:
    """Each token has its own schedule, step and solver."""
    rows = [row(dpmpp_2m_schedule(20, 3.0), 7), row(dpmpp_2m_schedule(4, 6.0), 3), row(scm_schedule(2, 0.5), 0)]
    coefficients = torch.cat(rows)
    x, output, old, fresh = (noise((6, 32), seed=s) for s in range(4))
    owner = torch.tensor([0, 1, 1, 2, 2, 2])
    together = solver_step(x, output, old, fresh, coefficients[owner])
    for token in range(6):
        r = slice(token, token + 1)
        alone = solver_step(x[r], output[r], old[r], fresh[r], coefficients[owner[r]])
        assert torch.equal(together[0][r], alone[0])
        assert torch.equal(together[1][r], alone[1])


def test_guidance_formula() -> None:
    conditional, unconditional = noise((4, 3), seed=0), noise((4, 3), seed=1)
    scale = torch.tensor([[4.5], [1.0], [0.0], [7.0]])
    guided = guide(conditional, unconditional, scale)
    assert torch.allclose(guided[0], 4.5 * conditional[0] - 3.5 * unconditional[0], atol=1e-5)
    assert torch.allclose(guided[1], conditional[1], atol=1e-6)
    assert torch.equal(guided[2], unconditional[2])
    assert torch.equal(guide(conditional, conditional, scale), conditional)  # one branch only
