"""Buckets and their padding, and captures per phase. Graphs against kernels: tests/kernels/whole_steps.py."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch

from benchmarks.random_models import Shape, make_runner, shape_of
from engine import GenerationParams
from engine.worker import recorder
from engine.worker import runner as runner_module
from engine.worker.graphs import MAX_PACKED_IMAGES, MAX_TEXT_TOKENS, GraphRunner, all_buckets, bucket_sizes
from engine.worker.image_task import ImageTask
from engine.worker.pack import (
    COEFFICIENTS,
    Bucket,
    Pack,
    build_pack,
    denoise_step,
    packed_images,
    section_tokens,
    step_table,
)
from engine.worker.recorder import GraphRecorder
from engine.worker.runner import ModelRunner, require_state
from kernels.guided_step import Coefficients

from .host_reads import HostReads

CPU = torch.device("cpu")
TINY = shape_of("tiny")
SHAPES = {
    "plain": TINY,
    "with positions": replace(TINY, transformer=TINY.transformer | {"interpolation_scale": 1.0}),
    "sprint": replace(TINY, transformer=TINY.transformer | {"guidance_embeds": True}, sprint=True),
}
MIX = [("a cat", 96, 64, 1.0, ""), ("a blue dog", 32, 32, 4.5, ""), ("a bird", 64, 64, 7.0, "red")]
GUIDED = [("a cat", 96, 64, 4.5, ""), ("a dog", 64, 32, 3.0, "")]
Images = list[tuple[str, int, int, float, str]]
"""Prompt, width, height, guidance and negative prompt of each image."""


@pytest.fixture(scope="module")
def runner() -> ModelRunner:
    return make_runner(TINY, CPU, torch.float32, "none")


def encoded(runner: ModelRunner, images: Images) -> tuple[ImageTask, ...]:
    tasks = []
    for i, (prompt, width, height, guidance, negative) in enumerate(images):
        params = GenerationParams(prompt, width, height, 4, guidance, seed=i, negative_prompt=negative)
        guided = guidance > 1 and not runner.config.guidance_embeds
        tokens = width * height // 1024 * (1 + guided)
        tasks.append(ImageTask(str(i), 0, params, (width, height), guided, tokens))
    runner.encode(tuple(tasks))
    return tuple(tasks)


@torch.inference_mode()
def packed(runner: ModelRunner, images: Images, bucket: Bucket | None) -> Pack:
    """The images at their second step."""
    tasks = encoded(runner, images)
    states = [require_state(task) for task in tasks]
    pack = build_pack(
        tasks, states, packed_images(states), bucket, runner.models.transformer, adds_noise=runner.solver.scm
    )
    table = step_table(states, [1] * len(states), [task.params.guidance_scale for task in tasks], 0.1)
    pack.tensors.steps.copy_(table)
    return pack


def test_buckets_four_per_octave_largest_first() -> None:
    sizes = list(bucket_sizes(16384))
    assert sizes[:9] == [64, 80, 96, 112, 128, 160, 192, 224, 256]
    assert sizes[-1] == 16384
    assert all(size % 16 == 0 for size in sizes)
    assert all(larger <= 1.25 * smaller for smaller, larger in pairwise(sizes))
    buckets = all_buckets(1000)
    assert [bucket.tokens for bucket in buckets] == sorted((bucket.tokens for bucket in buckets), reverse=True)
    assert {Bucket(896, 0), Bucket(448, 448)} <= set(buckets)
    assert buckets[0].tokens == 896


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (GUIDED, Bucket(64, 64)),  # every image has a branch with the empty prompt
        (MIX, Bucket(64, 0)),  # one image has no second branch, one has another negative prompt
        ([("a cat", 512, 256, 4.5, "")], Bucket(128, 128)),
        ([("a cat", 512, 320, 1.0, "")], Bucket(160, 0)),
        ([("a cat", 512, 288, 1.0, "")], Bucket(160, 0)),
        ([("a cat", 1024, 512, 1.0, "")], None),  # more tokens than the largest bucket
        ([("a cat", 32, 32, 1.0, "")] * (MAX_PACKED_IMAGES - 1), None),
        ([(f"{'a cat ' * 300}{i}", 32, 32, 1.0, "") for i in range(MAX_TEXT_TOKENS // 298 + 1)], None),
    ],
)
def test_bucket_search_finds_smallest_that_fits(runner: ModelRunner, images: Images, expected: Bucket | None) -> None:
    graphs = GraphRunner(runner.models.transformer, 256, adds_noise=False)
    states = [require_state(task) for task in encoded(runner, images)]
    assert graphs.find_bucket(packed_images(states)) is None  # nothing is captured yet
    graphs.capture(GraphRecorder(CPU, math.inf))
    assert graphs.find_bucket(packed_images(states)) == expected


def test_step_capture_stopped_early_keeps_largest(runner: ModelRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    room = iter([True, True, False])
    monkeypatch.setattr(recorder, "has_room", lambda device: next(room))
    graphs = GraphRunner(runner.models.transformer, 256, adds_noise=False)
    graphs.capture(GraphRecorder(CPU, math.inf))
    assert list(graphs.graphs) == all_buckets(256)[:2]


def captured_phases(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Whether each phase has graphs after a start-up capture, by the module whose calls it captures."""
    monkeypatch.setattr("engine.worker.decoder.GRAPH_SIZES", ((64, 64),))
    runner = make_runner(TINY, CPU, torch.float32, "none")
    runner.capture_graphs(256)
    steps = runner.graphs is not None and list(runner.graphs.graphs) == all_buckets(256)
    return {"pack": steps, "prompts": bool(runner.prompts.graphs), "decoder": bool(runner.decoder.graphs)}


@pytest.mark.parametrize("failing", ["pack", "prompts", "decoder"])
def test_capture_failure_in_one_phase_leaves_others(failing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_in_phase(call: partial[None], *args: object) -> Callable[[], None]:
        if call.func.__module__ == f"engine.worker.{failing}":
            raise RuntimeError("operation not permitted when stream is capturing")
        return call

    monkeypatch.setattr(recorder, "capture_graph", fail_in_phase)
    assert captured_phases(monkeypatch) == {phase: phase != failing for phase in ("pack", "prompts", "decoder")}


@pytest.mark.parametrize(
    ("budget", "phase"),
    [("STEP_CAPTURE_SECONDS", "pack"), ("PROMPT_CAPTURE_SECONDS", "prompts"), ("DECODER_CAPTURE_SECONDS", "decoder")],
)
def test_capture_time_over_in_one_phase_leaves_others(budget: str, phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, budget, -1.0)
    captured = captured_phases(monkeypatch)
    assert not captured.pop(phase)
    assert all(captured.values())


def test_capture_begins_with_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are captured while there is still memory."""
    room = iter([True] * len(all_buckets(256)))
    monkeypatch.setattr(recorder, "has_room", lambda device: next(room, False))
    assert captured_phases(monkeypatch) == {"pack": True, "prompts": False, "decoder": False}


@pytest.mark.parametrize("images", [MIX, GUIDED, MIX[:1], GUIDED[:1]])
@pytest.mark.parametrize("padding", [0, 1, 40])
def test_padding_changes_no_image(runner: ModelRunner, images: Images, padding: int) -> None:
    plain = packed(runner, images, None)
    attended, singles = section_tokens(packed_images([require_state(task) for task in plain.tasks]))
    if attended == singles:
        bucket = Bucket(attended + padding, singles + padding)
    else:
        bucket = Bucket(attended + singles + padding, 0)
    padded = packed(runner, images, bucket)
    assert padded.tensors.layout.total == bucket.tokens
    before = plain.tensors.latents.clone()
    for pack in (plain, padded):
        with torch.inference_mode():
            denoise_step(runner.models.transformer, pack.tensors)
    assert not torch.equal(plain.tensors.latents, before)
    torch.testing.assert_close(padded.tensors.latents, plain.tensors.latents, rtol=1e-5, atol=1e-6)
    for one, other in zip(plain.tasks, padded.tasks, strict=True):
        torch.testing.assert_close(require_state(one).latents, require_state(other).latents, rtol=1e-5, atol=1e-6)


def test_step_table_first_step_of_an_image_is_first_order(runner: ModelRunner) -> None:
    """Wherever in its schedule the image starts; the other coefficients do not depend on it."""
    task, late_task = encoded(runner, GUIDED)
    state, late = require_state(task), replace(require_state(late_task), start_step=2)
    change = COEFFICIENTS + Coefficients._fields.index("change_scale")
    first = step_table([state, late], [2, 2], [4.5, 4.5], 0.1)
    assert first[0, change] > 0
    assert first[1, change] == 0
    assert first[0, :change].tolist() == first[1, :change].tolist()
    assert step_table([late], [1 + 2], [4.5], 0.1)[0, change] == 0  # the last of four steps
    longer = replace(late, schedule=runner.schedule(8))
    assert step_table([longer], [3], [4.5], 0.1)[0, change] > 0


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_step_reads_nothing_back_to_the_host(shape: Shape, host_reads: HostReads) -> None:
    runner = make_runner(shape, CPU, torch.float32, "none")
    pack = packed(runner, MIX, None)
    assert pack.tensors.layout.tables.images == len(MIX) + (0 if shape.sprint else 2)  # before: a graph finds it there
    with torch.inference_mode(), host_reads:
        denoise_step(runner.models.transformer, pack.tensors)
    assert host_reads.found == []
