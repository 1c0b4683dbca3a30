import pytest

from server import limits
from server.http_errors import TooManyRequests
from server.limits import Limits


class Clock:
    """Time that a test turns on."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(limits, "time", clock)
    return clock


def test_a_rate_comes_back_with_time(clock: Clock) -> None:
    kept = Limits(per_minute=6, concurrent=0)
    for _ in range(6):
        kept.take("a")
        kept.release("a")
    with pytest.raises(TooManyRequests, match="6 requests in a minute") as caught:
        kept.take("a")
    assert caught.value.retry_after == pytest.approx(10)
    clock.now += 10
    kept.take("a")
    with pytest.raises(TooManyRequests):
        kept.take("a")
    clock.now += 3600
    assert kept.take("a")["x-ratelimit-remaining-requests"] == "5"  # no more than a full bucket


def test_concurrency_is_per_caller_and_given_back(clock: Clock) -> None:
    kept = Limits(per_minute=0, concurrent=2)
    assert kept.take("a") == kept.take("a") == {}
    with pytest.raises(TooManyRequests, match="2 requests of yours are running"):
        kept.take("a")
    kept.take("b")
    kept.release("a")
    kept.take("a")


def test_callers_are_forgotten_but_not_while_they_run(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_REMEMBERED", 10)
    kept = Limits(per_minute=1, concurrent=1)
    kept.take("running")
    for k in range(100):
        kept.take(str(k))
        kept.release(str(k))
    assert len(kept._callers) <= 11
    with pytest.raises(TooManyRequests):
        kept.take("running")


def test_guesses_are_counted_per_address(clock: Clock) -> None:
    kept = Limits(0, 0)
    for _ in range(limits.GUESSES):
        kept.check_guesses("1.2.3.4")
        kept.count_guess("1.2.3.4")
    with pytest.raises(TooManyRequests):
        kept.check_guesses("1.2.3.4")
    kept.check_guesses("1.2.3.5")
    clock.now += limits.GUESS_SECONDS
    kept.check_guesses("1.2.3.4")
