"""Steps in CUDA graphs, compared with the same steps without; for test_interpreted.py and test_on_gpu.py.

On the CPU a graph is the call itself on the tensors of the graph, so only the capture differs from a GPU.
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
from engine.worker.pack import Bucket
from engine.worker.recorder import GraphRecorder
from engine.worker.runner import ModelRunner, require_state

from .packs import DEVICE, INTERPRETED, assert_close

assert INTERPRETED or DEVICE.type == "cuda"
TINY = shape_of("tiny")
# 128 channels of Mix-FFN are one block of channels: its kernel, which walks over tokens, is the slowest to interpret.
NARROW = TINY.transformer | {"mlp_ratio": 2.0}
SHAPES = {
    "with positions": replace(TINY, transformer=NARROW | {"interpolation_scale": 1.0}),
    "sprint": replace(TINY, transformer=NARROW | {"guidance_embeds": True}, sprint=True),
}
PACKS = {
    "guided by an empty prompt": [("a cat", 64, 64, 4.5, ""), ("a dog", 32, 96, 3.0, "")],
    "all kinds of guidance": [
        ("a cat", 96, 64, 1.0, ""),
        ("a blue dog", 32, 32, 4.5, ""),
        ("a bird", 64, 64, 7.0, "red"),
    ],
    "one small image": [("a dog", 32, 64, 4.5, "")],
}


def make_tasks(kind: str, runner: ModelRunner) -> tuple[ImageTask, ...]:
    tasks = []
    for i, (prompt, width, height, guidance, negative) in enumerate(PACKS[kind]):
        params = GenerationParams(prompt, width, height, 4, guidance, seed=i, negative_prompt=negative)
        guided = guidance > 1 and not runner.config.guidance_embeds
        tokens = width * height // 1024 * (1 + guided)
        tasks.append(ImageTask(str(i), 0, params, (width, height), guided, tokens))
    return tuple(tasks)


def denoise_packs(runner: ModelRunner) -> tuple[list[torch.Tensor], list[int]]:
    """The latents of all packs after two steps in turns, and the tokens of the graph that each step ran in (or 0)."""
    packs = [make_tasks(kind, runner) for kind in PACKS]
    for tasks in packs:
        runner.encode(tasks)
    graph_tokens = []
    for _ in range(2):
        for tasks in packs:
            graph_tokens.append(runner.denoise(tasks).graph_tokens)
            for task in tasks:
                task.step += 1
    return [require_state(task).latents.clone() for tasks in packs for task in tasks], graph_tokens


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_graph_steps_match_plain_steps(shape: Shape, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 128
    if INTERPRETED:  # whose time grows with the tokens: buckets as small as the packs allow
        most, buckets = 32, [Bucket(16, 16), Bucket(16, 0)]
        monkeypatch.setattr("engine.worker.graphs.all_buckets", lambda tokens: buckets)
    runner = make_runner(shape, DEVICE, torch.float32, "none")
    expected, graph_tokens = denoise_packs(runner)
    assert set(graph_tokens) == {0}
    runner.graphs = GraphRunner(runner.models.transformer, most, shape.sprint)
    runner.graphs.capture(GraphRecorder(DEVICE, math.inf))
    actual, graph_tokens = denoise_packs(runner)
    assert all(graph_tokens)
    for replayed, plain in zip(actual, expected, strict=True):
        assert_close(replayed, plain, relative=1e-5)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp2:RuntimeWarning")  # numpy's, in the interpreter
def test_graph_prompts_and_images_match_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.worker.decoder.GRAPH_SIZES", ((64, 96), (64, 64)))
    runner = make_runner(TINY, DEVICE, torch.float32, "none")
    tasks = make_tasks("all kinds of guidance", runner)

    def run() -> tuple[list[torch.Tensor], list[np.ndarray], int]:
        """Text keys, images decoded from the noise, and the number of forwards that a graph replayed."""
        forwards = [runner.encode(tasks), *(runner.decode_forwards(task) for task in tasks)]
        states = [require_state(task) for task in tasks]
        for state in states:
            state.old_denoised = state.latents
        images = [wait() for wait in [runner.decode(task) for task in tasks]]
        return [state.text.keys for state in states], images, sum(f.replayed for f in forwards)

    expected_keys, expected_images, replayed = run()
    assert replayed == 0
    runner.decoder.capture(math.inf)
    runner.prompts.capture(GraphRecorder(DEVICE, math.inf))
    keys, images, replayed = run()
    assert replayed >= 1 + 2
    for replayed_keys, plain_keys in zip(keys, expected_keys, strict=True):
        assert_close(replayed_keys, plain_keys, relative=1e-5)
    for image, expected in zip(images, expected_images, strict=True):
        assert np.abs(image.astype(int) - expected).max() <= 1
        assert image.std() > 10
