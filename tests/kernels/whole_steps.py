"""What CUDA graphs run, beside the same without: for test_interpreted.py and test_on_gpu.py.

On the CPU a graph is the call itself on the graph's own tensors, so all but the capture is what a GPU does.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.random_models import Shape, make_runner, shape_of
from engine import GenerationParams
from engine.worker.graphs import GraphRunner
from engine.worker.image_task import ImageTask
from engine.worker.recorder import Recorder
from engine.worker.runner import ModelRunner, state_of

from .packs import DEVICE, INTERPRETED, assert_close

assert INTERPRETED or DEVICE.type == "cuda"
TINY = shape_of("tiny")
SHAPES = {
    "with positions": replace(TINY, transformer=TINY.transformer | {"interpolation_scale": 1.0}),
    "sprint": replace(TINY, transformer=TINY.transformer | {"guidance_embeds": True}, sprint=True),
}
PACKS = {
    "guided by the empty prompt": [("a cat", 64, 64, 4.5, ""), ("a dog", 32, 96, 3.0, "")],
    "of all kinds": [("a cat", 96, 64, 1.0, ""), ("a blue dog", 32, 32, 4.5, ""), ("a bird", 64, 64, 7.0, "red")],
    "of one small picture": [("a dog", 32, 64, 4.5, "")],
}


def make_tasks(kind: str, runner: ModelRunner) -> tuple[ImageTask, ...]:
    tasks = []
    for i, (prompt, width, height, guidance, negative) in enumerate(PACKS[kind]):
        params = GenerationParams(prompt, width, height, 4, guidance, seed=i, negative_prompt=negative)
        guided = guidance > 1 and not runner.config.guidance_embeds
        tasks.append(ImageTask(str(i), 0, params, guided, tokens=width * height // 1024 * (1 + guided)))
    return tuple(tasks)


def draw(runner: ModelRunner) -> tuple[list[torch.Tensor], list[int]]:
    """Latents of all packs, which take turns as small and large pictures do, and the rows of the graphs that ran."""
    packs = [make_tasks(kind, runner) for kind in PACKS]
    for tasks in packs:
        runner.encode(tasks)
    rows = []
    for _ in range(2):
        for tasks in packs:
            rows.append(runner.denoise(tasks).graph_tokens)
            for task in tasks:
                task.step += 1
    return [state_of(task).latents.clone() for tasks in packs for task in tasks], rows


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_graph_draws_what_its_kernels_draw(shape: Shape) -> None:
    runner = make_runner(shape, DEVICE, torch.float32, "none")
    expected, rows = draw(runner)
    assert set(rows) == {0}
    runner.graphs = GraphRunner(runner.models.transformer, 128, shape.sprint)
    runner.graphs.capture(Recorder(DEVICE, until=math.inf))
    actual, rows = draw(runner)
    assert all(rows)
    for ours, theirs in zip(actual, expected, strict=True):
        assert_close(ours, theirs, relative=1e-5)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp2:RuntimeWarning")  # of numpy, which interprets it
def test_graphs_of_prompts_and_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.worker.decoder.GRAPH_SIZES", ((64, 96), (64, 64)))
    runner = make_runner(TINY, DEVICE, torch.float32, "none")
    tasks = make_tasks("of all kinds", runner)

    def run() -> tuple[list[torch.Tensor], list[np.ndarray], int]:
        """What encoding gives, pictures of the noise, and how much of both was replayed."""
        forwards = [runner.encode(tasks), *(runner.decode_forwards(task) for task in tasks)]
        states = [state_of(task) for task in tasks]
        for state in states:
            state.old_denoised = state.latents
        pictures = [wait() for wait in [runner.decode(task) for task in tasks]]
        return [state.text.keys for state in states], pictures, sum(f.replayed for f in forwards)

    expected_keys, expected_pictures, replayed = run()
    assert replayed == 0
    runner.decoder.capture(math.inf)
    runner.prompts.capture(Recorder(DEVICE, math.inf))
    keys, pictures, replayed = run()
    assert replayed >= 1 + 2
    for ours, theirs in zip(keys, expected_keys, strict=True):
        assert_close(ours, theirs, relative=1e-5)
    for picture, expected in zip(pictures, expected_pictures, strict=True):
        assert np.abs(picture.astype(int) - expected).max() <= 1
        assert picture.std() > 10
