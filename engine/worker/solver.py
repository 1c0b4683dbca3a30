"""From noise to latents: Flow-DPM-Solver++ 2M (SANA, section 3.3) and Sprint's SCM, as tables of row-wise coefficients.

Both solvers are affine in what a step knows, so one op advances any mix of requests, steps and step counts:
`kernels.guided_step`, whose formula names the coefficients.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch

TRAIN_STEPS = 1000
SCM_MAX_TIME = 1.57080
SCM_TWO_STEP_TIME = 1.3


@dataclass(frozen=True)
class Schedule:
    """One row per step.

    Args:
        times: what the transformer is told, fp32 [steps].
        initial_scale: of the initial unit noise.
        input_scale: of the latents before the transformer, [steps].
        coefficients: fp32 [steps, 6], columns in the order of the op's formula.
    """

    times: torch.Tensor
    initial_scale: float
    input_scale: torch.Tensor
    coefficients: torch.Tensor

    @property
    def steps(self) -> int:
        return len(self.times)

    @property
    def final_scale(self) -> float:
        """From a denoised estimate to the decoder's latents: what the last step does with its own."""
        return float(self.coefficients[-1, 3])

    @cached_property
    def rows(self) -> torch.Tensor:
        """All that a step reads: time, input scale and coefficients, fp32 [steps, 8]."""
        return torch.cat([self.times[:, None], self.input_scale[:, None], self.coefficients], 1)

    def draws_noise(self, step: int) -> bool:
        """Whether step `step` adds fresh noise."""
        return bool(self.coefficients[step, 5] != 0)


def flow_sigmas(steps: int, shift: float) -> np.ndarray:
    """Noise levels from about 1 to 0, float64 [steps + 1]: s u / (1 + (s - 1) u) on an even grid, then 0."""
    u = 1.0 - np.linspace(1, 1 / TRAIN_STEPS, steps + 1)
    shifted = np.flip(shift * u / (1 + (shift - 1) * u))[:-1]
    return np.append(shifted, 0.0)


def flow_timesteps(sigmas: np.ndarray) -> np.ndarray:
    """The integer times the flow checkpoints were trained on, int64 [steps]."""
    return (sigmas[:-1] * TRAIN_STEPS).astype(np.int64)


def dpmpp_2m_schedule(steps: int, shift: float, timestep_scale: float = 1.0) -> Schedule:
    """DPM-Solver++ 2M (arXiv 2211.01095, algorithm 2) on rectified flow, alpha = 1 - sigma.

    Midpoint, data prediction; the first and the last step are of order 1.
    """
    exact = flow_sigmas(steps, shift)
    sigmas = torch.from_numpy(exact.astype(np.float32))
    log_snr = torch.log(1 - sigmas) - torch.log(sigmas)  # lambda; infinite at the final sigma 0
    rows = []
    for i in range(steps):
        h = log_snr[i + 1] - log_snr[i]
        denoised_scale = -(1 - sigmas[i + 1]) * (torch.exp(-h) - 1)
        change_scale = torch.zeros(())
        if 0 < i < steps - 1:
            r = (log_snr[i] - log_snr[i - 1]) / h
            change_scale = 0.5 * denoised_scale / r
        sigma_ratio = sigmas[i + 1] / sigmas[i]
        rows.append([1.0, -float(sigmas[i]), float(sigma_ratio), float(denoised_scale), float(change_scale), 0.0])
    times = torch.from_numpy(flow_timesteps(exact)).float() * timestep_scale
    return Schedule(times, 1.0, torch.ones(steps), torch.tensor(rows))


def scm_times(steps: int) -> list[float]:
    """TrigFlow angles from pi / 2 to 0, steps + 1 of them; two steps use the angle Sprint was tuned for."""
    if steps == 2:
        return torch.tensor([SCM_MAX_TIME, SCM_TWO_STEP_TIME, 0.0]).tolist()
    return torch.linspace(SCM_MAX_TIME, 0.0, steps + 1).tolist()


def scm_schedule(steps: int, sigma_data: float) -> Schedule:
    """Sprint's stochastic consistency steps (arXiv 2503.09641, section 3): jump to the data, add fresh noise.

    The network is a flow model told s = sin t / (sin t + cos t); a change of variables makes its output TrigFlow's.
    """
    angles = scm_times(steps)
    times, input_scale, rows = [], [], []
    for i, (angle, following) in enumerate(pairwise(angles)):
        sin, cos = math.sin(angle), math.cos(angle)
        s = sin / (sin + cos)
        norm = math.sqrt(s * s + (1 - s) ** 2)
        times.append(s)
        input_scale.append(norm / sigma_data)
        data_latents = cos - sin * (1 - 2 * s)
        data_output = -sin * sigma_data * (1 - 2 * s + 2 * s * s) / norm
        if i == steps - 1:  # the last jump lands on the data, in units of the decoder
            rows.append([data_latents, data_output, 0.0, 1 / sigma_data, 0.0, 0.0])
        else:
            noise_scale = math.sin(following) * sigma_data
            rows.append([data_latents, data_output, 0.0, math.cos(following), 0.0, noise_scale])
    return Schedule(torch.tensor(times), sigma_data, torch.tensor(input_scale), torch.tensor(rows))
