"""Rate and concurrency limits: requests per key, and wrong keys per address. Memory is bounded."""

import asyncio
import math
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass

from .http_errors import TooManyRequests

MAX_CALLERS = 10_000  # the least recently seen are forgotten
GUESSES = 10
GUESS_SECONDS = 60.0


@dataclass
class Quota:
    """Token bucket of one caller, and its running requests."""

    tokens: float
    seen: float  # time.monotonic() at which the bucket held `tokens`
    running: int = 0


class Quotas:
    """One token bucket per caller, full at first.

    Args:
        size: tokens in a full bucket.
        seconds: time in which an empty bucket refills.
    """

    def __init__(self, size: int, seconds: float) -> None:
        self.size = size
        self.rate = size / seconds
        self._quotas: OrderedDict[str, Quota] = OrderedDict()

    def __len__(self) -> int:
        return len(self._quotas)

    def get(self, who: str) -> Quota:
        """The caller's bucket, refilled up to now."""
        now = time.monotonic()
        quota = self._quotas.setdefault(who, Quota(self.size, now))
        self._quotas.move_to_end(who)
        quota.tokens = min(quota.tokens + (now - quota.seen) * self.rate, self.size)
        quota.seen = now
        if len(self._quotas) > MAX_CALLERS:
            oldest, forgotten = self._quotas.popitem(last=False)
            if forgotten.running:  # release() still needs it
                self._quotas[oldest] = forgotten
        return quota

    def seconds_until(self, quota: Quota, tokens: float) -> float:
        return max(tokens - quota.tokens, 0) / self.rate


class UploadMemory:
    """Bytes of uploaded images, and of the pixels in them, that the running requests hold.

    Args:
        limit: maximum bytes of all requests.
        readers: images that may be read at once.
    """

    def __init__(self, limit: int, readers: int) -> None:
        self.limit = limit
        self.held = 0
        self.readers = asyncio.Semaphore(readers)

    def take(self, count: int) -> None:
        """Counts bytes; a negative number gives some back. Raises TooManyRequests if they are too many."""
        if count > 0 and self.held + count > self.limit:
            raise TooManyRequests("the server holds as many bytes of uploaded images as it may; try again later", 5)
        self.held += count


class Limits:
    """Limits of every caller.

    Args:
        per_minute: requests a caller may start per minute; 0: unlimited.
        concurrent: concurrent requests of a caller; 0: unlimited.

    Attributes:
        rejected: refused requests by reason: api_key, rate_limit, concurrency.
    """

    def __init__(self, per_minute: int, concurrent: int) -> None:
        self.per_minute = per_minute
        self.concurrent = concurrent
        self.rejected = Counter({"api_key": 0, "rate_limit": 0, "concurrency": 0})
        self._callers = Quotas(max(per_minute, 1), 60.0)
        self._guessers = Quotas(GUESSES, GUESS_SECONDS)

    def take(self, who: str) -> dict[str, str]:
        """Counts a request until `release`. Returns OpenAI's rate limit headers. Raises TooManyRequests."""
        quota = self._callers.get(who)
        if self.concurrent and quota.running >= self.concurrent:
            self.rejected["concurrency"] += 1
            message = f"at most {self.concurrent} concurrent requests are allowed, got one more; wait until one is done"
            raise TooManyRequests(message, 1)
        headers = {}
        if self.per_minute:
            if quota.tokens < 1:
                self.rejected["rate_limit"] += 1
                wait = self._callers.seconds_until(quota, 1)
                message = f"at most {self.per_minute} requests per minute are allowed; try again in {math.ceil(wait)} s"
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
        """Raises TooManyRequests for an address that sent too many wrong keys, so that it cannot try more of them."""
        quota = self._guessers.get(address)
        if quota.tokens < 1:
            self.rejected["api_key"] += 1
            wait = self._guessers.seconds_until(quota, 1)
            raise TooManyRequests(f"too many wrong API keys from this address; try again in {math.ceil(wait)} s", wait)

    def count_guess(self, address: str) -> None:
        self._guessers.get(address).tokens -= 1
