"""Who advances next. Continuous batching at step level: images join and leave the running pack between steps."""

from collections import deque

from .request import Batch, Phase, Request


class Scheduler:
    """First come, first served, under a budget of tokens per forward; one image always fits.

    Args:
        max_batch_tokens: tokens of a forward, both branches of guidance counted.
    """

    def __init__(self, max_batch_tokens: int) -> None:
        self.max_batch_tokens = max_batch_tokens
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running)

    def add(self, request: Request) -> None:
        self.waiting.append(request)

    def remove(self, request_id: str) -> list[Request]:
        """Takes every image of a request out, wherever it is."""
        removed = [r for r in (*self.waiting, *self.running) if r.request_id == request_id]
        self.waiting = deque(r for r in self.waiting if r.request_id != request_id)
        self.running = [r for r in self.running if r.request_id != request_id]
        return removed

    def schedule(self) -> Batch:
        """Decode what is ready, else encode what can join, else one step for all. Call only while busy."""
        done = next((r for r in self.running if r.denoise_done), None)
        if done is not None:
            return Batch(Phase.DECODE, (done,))
        joined = self._admit()
        if joined:
            return Batch(Phase.ENCODE, joined)
        return Batch(Phase.DENOISE, tuple(self.running))

    def finish(self, request: Request) -> None:
        self.running.remove(request)

    def _admit(self) -> tuple[Request, ...]:
        used = sum(r.cost for r in self.running)
        joined = []
        while self.waiting and (not self.running or used + self.waiting[0].cost <= self.max_batch_tokens):
            request = self.waiting.popleft()
            used += request.cost
            self.running.append(request)
            joined.append(request)
        return tuple(joined)
