"""Admission control on predicted seconds, without an engine."""

import pytest

from engine import DeadlineExceeded, GenerationParams, Progress, QueueFull
from engine.admission import admit, expected_seconds, worst_case_seconds
from engine.request import Request
from engine.types import Priority

QUEUE = 60.0


def request(seconds: float, tokens: int, priority: Priority = "normal", timeout: float | None = None) -> Request:
    params = GenerationParams("a cat", 256, 256, 20, 4.5, seed=1, priority=priority, timeout=timeout)
    return Request("r", params, seconds, tokens, 100.0, None if timeout is None else 100.0 + timeout)


def test_queue_overload_refused_with_retry_after() -> None:
    admit(request(100.0, 5), [], QUEUE)  # an idle device accepts any request
    admit(request(20.0, 5), [request(40.0, 5)], QUEUE)
    with pytest.raises(QueueFull, match=r"holds 40\.0 s of work .* in 65\.0 s; the limit is 60 s") as full:
        admit(request(25.0, 5), [request(40.0, 5)], QUEUE)
    assert full.value.retry_after == pytest.approx(5.0)
    started = request(40.0, 5)
    started.receive(Progress("r", 0, step=5, steps=20))
    admit(request(25.0, 5), [started], QUEUE)


def test_larger_request_admitted_by_its_share() -> None:
    """Larger requests get half of the device while there are smaller ones: 30 s of larger work take 60 s."""
    accepted = [request(0.1, 1), request(20.0, 50)]
    admit(request(9.0, 50), accepted, QUEUE)
    with pytest.raises(QueueFull, match=r"holds 20\.1 s of work .* in 64\.0 s") as full:
        admit(request(12.0, 50), accepted, QUEUE)
    assert full.value.retry_after == pytest.approx(4.0)
    admit(request(39.0, 1), accepted, QUEUE)  # the share does not bind smaller requests
    assert worst_case_seconds(request(12.0, 50), accepted[1:]) == 32.0  # no smaller request
    assert worst_case_seconds(request(39.0, 90), accepted) == pytest.approx(59.1)  # the first of its size


def test_timeout_checked_against_work_ahead() -> None:
    accepted = [request(2.0, 5), request(3.0, 5, "high"), request(4.0, 5, "low"), request(20.0, 50)]
    assert expected_seconds(request(1.0, 5), accepted[:3], QUEUE) == 6.0
    assert expected_seconds(request(1.0, 5), accepted, QUEUE) == pytest.approx(
        9.0
    )  # 20 s in 60 s: a share of one third
    assert expected_seconds(request(1.0, 5), [request(0.5, 50)], QUEUE) == pytest.approx(1.25)
    assert expected_seconds(request(1.0, 50), accepted[:1], QUEUE) == 3.0
    admit(request(1.0, 5, timeout=9.5), accepted, QUEUE)
    with pytest.raises(DeadlineExceeded, match=r"would finish in 9\.0 s; its timeout is 8 s"):
        admit(request(1.0, 5, timeout=8.0), accepted, QUEUE)


def test_idle_device_accepts_unless_image_alone_cannot_be_done() -> None:
    """No step of an idle device corrects a prediction from a busy moment."""
    admit(request(300.0, 5), [], QUEUE)
    admit(request(9.0, 5, timeout=1.0), [], QUEUE)
    with pytest.raises(DeadlineExceeded, match=r"would finish in 11\.0 s; its timeout is 1 s"):
        admit(request(11.0, 5, timeout=1.0), [], QUEUE)
    with pytest.raises(DeadlineExceeded, match=r"would finish in 9\.1 s; its timeout is 1 s"):
        admit(request(9.0, 5, timeout=1.0), [request(0.1, 5)], QUEUE)
