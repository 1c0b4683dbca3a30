"""Flow-DPM-Solver and Euler on the demo model: share of prompts passed, and distance to the converged image.

    python -m benchmarks.solvers --each 30

The PSNR compares each image with the one that many steps generate from the same noise.
"""

import asyncio
import queue
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch

from engine import EngineConfig, Event, Failed, Finished, GenerationParams, StepReport
from engine.messages import Submit
from engine.worker.core import EngineCore
from engine.worker.solver import Schedule, dpmpp_2m_schedule, flow_levels, flow_sigmas, flow_timesteps
from kernels.guided_step import Coefficients
from server.evaluation.exam import ExamSettings, Mark, examine, shares, wilson
from server.evaluation.suite import KINDS

from .arguments import make_parser, parse
from .psnr import psnr

CONVERGED_EACH = 2
"""Prompts of each kind that are also generated with the steps of --converged."""


def euler_schedule(steps: int, shift: float) -> Schedule:
    """Euler's x + (sigma' - sigma) v on the same noise levels, as coefficients of `solver_step`."""
    sigmas = flow_sigmas(steps, shift)
    coefficients = [
        Coefficients(1.0, -sigma, following / sigma, 1 - following / sigma, change_scale=0.0, noise_scale=0.0)
        for sigma, following in pairwise(sigmas.tolist())
    ]
    times = torch.from_numpy(flow_timesteps(sigmas)).float()
    return Schedule(times, 1.0, torch.ones(steps), tuple(coefficients), flow_levels(sigmas.tolist()))


def examine_core(
    core: EngineCore, events: "queue.SimpleQueue[Event | StepReport]", each: int, steps: int
) -> list[Mark]:
    """Marks of the exam on an engine core in this process, one image at a time."""
    size = core.model.default_size[0]

    async def generate(prompt: str, seed: int) -> bytes:
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

    return asyncio.run(examine(generate, ExamSettings(each=each)))


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("solvers", __doc__)
    each_help = f"prompts of each of the {len(KINDS)} kinds (default: %(default)s)"
    parser.add_argument("--each", type=int, default=30, help=each_help)
    parser.add_argument("--steps", default="20,14,6", help="steps of Flow-DPM-Solver (default: %(default)s)")
    parser.add_argument("--euler-steps", default="40,14,6", help="steps of Euler (default: %(default)s)")
    converged_help = "steps of the image that counts as converged (default: %(default)s)"
    parser.add_argument("--converged", type=int, default=100, help=converged_help)
    args = parse(parser, argv, each=1, steps="1", euler_steps="2", converged=3)
    events: queue.SimpleQueue[Event | StepReport] = queue.SimpleQueue()
    core = EngineCore(EngineConfig(device="cpu"), events.put)
    shift = core.runner.solver.flow_shift
    flow_dpm: Callable[[int], Schedule] = lambda steps: dpmpp_2m_schedule(steps, shift)  # noqa: E731
    euler: Callable[[int], Schedule] = lambda steps: euler_schedule(steps, shift)  # noqa: E731
    core.runner.schedule = flow_dpm  # type: ignore[method-assign, assignment]
    converged = examine_core(core, events, min(args.each, CONVERGED_EACH), args.converged)
    print(f"PSNR in dB: median to {args.converged} steps of Flow-DPM-Solver, over {len(converged)} images")
    print(f"{'':22}{'PSNR':>7}{'overall':>9}   95 % interval    " + "".join(f"{kind:>19}" for kind in KINDS))
    runs = [("Flow-DPM-Solver", flow_dpm, int(steps)) for steps in args.steps.split(",")]
    runs += [("Euler", euler, int(steps)) for steps in args.euler_steps.split(",")]
    for name, schedule, steps in runs:
        core.runner.schedule = schedule  # type: ignore[method-assign, assignment]
        started = time.monotonic()
        marks = examine_core(core, events, args.each, steps)
        passed = sum(mark.passed for mark in marks)
        low, high = wilson(passed, len(marks))
        kinds = "".join(f"{right:>13} of {asked:>2}" for right, asked in shares(marks).values())
        seconds = time.monotonic() - started
        near = np.median([psnr(mark.image, exact.image) for mark, exact in zip(marks, converged, strict=False)])
        overall = f"{passed / len(marks):>9.1%}   {low:.1%} to {high:.1%}"
        print(f"{f'{name} {steps}':22}{near:>7.1f}{overall} {kinds}   {seconds:.0f} s", flush=True)
    core.close()


if __name__ == "__main__":
    main()
