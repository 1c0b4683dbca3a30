import pytest

from server import limits
from server.http_errors import TooManyRequests
from server.limits import Limits


class Clock:
    """A clock that the test advances."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(limits, "time", clock)
    return clock


def test_rate_limit_refills_over_time(clock: Clock) -> None:
    kept = Limits(per_minute=6, concurrent=0)
    for _ in range(6):
        kept.take("a")
        kept.release("a")
    with pytest.raises(TooManyRequests, match="at most 6 requests per minute") as caught:
        kept.take("a")
    assert caught.value.retry_after == pytest.approx(10)
    clock.now += 10
    kept.take("a")
    with pytest.raises(TooManyRequests):
        kept.take("a")
    assert kept.rejected == {"rate_limit": 2, "concurrency": 0, "api_key": 0}
    clock.now += 3600
    assert kept.take("a")["x-ratelimit-remaining-requests"] == "5"  # the bucket holds no more than it did at first


def test_concurrency_limit_per_caller(clock: Clock) -> None:
    kept = Limits(per_minute=0, concurrent=2)
    assert kept.take("a") == kept.take("a") == {}
    with pytest.raises(TooManyRequests, match="at most 2 concurrent requests"):
        kept.take("a")
    kept.take("b")
    kept.release("a")
    kept.take("a")


def test_idle_callers_forgotten(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_CALLERS", 10)
    kept = Limits(per_minute=1, concurrent=1)
    kept.take("running")
    for k in range(100):
        kept.take(str(k))
        kept.release(str(k))
    for remembered in ("running", "99"):
        with pytest.raises(TooManyRequests):
            kept.take(remembered)
    kept.take("0")  # forgotten, so it has a full bucket again


def test_key_guesses_counted_per_address(clock: Clock) -> None:
    kept = Limits(0, 0)
    for _ in range(limits.GUESSES):
        kept.check_guesses("1.2.3.4")
        kept.count_guess("1.2.3.4")
    with pytest.raises(TooManyRequests):
        kept.check_guesses("1.2.3.4")
    kept.check_guesses("1.2.3.5")
    clock.now += limits.GUESS_SECONDS
    kept.check_guesses("1.2.3.4")
