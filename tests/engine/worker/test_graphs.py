"""Buckets and what fills them up. That graphs draw the same pictures: tests/kernels/whole_steps.py."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from benchmarks.random_models import Shape, make_runner, shape_of
from engine import GenerationParams
from engine.worker.graphs import MAX_PACKED_IMAGES, MAX_TEXT_TOKENS, GraphRunner, all_buckets, bucket_sizes
from engine.worker.image_task import ImageTask
from engine.worker.pack import Bucket, Pack, build_pack, denoise_step, packed_images, section_tokens, step_table
from engine.worker.recorder import Recorder
from engine.worker.runner import ModelRunner, state_of

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
Pictures = list[tuple[str, int, int, float, str]]


@pytest.fixture(scope="module")
def runner() -> ModelRunner:
    return make_runner(TINY, CPU, torch.float32, "none")


def encoded(runner: ModelRunner, pictures: Pictures) -> tuple[ImageTask, ...]:
    tasks = []
    for i, (prompt, width, height, guidance, negative) in enumerate(pictures):
        params = GenerationParams(prompt, width, height, 4, guidance, seed=i, negative_prompt=negative)
        guided = guidance > 1 and not runner.config.guidance_embeds
        tasks.append(ImageTask(str(i), 0, params, guided, tokens=width * height // 1024 * (1 + guided)))
    runner.encode(tuple(tasks))
    return tuple(tasks)


@torch.inference_mode()
def packed(runner: ModelRunner, pictures: Pictures, bucket: Bucket | None) -> Pack:
    tasks = encoded(runner, pictures)
    states = [state_of(task) for task in tasks]
    pack = build_pack(
        tasks, states, packed_images(states), bucket, runner.models.transformer, draws_noise=runner.solver.scm
    )
    table = step_table([(state.schedule, 1) for state in states], [r.params.guidance_scale for r in tasks], 0.1)
    pack.tensors.steps.copy_(table)
    return pack


def test_buckets_are_a_quarter_octave_apart_and_the_largest_is_captured_first() -> None:
    rows = list(bucket_sizes(16384))
    assert rows[:9] == [64, 80, 96, 112, 128, 160, 192, 224, 256]
    assert rows[-1] == 16384
    assert all(row % 16 == 0 for row in rows)  # one form of each kernel
    assert all(larger <= 1.25 * smaller for smaller, larger in pairwise(rows))
    buckets = all_buckets(1000)
    assert [bucket.rows for bucket in buckets] == sorted((bucket.rows for bucket in buckets), reverse=True)
    assert {Bucket(896, 0), Bucket(448, 448)} <= set(buckets)
    assert max(bucket.rows for bucket in buckets) == 896


@pytest.mark.parametrize(
    ("pictures", "expected"),
    [
        (GUIDED, Bucket(64, 64)),  # each has its branch with the empty prompt
        (MIX, Bucket(64, 0)),  # one has none, one has another
        ([("a cat", 512, 256, 4.5, "")], Bucket(128, 128)),
        ([("a cat", 512, 320, 1.0, "")], Bucket(160, 0)),
        ([("a cat", 512, 288, 1.0, "")], Bucket(160, 0)),
        ([("a cat", 1024, 512, 1.0, "")], None),  # more rows than the largest
        ([("a cat", 32, 32, 1.0, "")] * (MAX_PACKED_IMAGES - 1), None),
        ([(f"{'a cat ' * 300}{i}", 32, 32, 1.0, "") for i in range(MAX_TEXT_TOKENS // 298 + 1)], None),
    ],
)
def test_the_smallest_bucket_that_holds_a_pack(
    runner: ModelRunner, pictures: Pictures, expected: Bucket | None
) -> None:
    graphs = GraphRunner(runner.models.transformer, 256, draws_noise=False)
    states = [state_of(task) for task in encoded(runner, pictures)]
    assert graphs.bucket_of(packed_images(states)) is None  # nothing is captured yet
    graphs.capture(Recorder(CPU, math.inf))
    assert graphs.bucket_of(packed_images(states)) == expected


def test_a_capture_that_ends_early_leaves_the_largest(runner: ModelRunner) -> None:
    graphs, recorder = GraphRunner(runner.models.transformer, 256, draws_noise=False), Recorder(CPU, math.inf)
    record = recorder.record

    def only_two(call: Callable[[], None]) -> Callable[[], None] | None:
        return record(call) if len(graphs.graphs) < 2 else None

    recorder.record = only_two  # type: ignore[method-assign]
    graphs.capture(recorder)
    assert list(graphs.graphs) == all_buckets(256)[:2]


@pytest.mark.parametrize("pictures", [MIX, GUIDED, MIX[:1], GUIDED[:1]])
@pytest.mark.parametrize("room", [0, 1, 40])
def test_what_fills_a_pack_up_changes_no_picture(runner: ModelRunner, pictures: Pictures, room: int) -> None:
    plain = packed(runner, pictures, None)
    attended, singles = section_tokens(packed_images([state_of(task) for task in plain.tasks]))
    paired = attended == singles
    bucket = Bucket(attended + room, singles + room) if paired else Bucket(attended + singles + room, 0)
    filled = packed(runner, pictures, bucket)
    assert filled.tensors.layout.total == bucket.rows
    before = plain.tensors.latents.clone()
    for pack in (plain, filled):
        with torch.inference_mode():
            denoise_step(runner.models.transformer, pack.tensors)
    assert not torch.equal(plain.tensors.latents, before)
    torch.testing.assert_close(filled.tensors.latents, plain.tensors.latents, rtol=1e-5, atol=1e-6)
    for one, other in zip(plain.tasks, filled.tasks, strict=True):
        torch.testing.assert_close(state_of(one).latents, state_of(other).latents, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_step_waits_for_nothing(shape: Shape, host_reads: HostReads) -> None:
    runner = make_runner(shape, CPU, torch.float32, "none")
    pack = packed(runner, MIX, None)
    assert pack.tensors.layout.tables.images > len(MIX) - shape.sprint  # laid out before, as `load` finds it
    with torch.inference_mode(), host_reads:
        denoise_step(runner.models.transformer, pack.tensors)
    assert host_reads.found == []
