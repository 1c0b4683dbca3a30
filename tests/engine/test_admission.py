"""Who is taken, and what those who are not are told; no engine needed."""

import pytest

from engine import DeadlineExceeded, GenerationParams, Progress, QueueFull
from engine.admission import admit, seconds_at_most, seconds_until_done
from engine.request import Request
from engine.types import Priority

QUEUE = 60.0


def request(seconds: float, tokens: int, priority: Priority = "normal", timeout: float | None = None) -> Request:
    params = GenerationParams("a cat", 256, 256, 20, 4.5, seed=1, priority=priority, timeout=timeout)
    return Request("r", params, seconds, tokens, 100.0, None if timeout is None else 100.0 + timeout)


def test_work_beyond_what_the_queue_holds_is_refused_with_when_to_come_again() -> None:
    admit(request(100.0, 5), [], QUEUE)  # an idle device takes everything
    admit(request(20.0, 5), [request(40.0, 5)], QUEUE)
    with pytest.raises(QueueFull, match=r"40\.0 s of work are waiting .* in 65\.0 s; this server queues 60 s") as full:
        admit(request(25.0, 5), [request(40.0, 5)], QUEUE)
    assert full.value.retry_after == pytest.approx(5.0)
    begun = request(40.0, 5)
    begun.receive(Progress("r", 0, step=5, steps=20))
    admit(request(25.0, 5), [begun], QUEUE)


def test_larger_requests_are_promised_no_more_than_their_share() -> None:
    """Half of the device, while there are smaller ones: 30 s of larger work are done in 60 s."""
    accepted = [request(0.1, 1), request(20.0, 50)]
    admit(request(9.0, 50), accepted, QUEUE)
    with pytest.raises(QueueFull, match=r"20\.1 s of work are waiting .* in 64\.0 s") as full:
        admit(request(12.0, 50), accepted, QUEUE)
    assert full.value.retry_after == pytest.approx(4.0)
    admit(request(39.0, 1), accepted, QUEUE)  # smaller ones are not concerned
    assert seconds_at_most(request(12.0, 50), accepted[1:]) == 32.0  # nobody to yield to
    assert seconds_at_most(request(39.0, 90), accepted) == pytest.approx(59.1)  # the first of its size is not refused


def test_a_timeout_is_held_against_the_work_that_goes_first() -> None:
    accepted = [request(2.0, 5), request(3.0, 5, "high"), request(4.0, 5, "low"), request(20.0, 50)]
    assert seconds_until_done(request(1.0, 5), accepted[:3], QUEUE) == 6.0
    assert seconds_until_done(request(1.0, 5), accepted, QUEUE) == pytest.approx(9.0)  # 20 s in 60 are a third
    assert seconds_until_done(request(1.0, 5), [request(0.5, 50)], QUEUE) == pytest.approx(1.25)
    assert seconds_until_done(request(1.0, 50), accepted[:1], QUEUE) == 3.0
    admit(request(1.0, 5, timeout=9.5), accepted, QUEUE)
    with pytest.raises(DeadlineExceeded, match=r"would take 9\.0 s from now; its timeout is 8 s"):
        admit(request(1.0, 5, timeout=8.0), accepted, QUEUE)
