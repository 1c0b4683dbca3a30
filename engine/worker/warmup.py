"""Warm-up: runs every phase before the first request to load code, allocate memory and measure the costs."""

import time
from collections.abc import Callable
from functools import partial

from ..costs import CostModel, fit_line, grid_size, image_tokens, is_guided
from ..types import GenerationParams, ModelInfo
from .image_task import ImageTask
from .runner import ModelRunner

CPU_SIDE = 256
"""Largest side in pixels on the CPU, where a step of 1024 px takes seconds."""
RUNS = 4
"""Runs per phase. Costs measured too high on a busy machine refuse requests until steps have corrected them."""


def measure_costs(runner: ModelRunner, model: ModelInfo) -> CostModel:
    """Runs a guided image of the default side and one of half of it, and a step of a small one without guidance."""
    side = min(model.default_size[0], CPU_SIDE) if runner.device.type == "cpu" else model.default_size[0]
    large, small = (warmup_task(model, prompt, part) for prompt, part in (("a cat", side), ("a dog", side // 2)))
    encodes = [seconds_of(partial(runner.encode, (task,)), runner) for task in (large, small)]
    steps, decodes = [], []
    for task in (small, large):
        steps.append((task.tokens, fastest(partial(runner.denoise, (task,)), runner)))
        task.step = task.params.num_inference_steps
        decodes.append((task.pixels, fastest(partial(decode, runner, task), runner)))
    run_unguided(runner, model, side // 2)
    return CostModel(encodes[-1], *fit_line(steps), *fit_line(decodes))


def run_unguided(runner: ModelRunner, model: ModelInfo, side: int) -> None:
    """Runs a step without a second branch: it launches other variants of some kernels, compiled on first use."""
    task = warmup_task(model, "a cat", side, guidance=1.0)
    runner.encode((task,))
    runner.denoise((task,))
    runner.synchronize()


def warmup_task(model: ModelInfo, prompt: str, side: int, guidance: float | None = None) -> ImageTask:
    """Square image of about `side` pixels, on the model's size grid."""
    side = max(1, side // model.size_multiple) * model.size_multiple
    scale = model.default_guidance if guidance is None else guidance
    params = GenerationParams(prompt, side, side, model.default_steps, scale, seed=0)
    size, guided, tokens = grid_size(params, model), is_guided(params, model), image_tokens(params, model)
    return ImageTask("warm-up", 0, params, size, guided, tokens)


def decode(runner: ModelRunner, task: ImageTask) -> None:
    runner.decode(task)()


def fastest(run: Callable[[], object], runner: ModelRunner) -> float:
    """Seconds of the fastest of `RUNS` runs: the first may load code, and other programs may use the machine."""
    return min(seconds_of(run, runner) for _ in range(RUNS))


def seconds_of(run: Callable[[], object], runner: ModelRunner) -> float:
    """Seconds of one run on the device."""
    started = time.monotonic()
    run()
    runner.synchronize()
    return time.monotonic() - started
