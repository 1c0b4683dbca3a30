"""The bounds of what is recorded. Real CUDA graphs: tests/kernels/whole_steps.py, on a GPU."""

import logging
import math
import time

import pytest
import torch

from engine.worker import recorder
from engine.worker.recorder import Recorder

CPU = torch.device("cpu")


def test_what_is_recorded_replays_on_the_tensors_it_had() -> None:
    total = torch.zeros(2)

    def count() -> None:
        total.add_(1)

    replay = Recorder(CPU, math.inf).record(count)
    assert replay is not None
    replay()
    replay()
    assert total.tolist() == [2, 2]


def test_nothing_is_recorded_when_the_time_is_over() -> None:
    calls: list[int] = []
    assert Recorder(CPU, time.monotonic() - 1).record(lambda: calls.append(1)) is None
    assert calls == []


def test_nothing_is_recorded_without_room_and_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Recorder(CPU, math.inf)
    with monkeypatch.context() as patch:
        patch.setattr(recorder, "has_room", lambda device: False)
        assert one.record(lambda: None) is None
    assert one.record(lambda: None) is None


def test_a_call_that_cannot_be_recorded_is_logged_and_the_last(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: Recorder, call: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    one = Recorder(CPU, math.inf)
    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR, "engine.worker.recorder"):
        patch.setattr(Recorder, "_capture", refuse)
        assert one.record(lambda: None) is None
    assert "could not be captured" in caplog.text
    assert "not permitted" in caplog.text
    assert one.record(lambda: None) is None
