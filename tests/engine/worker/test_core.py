"""The engine's loop with a real model: order of events, cancellation, and recovery from faults."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine import Event, Failed, Finished, GenerationFailed, GenerationParams, InvalidParams, Preview, Progress
from engine.messages import Submit
from engine.worker import image_files
from engine.worker.image_task import ImageTask

from .stepping import Engine

PARAMS = GenerationParams("a cat", 64, 64, 3, 4.5, seed=1)


@pytest.fixture(scope="module")
def engine(checkpoint: Callable[[str], Path]) -> Engine:
    return Engine(checkpoint("sana-1.5"))


def events_of(engine: Engine, outcomes: int = 1) -> list[Event]:
    """Runs until the core is idle and `outcomes` images have finished or failed, and returns all events."""
    engine.emitted.clear()
    engine.run(outcomes)
    return [event for event in engine.emitted if isinstance(event, Event)]


def test_request_events_in_order(engine: Engine) -> None:
    engine.core.submit(Submit("r", PARAMS))
    emitted = events_of(engine)
    assert [type(event).__name__ for event in emitted] == ["Started", *["Progress"] * 3, "Finished"]
    assert [event.step for event in emitted if isinstance(event, Progress)] == [1, 2, 3]
    finished = emitted[-1]
    assert isinstance(finished, Finished)
    assert finished.seed == 1
    assert finished.timings.denoise > 0
    assert finished.timings.decode > 0


def test_slow_preview_sent_before_its_image(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = iter((0.5, 0.3, 0))

    def encode_image(*decoded_image: Any) -> bytes:
        time.sleep(next(slow))
        return image_files.encode_image(*decoded_image)

    monkeypatch.setattr("engine.worker.core.encode_image", encode_image)
    engine.core.submit(Submit("r", replace(PARAMS, partial_images=2)))
    images = [event for event in events_of(engine) if isinstance(event, Preview | Finished)]
    assert [type(event).__name__ for event in images] == ["Preview", "Preview", "Finished"]


def test_short_late_request_finishes_first(engine: Engine) -> None:
    engine.core.submit(Submit("long", GenerationParams("a cat", 64, 64, 8, 4.5, seed=1)))
    for _ in range(3):
        engine.core.step()
    engine.core.submit(Submit("short", GenerationParams("a dog", 96, 32, 2, 1.0, seed=2)))
    emitted = [event.request_id for event in events_of(engine, 2) if isinstance(event, Finished)]
    assert emitted == ["short", "long"]


def test_cancelled_request_sends_nothing_more(engine: Engine) -> None:
    engine.core.submit(Submit("kept", PARAMS))
    engine.core.submit(Submit("dropped", GenerationParams("a dog", 64, 64, 50, 4.5, seed=2, n=2)))
    for _ in range(3):
        engine.core.step()
    engine.core.cancel("dropped")
    emitted = events_of(engine)
    assert [event.request_id for event in emitted if isinstance(event, Finished)] == ["kept"]
    assert not [event for event in emitted if isinstance(event, Failed)]


def test_invalid_request_not_queued(engine: Engine) -> None:
    with pytest.raises(InvalidParams):
        engine.core.submit(Submit("r", GenerationParams("a cat", 16, 64, 3, 4.5, seed=1)))
    assert not engine.core.busy


def test_overflow_fails_only_its_request(engine: Engine) -> None:
    engine.core.submit(Submit("broken", PARAMS))
    engine.core.submit(Submit("whole", PARAMS))
    engine.core.step()  # encode
    state = engine.core.scheduler.running[0].state
    assert state is not None
    with torch.inference_mode():
        state.latents.fill_(torch.nan)
    emitted = events_of(engine, outcomes=2)
    (failed,) = [event for event in emitted if isinstance(event, Failed)]
    assert failed.request_id == "broken"
    assert "overflowed in float32" in str(failed.error)
    assert [event.request_id for event in emitted if isinstance(event, Finished)] == ["whole"]


def test_out_of_memory_fails_request_engine_continues(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(tasks: tuple[ImageTask, ...]) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB\nand more lines")

    with monkeypatch.context() as patch:
        patch.setattr(engine.core.runner, "denoise", no_memory)
        engine.core.submit(Submit("r", PARAMS))
        (failed,) = [event for event in events_of(engine) if isinstance(event, Failed)]
    assert isinstance(failed.error, GenerationFailed)
    assert "ran out of memory" in str(failed.error)
    engine.core.submit(Submit("next", PARAMS))
    assert any(isinstance(event, Finished) for event in events_of(engine))


def test_unused_negative_prompt_not_recorded(engine: Engine, checkpoint: Callable[[str], Path]) -> None:
    """Guidance of 1 and below has no second branch, and Sprint has none at any scale."""
    sprint = Engine(checkpoint("sana-sprint"), png_metadata="a1111")
    params = replace(PARAMS, negative_prompt="grey", num_inference_steps=2)
    [unguided] = engine.generate_files([replace(params, guidance_scale=1.0)]).values()
    [guided] = engine.generate_files([params]).values()
    [sprinted] = sprint.generate_files([params]).values()
    assert [b"grey" in file for file in (unguided, guided, sprinted)] == [False, True, False]
    assert b"parameters\0a cat\nSteps: 2, " in sprinted


def test_size_off_grid_is_centre_of_grid_size(engine: Engine) -> None:
    [whole], [part] = engine.generate([replace(PARAMS, width=96), replace(PARAMS, width=71, height=41)])
    assert (part == whole[11:52, 12:83]).all()
