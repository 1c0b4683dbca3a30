"""Flow-DPM-Solver beside Euler on the embedded model: `python -m benchmarks.solvers --each 30`.

Two measures: the exam, and the distance of the pictures from those that very many steps draw of the same noise.
"""

import argparse
import asyncio
import queue
import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch

from engine import EngineConfig, Event, Failed, Finished, GenerationParams, StepReport
from engine.messages import Submit
from engine.worker.core import EngineCore
from engine.worker.solver import Schedule, dpmpp_2m_schedule, flow_sigmas, flow_timesteps
from server.evaluation.exam import ExamSettings, Mark, examine, shares, wilson
from server.evaluation.suite import KINDS

CONVERGED_STEPS = 100
CONVERGED_EACH = 2
"""Prompts of each kind that are drawn in so many steps."""


def psnr(mark: Mark, exact: Mark) -> float:
    """Of two pictures of one task, in dB."""
    error = np.square(mark.picture.astype(float) - exact.picture).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-3)))


def euler_schedule(steps: int, shift: float) -> Schedule:
    """x + (sigma' - sigma) v on the same noise levels, in the coefficients of `solver_step`."""
    sigmas = flow_sigmas(steps, shift)
    rows = [[1.0, -sigma, following / sigma, 1 - following / sigma, 0.0, 0.0] for sigma, following in pairwise(sigmas)]
    times = torch.from_numpy(flow_timesteps(sigmas)).float()
    return Schedule(times, 1.0, torch.ones(steps), torch.tensor(rows, dtype=torch.float32))


def sit(core: EngineCore, events: "queue.SimpleQueue[Event | StepReport]", each: int, steps: int) -> list[Mark]:
    """The exam on an engine core in this process, a picture at a time."""
    size = core.model.default_size[0]

    async def draw(prompt: str, seed: int) -> bytes:
        params = GenerationParams(prompt, size, size, steps, core.model.default_guidance, seed)
        core.submit(Submit(str(seed), params))
        while core.busy:
            core.step()
        while True:
            event = events.get(timeout=60)
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Finished):
                return event.image

    return asyncio.run(examine(draw, ExamSettings(each=each)))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.solvers", description=__doc__)
    parser.add_argument("--each", type=int, default=30, help="prompts of each kind (%(default)s)")
    each = parser.parse_args().each
    events: queue.SimpleQueue[Event | StepReport] = queue.SimpleQueue()
    core = EngineCore(EngineConfig(device="cpu"), events.put)
    shift = core.runner.solver.flow_shift
    flow_dpm: Callable[[int], Schedule] = lambda steps: dpmpp_2m_schedule(steps, shift)  # noqa: E731
    euler: Callable[[int], Schedule] = lambda steps: euler_schedule(steps, shift)  # noqa: E731
    core.runner.schedule = flow_dpm  # type: ignore[method-assign]
    converged = sit(core, events, CONVERGED_EACH, CONVERGED_STEPS)
    print(f"{'':22}{'PSNR':>7}{'overall':>9}   95 % interval    " + "".join(f"{kind:>19}" for kind in KINDS))
    for name, schedule, steps in (
        ("Flow-DPM-Solver 20", flow_dpm, 20),
        ("Flow-DPM-Solver 14", flow_dpm, 14),
        ("Euler 14", euler, 14),
        ("Euler 40", euler, 40),
        ("Flow-DPM-Solver 6", flow_dpm, 6),
        ("Euler 6", euler, 6),
    ):
        core.runner.schedule = schedule  # type: ignore[method-assign]
        started = time.monotonic()
        marks = sit(core, events, each, steps)
        passed = sum(mark.passed for mark in marks)
        low, high = wilson(passed, len(marks))
        kinds = "".join(f"{right:>13} of {asked:>2}" for right, asked in shares(marks).values())
        seconds = time.monotonic() - started
        near = np.median([psnr(mark, exact) for mark, exact in zip(marks, converged, strict=False)])
        overall = f"{passed / len(marks):>9.1%}   {low:.1%} to {high:.1%}"
        print(f"{name:22}{near:>7.1f}{overall} {kinds}   {seconds:.0f} s", flush=True)
    core.close()


if __name__ == "__main__":
    main()
