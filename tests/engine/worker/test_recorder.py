"""Bounds of the graph recorder. Real CUDA graphs: tests/kernels/whole_steps.py, on a GPU."""

import logging
import math

import pytest
import torch

from engine.worker import recorder
from engine.worker.recorder import GraphRecorder

CPU = torch.device("cpu")


def test_recorder_replay_runs_on_captured_tensors() -> None:
    total = torch.zeros(2)

    def count() -> None:
        total.add_(1)

    replay = GraphRecorder(CPU, math.inf).capture(count)
    assert replay is not None
    replay()
    replay()
    assert total.tolist() == [2, 2]


def test_recorder_time_over_captures_nothing() -> None:
    calls: list[int] = []
    assert GraphRecorder(CPU, seconds=-1).capture(lambda: calls.append(1)) is None
    assert calls == []


def test_recorder_memory_low_ends_captures(monkeypatch: pytest.MonkeyPatch) -> None:
    one = GraphRecorder(CPU, math.inf)
    with monkeypatch.context() as patch:
        patch.setattr(recorder, "has_room", lambda device: False)
        assert one.capture(lambda: None) is None
    assert one.capture(lambda: None) is None
    assert GraphRecorder(CPU, math.inf).capture(lambda: None) is not None


def test_recorder_failed_capture_is_logged_and_ends_captures(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*args: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    one = GraphRecorder(CPU, math.inf)
    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR, "engine.worker.recorder"):
        patch.setattr(recorder, "capture_graph", refuse)
        assert one.capture(lambda: None) is None
    assert "capturing a CUDA graph failed" in caplog.text
    assert "not permitted" in caplog.text
    assert one.capture(lambda: None) is None
