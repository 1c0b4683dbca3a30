"""Noise to latents: Flow-DPM-Solver++ 2M (SANA, section 3.3), Sprint's SCM and Euler, as schedules of affine steps.

A step of any solver is affine in the latents, the network's output, the previous estimate and fresh noise, so one
op (`kernels.guided_step`, whose formula names the coefficients) advances any mix of images, steps and step counts.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from kernels.guided_step import Coefficients

TRAIN_STEPS = 1000
SCM_MAX_TIME = 1.57080
SCM_TWO_STEP_TIME = 1.3


@dataclass(frozen=True)
class Schedule:
    """All steps of one image, from pure noise to the decoder's latents.

    Args:
        times: time input of the transformer at each step, fp32 [steps].
        initial_scale: factor of the initial unit noise.
        input_scale: factor of the latents before they enter the transformer, fp32 [steps].
        coefficients: coefficients of each step, second order wherever the solver has a previous step.
        levels: factors of the data and of unit noise in the latents before each step and after the last.
    """

    times: torch.Tensor
    initial_scale: float
    input_scale: torch.Tensor
    coefficients: tuple[Coefficients[float], ...]
    levels: tuple[tuple[float, float], ...]

    @property
    def steps(self) -> int:
        return len(self.times)

    @property
    def final_scale(self) -> float:
        """Factor from a denoised estimate to the decoder's latents, as the last step applies it."""
        return self.coefficients[-1].denoised_scale

    def coefficients_at(self, step: int, start: int) -> Coefficients[float]:
        """Coefficients of `step` for an image whose first step is `start`.

        The first step of an image is first order wherever in the schedule it is: there is no earlier estimate yet.
        """
        coefficients = self.coefficients[step]
        return coefficients._replace(change_scale=0.0) if step == start else coefficients

    def adds_noise(self, step: int) -> bool:
        """Whether `step` adds fresh noise."""
        return self.coefficients[step].noise_scale != 0


def flow_sigmas(steps: int, shift: float) -> np.ndarray:
    """Noise levels from about 1 to 0, float64 [steps + 1]: s u / (1 + (s - 1) u) on a uniform grid, then 0."""
    u = 1.0 - np.linspace(1, 1 / TRAIN_STEPS, steps + 1)
    shifted = np.flip(shift * u / (1 + (shift - 1) * u))[:-1]
    return np.append(shifted, 0.0)


def flow_timesteps(sigmas: np.ndarray) -> np.ndarray:
    """Integer timesteps as in the training of the flow checkpoints, int64 [steps]."""
    return (sigmas[:-1] * TRAIN_STEPS).astype(np.int64)


def dpmpp_2m_schedule(steps: int, shift: float, timestep_scale: float = 1.0) -> Schedule:
    """DPM-Solver++ 2M (arXiv 2211.01095, algorithm 2) on rectified flow, alpha = 1 - sigma.

    Midpoint method, data prediction. The last step is first order; `Schedule.coefficients_at` makes the first one so.
    """
    exact = flow_sigmas(steps, shift)
    sigmas = torch.from_numpy(exact.astype(np.float32))
    log_snr = torch.log(1 - sigmas) - torch.log(sigmas)  # lambda; infinite at the final sigma 0
    coefficients = []
    for i in range(steps):
        h = log_snr[i + 1] - log_snr[i]
        denoised_scale = -(1 - sigmas[i + 1]) * (torch.exp(-h) - 1)
        change_scale = torch.zeros(())
        if 0 < i < steps - 1:  # step 0 has no predecessor, and h is infinite in the last step
            r = (log_snr[i] - log_snr[i - 1]) / h
            change_scale = 0.5 * denoised_scale / r
        coefficients.append(
            Coefficients(
                data_latents=1.0,
                data_output=-float(sigmas[i]),
                x_scale=float(sigmas[i + 1] / sigmas[i]),
                denoised_scale=float(denoised_scale),
                change_scale=float(change_scale),
                noise_scale=0.0,
            )
        )
    times = torch.from_numpy(flow_timesteps(exact)).float() * timestep_scale
    return Schedule(times, 1.0, torch.ones(steps), tuple(coefficients), flow_levels(sigmas.tolist()))


def flow_levels(sigmas: list[float]) -> tuple[tuple[float, float], ...]:
    """`Schedule.levels` of rectified flow."""
    return tuple((1 - sigma, sigma) for sigma in sigmas)


def euler_schedule(steps: int, shift: float, timestep_scale: float = 1.0) -> Schedule:
    """Euler steps on rectified flow, as diffusers' FlowMatchEulerDiscreteScheduler: x moves along the velocity.

    Its noise levels are shifted twice: the ends of the uniform grid are shifted already.
    """

    def shifted(u: np.ndarray) -> np.ndarray:
        return shift * u / (1 + (shift - 1) * u)

    first, last = shifted(np.array([1, 1 / TRAIN_STEPS], dtype=np.float32)).tolist()
    grid = np.linspace(first * TRAIN_STEPS, last * TRAIN_STEPS, steps) / TRAIN_STEPS
    levels = shifted(grid).astype(np.float32)
    sigmas = np.append(levels, np.float32(0)).tolist()
    coefficients = tuple(
        Coefficients(
            data_latents=1.0,
            data_output=-sigma,
            x_scale=following / sigma,
            denoised_scale=1 - following / sigma,
            change_scale=0.0,
            noise_scale=0.0,
        )
        for sigma, following in pairwise(sigmas)
    )
    times = torch.from_numpy(levels) * TRAIN_STEPS * timestep_scale
    return Schedule(times, 1.0, torch.ones(steps), coefficients, flow_levels(sigmas))


def scm_times(steps: int) -> list[float]:
    """TrigFlow angles from pi / 2 to 0, steps + 1 values; two steps use the angle that Sprint was tuned for."""
    if steps == 2:
        return torch.tensor([SCM_MAX_TIME, SCM_TWO_STEP_TIME, 0.0]).tolist()
    return torch.linspace(SCM_MAX_TIME, 0.0, steps + 1).tolist()


def scm_schedule(steps: int, sigma_data: float) -> Schedule:
    """Sprint's stochastic consistency steps (arXiv 2503.09641, section 3): jump to the data, add fresh noise.

    The network is a flow model at time s = sin t / (sin t + cos t); a change of variables makes its output TrigFlow's.
    """
    times, input_scale, coefficients, levels = [], [], [], []
    for i, (angle, next_angle) in enumerate(pairwise(scm_times(steps))):
        last = i == steps - 1
        sin, cos = math.sin(angle), math.cos(angle)
        s = sin / (sin + cos)
        norm = math.sqrt(s * s + (1 - s) ** 2)
        times.append(s)
        input_scale.append(norm / sigma_data)
        levels.append((cos * sigma_data, sin * sigma_data))
        coefficients.append(
            Coefficients(
                data_latents=cos - sin * (1 - 2 * s),
                data_output=-sin * sigma_data * (1 - 2 * s + 2 * s * s) / norm,
                x_scale=0.0,
                # The last step ends at the data, which the decoder takes in units of 1 instead of sigma_data.
                denoised_scale=1 / sigma_data if last else math.cos(next_angle),
                change_scale=0.0,
                noise_scale=0.0 if last else math.sin(next_angle) * sigma_data,
            )
        )
    levels.append((1.0, 0.0))
    return Schedule(torch.tensor(times), sigma_data, torch.tensor(input_scale), tuple(coefficients), tuple(levels))
