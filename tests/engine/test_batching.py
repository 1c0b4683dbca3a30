"""Images do not depend on who shares their batch: a mix that agrees in nothing, against each request alone."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from engine import EngineConfig, Event, Failed, Finished, GenerationParams, Preview, StepReport
from engine.core import EngineCore
from engine.faults import is_fatal, is_out_of_memory
from engine.messages import Submit
from engine.models.dc_ae import BAND_ELEMENTS

from ..reference import psnr

MIX = [
    GenerationParams("a red circle", 128, 128, 4, 4.5, seed=1, n=2),
    GenerationParams("a blue square left of a green triangle", 256, 128, 7, 1.0, seed=2),
    GenerationParams("two yellow squares", 192, 256, 3, 7.0, seed=3, negative_prompt="red"),
    GenerationParams("a green triangle", 64, 64, 10, 4.5, seed=4, partial_images=3),
    GenerationParams("a red circle", 128, 128, 5, 3.0, seed=5, n=3),
]


class Batching:
    """A core with the demo checkpoint; `draw` takes several requests at once."""

    def __init__(self, exact: bool = False) -> None:
        self.told: list[Event | StepReport] = []
        self.core = EngineCore(EngineConfig(device="cpu", exact=exact, max_step_seconds=10.0), self.told.append)

    def draw(self, *requests: GenerationParams) -> list[dict[int, bytes]]:
        self.told.clear()
        for i, params in enumerate(requests):
            self.core.submit(Submit(str(i), params))
        while self.core.busy:
            self.core.step()
        while sum(isinstance(event, Finished | Failed) for event in self.told) < sum(p.n for p in requests):
            pass  # the encoder threads have the last of them
        images: list[dict[int, bytes]] = [{} for _ in requests]
        for event in self.told:
            assert not isinstance(event, Failed), event.error
            if isinstance(event, Finished):
                images[int(event.request_id)][event.image_index] = event.image
        return images


@pytest.fixture(scope="module")
def packed() -> Batching:
    return Batching()


def pixels(image: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image))).astype(int)


def test_exact_is_exact_and_costs_no_step_its_company() -> None:
    engine = Batching(exact=True)
    together = engine.draw(*MIX)
    assert all(report.images == 1 for report in engine.told if isinstance(report, StepReport) and report.tokens)
    for params, images in zip(MIX, together, strict=True):
        assert engine.draw(params) == [images]


def test_packed_is_within_one_of_255(packed: Batching) -> None:
    together = packed.draw(*MIX)
    assert max(report.images for report in packed.told if isinstance(report, StepReport) and report.tokens) > 4
    for params, images in zip(MIX, together, strict=True):
        (alone,) = packed.draw(params)
        for index, image in images.items():
            assert np.abs(pixels(image) - pixels(alone[index])).max() <= 1
            assert psnr(pixels(image).astype(np.uint8), pixels(alone[index]).astype(np.uint8)) >= 50


def test_previews_come_on_the_way_in_the_format_asked_for_and_change_nothing(packed: Batching) -> None:
    plain = replace(MIX[0], n=1, num_inference_steps=8)
    (expected,) = packed.draw(plain)
    (drawn,) = packed.draw(replace(plain, partial_images=3))
    assert drawn == expected
    previews = [event for event in packed.told if isinstance(event, Preview)]
    assert sorted(preview.preview_index for preview in previews) == [0, 1, 2]
    errors = [
        np.abs(pixels(p.image) - pixels(drawn[0])).mean() for p in sorted(previews, key=lambda p: p.preview_index)
    ]
    assert errors[0] > errors[2] > 0
    (few,) = packed.draw(replace(plain, num_inference_steps=2, partial_images=3, output_format="webp"))
    assert Image.open(io.BytesIO(few[0])).format == "WEBP"
    (preview,) = [event for event in packed.told if isinstance(event, Preview)]
    assert Image.open(io.BytesIO(preview.image)).format == "WEBP"


def test_too_little_memory_means_smaller_packs_and_then_one_clear_error(
    packed: Batching, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The allocator refuses what is above a limit, as a full device does."""
    forward, decode = packed.core.runner.models.transformer.forward, packed.core.runner.models.decoder.shallow
    limit, refusals = 60, iter([True])

    def small_forward(tokens: torch.Tensor, *others: object) -> torch.Tensor:
        if len(tokens) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(tokens, *others)  # type: ignore[arg-type]

    def small_decode(x: torch.Tensor) -> torch.Tensor:
        if next(refusals, False):
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 1 byte")
        return decode(x)

    expected = packed.draw(*MIX[:2])
    with monkeypatch.context() as patch:
        patch.setattr(packed.core.runner.models.transformer, "forward", small_forward)
        patch.setattr(packed.core.runner.models.decoder, "shallow", small_decode)
        assert len(packed.draw(*MIX[:2])) == len(expected)
        assert packed.core.scheduler.token_budget <= limit
        assert packed.core.runner.band_elements < BAND_ELEMENTS
        packed.told.clear()
        packed.core.submit(Submit("huge", GenerationParams("a cat", 512, 512, 2, 4.5, seed=0)))
        packed.core.submit(Submit("small", MIX[0]))
        while packed.core.busy:
            packed.core.step()
        while sum(isinstance(event, Finished | Failed) for event in packed.told) < 3:
            pass
        (failed,) = [event for event in packed.told if isinstance(event, Failed)]
        assert failed.request_id == "huge"
        assert "ran out of memory" in str(failed.error)


def test_a_lost_device_is_told_from_a_full_one() -> None:
    assert is_fatal(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not is_fatal(torch.OutOfMemoryError("CUDA out of memory. CUDA error: out of memory"))
    assert not is_fatal(ValueError("anything else"))
    assert is_out_of_memory(MemoryError())
