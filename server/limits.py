"""How often and how many at once: requests per key, and wrong keys per address. Nothing here grows without bound."""

import math
import time
from collections import OrderedDict
from dataclasses import dataclass

from .errors import TooManyRequests

MAX_REMEMBERED = 10_000  # callers; the ones longest unseen are forgotten
GUESSES = 10
GUESS_SECONDS = 60.0


@dataclass
class Bucket:
    """Tokens that come back with time."""

    tokens: float
    seen: float  # when that many were there
    running: int = 0


class Buckets:
    """One bucket per caller, full at first.

    Args:
        size: tokens of a full bucket.
        seconds: in which an empty one fills.
    """

    def __init__(self, size: int, seconds: float) -> None:
        self.size = size
        self.rate = size / seconds
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def get(self, who: str) -> Bucket:
        """The caller's bucket as it is now."""
        now = time.monotonic()
        bucket = self._buckets.setdefault(who, Bucket(self.size, now))
        self._buckets.move_to_end(who)
        bucket.tokens = min(bucket.tokens + (now - bucket.seen) * self.rate, self.size)
        bucket.seen = now
        if len(self._buckets) > MAX_REMEMBERED:
            oldest, forgotten = self._buckets.popitem(last=False)
            if forgotten.running:  # it will be released
                self._buckets[oldest] = forgotten
        return bucket

    def seconds_until(self, bucket: Bucket, tokens: float) -> float:
        return max(tokens - bucket.tokens, 0) / self.rate


class Limits:
    """What each caller may take.

    Args:
        per_minute: requests a caller may start per minute; 0: any number.
        concurrent: requests a caller may have at once; 0: any number.
    """

    def __init__(self, per_minute: int, concurrent: int) -> None:
        self.per_minute = per_minute
        self.concurrent = concurrent
        self._callers = Buckets(max(per_minute, 1), 60.0)
        self._guessers = Buckets(GUESSES, GUESS_SECONDS)

    def take(self, who: str) -> dict[str, str]:
        """Counts a request, to be given back with `release`. Returns OpenAI's headers. Raises TooManyRequests."""
        bucket = self._callers.get(who)
        if self.concurrent and bucket.running >= self.concurrent:
            message = f"{bucket.running} requests of yours are running, the most this server allows; wait for one"
            raise TooManyRequests(message, 1)
        headers = {}
        if self.per_minute:
            if bucket.tokens < 1:
                wait = self._callers.seconds_until(bucket, 1)
                message = f"more than {self.per_minute} requests in a minute; try again in {math.ceil(wait)} s"
                raise TooManyRequests(message, wait)
            bucket.tokens -= 1
            headers = {
                "x-ratelimit-limit-requests": str(self.per_minute),
                "x-ratelimit-remaining-requests": str(int(bucket.tokens)),
                "x-ratelimit-reset-requests": f"{math.ceil(self._callers.seconds_until(bucket, self.per_minute))}s",
            }
        bucket.running += 1
        return headers

    def release(self, who: str) -> None:
        self._callers.get(who).running -= 1

    def check_guesses(self, address: str) -> None:
        """Raises TooManyRequests for an address that sent too many wrong keys: a right one is no answer then."""
        bucket = self._guessers.get(address)
        if bucket.tokens < 1:
            wait = self._guessers.seconds_until(bucket, 1)
            raise TooManyRequests("too many wrong API keys from your address; try again later", wait)

    def count_guess(self, address: str) -> None:
        self._guessers.get(address).tokens -= 1
