"""Runs every phase once before the first request: code is loaded, memory is laid out, and the costs are measured."""

import time
from collections.abc import Callable
from functools import partial

from ..costs import CostModel, fit_line, image_tokens, is_guided
from ..types import GenerationParams, ModelInfo
from .image_task import ImageTask
from .runner import ModelRunner

CPU_SIDE = 256
"""Largest side on the CPU, where a step of 1024 px takes seconds."""
RUNS = 4
"""Of each phase. Costs that a busy moment makes too high refuse requests until steps have corrected them."""


def measure_costs(runner: ModelRunner, model: ModelInfo) -> CostModel:
    """Draws an image of the model's side and one of half of it, guided, and steps a small one without guidance."""
    side = min(model.default_size[0], CPU_SIDE) if runner.device.type == "cpu" else model.default_size[0]
    large, small = (warmup_task(model, prompt, part) for prompt, part in (("a cat", side), ("a dog", side // 2)))
    encodes = [seconds_of(partial(runner.encode, (task,)), runner) for task in (large, small)]
    steps, decodes = [], []
    for task in (small, large):
        steps.append((task.tokens, fastest(partial(runner.denoise, (task,)), runner)))
        task.step = task.params.num_inference_steps
        decodes.append((task.pixels, fastest(partial(decode, runner, task), runner)))
    run_alone(runner, model, side // 2)
    return CostModel(encodes[-1], *fit_line(steps), *fit_line(decodes))


def run_alone(runner: ModelRunner, model: ModelInfo, side: int) -> None:
    """A step without a second branch launches other forms of some kernels, which are compiled on their first use."""
    task = warmup_task(model, "a cat", side, guidance=1.0)
    runner.encode((task,))
    runner.denoise((task,))
    runner.synchronize()


def warmup_task(model: ModelInfo, prompt: str, side: int, guidance: float | None = None) -> ImageTask:
    side = max(1, side // model.size_multiple) * model.size_multiple
    scale = model.default_guidance if guidance is None else guidance
    params = GenerationParams(prompt, side, side, model.default_steps, scale, seed=0)
    return ImageTask("warm-up", 0, params, is_guided(params, model), image_tokens(params, model))


def decode(runner: ModelRunner, task: ImageTask) -> None:
    runner.decode(task)()


def fastest(run: Callable[[], object], runner: ModelRunner) -> float:
    """The best of a few runs: the first may load code, and others may use the machine meanwhile."""
    return min(seconds_of(run, runner) for _ in range(RUNS))


def seconds_of(run: Callable[[], object], runner: ModelRunner) -> float:
    started = time.monotonic()
    run()
    runner.synchronize()
    return time.monotonic() - started
