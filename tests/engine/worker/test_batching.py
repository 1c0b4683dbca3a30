"""Images do not depend on the batch: requests that differ in every parameter, together and alone."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from engine import Failed, GenerationParams, Preview, StepReport
from engine.costs import CostModel
from engine.messages import Submit
from engine.models.dc_ae import BAND_ELEMENTS
from engine.worker.faults import is_fatal, is_out_of_memory

from .stepping import Engine

MIX = [
    GenerationParams("a red circle", 128, 128, 4, 4.5, seed=1, n=2),
    GenerationParams("a blue square left of a green triangle", 256, 128, 7, 1.0, seed=2),
    GenerationParams("two yellow squares", 192, 256, 3, 7.0, seed=3, negative_prompt="red"),
    GenerationParams("a green triangle", 64, 64, 10, 4.5, seed=4, partial_images=3),
    GenerationParams("a red circle", 128, 128, 5, 3.0, seed=5, n=3),
]


TINY = [GenerationParams("a red circle", 32 * w, 32 * h, 2, 4.5, seed=6) for w, h in ((1, 1), (1, 2), (3, 1), (3, 3))]


@pytest.fixture(scope="module")
def engine() -> Engine:
    """Costs are set, not measured: on a busy machine the measured ones may keep an image from joining the others."""
    engine = Engine(max_step_seconds=1e6)
    engine.core.scheduler.costs = CostModel(encode=0.01, step=0.01, token=1e-6, decode=0.01, pixel=1e-6)
    return engine


def pixels(image: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image))).astype(int)


def previews_of(engine: Engine, count: int) -> list[Preview]:
    """Previews since the last `generate`, waiting for those that are still in the encoder threads."""
    while len(previews := [event for event in engine.emitted if isinstance(event, Preview)]) < count:
        engine.emitted.append(engine.events.get(timeout=60))
    return previews


def images_of_steps(engine: Engine) -> list[int]:
    return [report.images for report in engine.emitted if isinstance(report, StepReport) and report.tokens]


@pytest.mark.usefixtures("threads")
def test_image_bytes_independent_of_batch(engine: Engine) -> None:
    """Covers few tokens and many, equal and mixed shapes and text lengths, with and without guidance."""
    requests = [*MIX, *TINY]
    together = engine.generate_files(requests)
    assert max(images_of_steps(engine)) == sum(params.n for params in requests)
    for i, params in enumerate(requests):
        alone = engine.generate_files([params])
        for k in range(params.n):
            assert together[i, k] == alone[0, k], f"image {k} of {params}"


def test_exact_mode_one_image_per_forward_same_bytes() -> None:
    exact = Engine(exact=True)
    together = exact.generate_files(MIX)
    assert set(images_of_steps(exact)) == {1}
    for i, params in enumerate(MIX):
        assert exact.generate_files([params]) == {(0, k): together[i, k] for k in range(params.n)}


def test_previews_in_requested_format_image_unchanged(engine: Engine) -> None:
    plain = replace(MIX[0], n=1, num_inference_steps=8)
    expected = engine.generate_files([plain])
    files = engine.generate_files([replace(plain, partial_images=3)])
    assert files == expected
    previews = previews_of(engine, 3)
    assert sorted(preview.preview_index for preview in previews) == [0, 1, 2]
    errors = [
        np.abs(pixels(p.image) - pixels(files[0, 0])).mean() for p in sorted(previews, key=lambda p: p.preview_index)
    ]
    assert errors[0] > errors[2] > 0
    few = engine.generate_files([replace(plain, num_inference_steps=2, partial_images=3, output_format="webp")])
    assert Image.open(io.BytesIO(few[0, 0])).format == "WEBP"
    (preview,) = previews_of(engine, 1)
    assert Image.open(io.BytesIO(preview.image)).format == "WEBP"


def test_out_of_memory_shrinks_batches_then_fails_one(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulates a full device: allocations above a limit raise."""
    forward, decode = engine.core.runner.models.transformer.forward, engine.core.runner.models.decoder.shallow
    limit, refusals = 60, iter([True])

    def small_forward(tokens: torch.Tensor, *others: object) -> torch.Tensor:
        if len(tokens) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(tokens, *others)  # type: ignore[arg-type]

    def small_decode(x: torch.Tensor) -> torch.Tensor:
        if next(refusals, False):
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 1 byte")
        return decode(x)

    expected = engine.generate_files(MIX[:2])
    with monkeypatch.context() as patch:
        patch.setattr(engine.core.runner.models.transformer, "forward", small_forward)
        patch.setattr(engine.core.runner.models.decoder, "shallow", small_decode)
        assert len(engine.generate_files(MIX[:2])) == len(expected)
        assert engine.core.scheduler.token_budget <= limit
        assert engine.core.runner.decoder.band_elements < BAND_ELEMENTS
        engine.core.submit(Submit("huge", GenerationParams("a cat", 512, 512, 2, 4.5, seed=0)))
        engine.core.submit(Submit("small", MIX[0]))
        (failed,) = [event for event in engine.run(outcomes=3) if isinstance(event, Failed)]
        assert failed.request_id == "huge"
        assert "ran out of memory" in str(failed.error)


def test_fatal_error_differs_from_out_of_memory() -> None:
    assert is_fatal(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not is_fatal(torch.OutOfMemoryError("CUDA out of memory. CUDA error: out of memory"))
    assert not is_fatal(ValueError("anything else"))
    assert is_out_of_memory(MemoryError())
