"""How often and how many at once: requests per key, and wrong keys per address. Nothing here grows without bound."""

import math
import time
from collections import OrderedDict
from dataclasses import dataclass

from .http_errors import TooManyRequests

MAX_REMEMBERED = 10_000  # callers; the ones longest unseen are forgotten
GUESSES = 10
GUESS_SECONDS = 60.0


@dataclass
class Quota:
    """Tokens that come back with time."""

    tokens: float
    seen: float  # when that many were there
    running: int = 0


class Quotas:
    """One bucket per caller, full at first.

    Args:
        size: tokens of a full bucket.
        seconds: in which an empty one fills.
    """

    def __init__(self, size: int, seconds: float) -> None:
        self.size = size
        self.rate = size / seconds
        self._quotas: OrderedDict[str, Quota] = OrderedDict()

    def __len__(self) -> int:
        return len(self._quotas)

    def get(self, who: str) -> Quota:
        """The caller's bucket as it is now."""
        now = time.monotonic()
        quota = self._quotas.setdefault(who, Quota(self.size, now))
        self._quotas.move_to_end(who)
        quota.tokens = min(quota.tokens + (now - quota.seen) * self.rate, self.size)
        quota.seen = now
        if len(self._quotas) > MAX_REMEMBERED:
            oldest, forgotten = self._quotas.popitem(last=False)
            if forgotten.running:  # it will be released
                self._quotas[oldest] = forgotten
        return quota

    def seconds_until(self, quota: Quota, tokens: float) -> float:
        return max(tokens - quota.tokens, 0) / self.rate


class Limits:
    """What each caller may take.

    Args:
        per_minute: requests a caller may start per minute; 0: any number.
        concurrent: requests a caller may have at once; 0: any number.
    """

    def __init__(self, per_minute: int, concurrent: int) -> None:
        self.per_minute = per_minute
        self.concurrent = concurrent
        self._callers = Quotas(max(per_minute, 1), 60.0)
        self._guessers = Quotas(GUESSES, GUESS_SECONDS)

    def take(self, who: str) -> dict[str, str]:
        """Counts a request, to be given back with `release`. Returns OpenAI's headers. Raises TooManyRequests."""
        quota = self._callers.get(who)
        if self.concurrent and quota.running >= self.concurrent:
            message = f"{quota.running} requests of yours are running, the most this server allows; wait for one"
            raise TooManyRequests(message, 1)
        headers = {}
        if self.per_minute:
            if quota.tokens < 1:
                wait = self._callers.seconds_until(quota, 1)
                message = f"more than {self.per_minute} requests in a minute; try again in {math.ceil(wait)} s"
                raise TooManyRequests(message, wait)
            quota.tokens -= 1
            headers = {
                "x-ratelimit-limit-requests": str(self.per_minute),
                "x-ratelimit-remaining-requests": str(int(quota.tokens)),
                "x-ratelimit-reset-requests": f"{math.ceil(self._callers.seconds_until(quota, self.per_minute))}s",
            }
        quota.running += 1
        return headers

    def release(self, who: str) -> None:
        self._callers.get(who).running -= 1

    def check_guesses(self, address: str) -> None:
        """Raises TooManyRequests for an address that sent too many wrong keys: a right one is no answer then."""
        quota = self._guessers.get(address)
        if quota.tokens < 1:
            wait = self._guessers.seconds_until(quota, 1)
            raise TooManyRequests("too many wrong API keys from your address; try again later", wait)

    def count_guess(self, address: str) -> None:
        self._guessers.get(address).tokens -= 1
