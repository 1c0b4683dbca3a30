"""Warm-up: runs every phase before the first request to load code, allocate memory and measure the costs."""

import logging
import time
from collections.abc import Callable
from functools import partial

from ..costs import CostModel, fit_line, grid_size, image_tokens, is_guided
from ..host import run_delays
from ..types import GenerationParams, ModelInfo
from .image_task import ImageTask
from .runner import ModelRunner
from .threads import is_set_by_user, tune_threads

log = logging.getLogger(__name__)
CPU_SIDE = 256
"""Largest side in pixels on the CPU, where a step of 1024 px takes seconds."""
MIN_SHARE = 0.05
"""Share of the seconds of a run that counts even if a thread waited longer, such as one that took no part in it."""
RUNS = 3
"""Runs per phase: the first may load code, and other programs may use the machine."""


def measure_costs(runner: ModelRunner, model: ModelInfo) -> CostModel:
    """Runs a guided image of the default side and one of half of it, and a step of a small one without guidance."""
    side = min(model.default_size[0], CPU_SIDE) if runner.device.type == "cpu" else model.default_size[0]
    large, small = (warmup_task(model, prompt, part) for prompt, part in (("a cat", side), ("a dog", side // 2)))
    encodes = [seconds_of(partial(runner.encode, (task,)), runner) for task in (large, small)]
    if runner.device.type == "cpu" and not is_set_by_user():
        log.info("computing with %s", tune_threads(partial(image_seconds, runner, large)))
    steps, decodes = [], []
    for task in (small, large):
        steps.append((task.tokens, fastest(partial(runner.denoise, (task,)), runner)))
        task.step = task.params.num_inference_steps
        decodes.append((task.pixels, fastest(partial(decode, runner, task), runner)))
    run_unguided(runner, model, side // 2)
    return CostModel(encodes[-1], *fit_line(steps), *fit_line(decodes))


def image_seconds(runner: ModelRunner, task: ImageTask) -> float:
    """Seconds of an image's steps and decode. A decode gains more from threads than a small step does."""
    task.step = 0
    step = fastest(partial(runner.denoise, (task,)), runner)
    task.step = task.params.num_inference_steps
    seconds = task.step * step + fastest(partial(decode, runner, task), runner)
    task.step = 0
    return seconds


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
    """Seconds of the fastest of `RUNS` runs."""
    return min(seconds_of(run, runner) for _ in range(RUNS))


def seconds_of(run: Callable[[], object], runner: ModelRunner) -> float:
    """Seconds of one run on the device, without those in which a thread waited for a CPU that others used."""
    before, started = run_delays(), time.monotonic()
    run()
    runner.synchronize()
    seconds = time.monotonic() - started
    delays = [delay - before.get(thread, 0.0) for thread, delay in run_delays().items()]
    return max(seconds - max(delays, default=0.0), MIN_SHARE * seconds)
