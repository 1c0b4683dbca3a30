"""Who advances next. Continuous batching at step level: images join and leave the running pack between steps.

Small images, and those with few steps left, run together and first; larger ones, whose step would hold them up, get a
share of the device's time: what they need to be done within the seconds that the queue may hold.
Waiting images are ordered by tenant (least served first), then by priority and deadline; nobody waits forever.
"""

import math
from bisect import insort
from collections.abc import Iterable, Iterator, Sequence

from .costs import CostModel
from .request import Batch, Phase, Request

LEAST_SHARE, MOST_SHARE = 0.2, 0.5
"""Of the device's time, for images that the small ones do not share their steps with, while there are small ones. Half
makes the small ones twice as slow, and no slower."""
MAX_SLOWDOWN = 2.0
"""A step of small images is at most so many times longer for a larger one that takes part."""
PATIENCE = {"high": 0.0, "normal": 10.0, "low": 60.0}
"""Seconds a request lets later ones of a higher priority pass; between tenants, seconds of device time."""


class Scheduler:
    """Call `schedule` only while busy; after a batch, advance its requests and `finish` those that were decoded.

    Args:
        costs: predicted seconds; the engine replaces it as it learns.
        max_batch_tokens: rows of a forward, both branches of guidance counted; one image always fits.
        max_step_seconds: of a step of several images.
        max_queue_seconds: in which larger images should be done beside whatever stream of small ones.
        exact: every image in a forward of its own.
    """

    def __init__(
        self,
        costs: CostModel,
        max_batch_tokens: int,
        max_step_seconds: float,
        max_queue_seconds: float,
        exact: bool = False,
    ) -> None:
        self.costs = costs
        self.max_batch_tokens = max_batch_tokens
        self.max_step_seconds = max_step_seconds
        self.max_queue_seconds = max_queue_seconds
        self.exact = exact
        self.waiting: dict[str, list[Request]] = {}  # by tenant, the most urgent first
        self.running: list[Request] = []
        self._served: dict[str, float] = {}  # predicted device seconds by tenant
        self._least_served = 0.0
        self._credit = 0.0  # device seconds the larger images are owed
        self._changed = False  # since the waiting were last looked at
        self._steps = 0

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running)

    @property
    def token_budget(self) -> int:
        """Rows that a step of several images may have."""
        return 0 if self.exact else min(self.max_batch_tokens, self.costs.tokens_within(self.max_step_seconds))

    def add(self, request: Request) -> None:
        tenant = request.params.tenant
        if tenant not in self.waiting:
            self._served[tenant] = max(self._served.get(tenant, 0.0), self._least_served)
        insort(self.waiting.setdefault(tenant, []), request, key=self._due)
        self._changed = True

    def remove(self, request_id: str) -> list[Request]:
        """Takes every image of a request out, wherever it is."""
        removed = [request for request in self._everyone() if request.request_id == request_id]
        for request in removed:
            if request in self.running:
                self.finish(request)
            else:
                self._take(request)
        return removed

    def finish(self, request: Request) -> None:
        self.running.remove(request)
        self._changed = True

    def shrink(self, tokens: int) -> None:
        """Steps of several images stay below half of a step that the memory did not suffice for."""
        self.max_batch_tokens = max(1, tokens // 2)

    def schedule(self, now: float) -> Batch:
        """What can join is encoded at once; else the small images take a step, or the larger ones, when it is due."""
        joined = self._admit()
        if joined:
            return Batch(Phase.ENCODE, tuple(joined))
        self._steps += 1
        small, large = self._split(self.running)
        batch = batch_of(small)
        if large:
            turn = batch_of(self._fill(sorted(large, key=lambda request: request.last_step), skip=True))
            if self._seconds(turn) <= self._credit:
                self._credit -= self._seconds(turn)
                batch = turn
            else:
                share = self._share_beside(small, now)
                self._credit += self._seconds(batch) * share / (1 - share)
        else:
            self._credit = 0.0
        for request in batch.requests:
            request.last_step = self._steps
        return batch

    def _share_beside(self, small: list[Request], now: float) -> float:
        """What all images larger than these, running or waiting, need to be done in time, one after the other."""
        limit, share, seconds = small[-1].tokens, LEAST_SHARE, 0.0
        larger = [request for request in self._everyone() if request.tokens > limit]
        for request in sorted(larger, key=lambda request: request.arrived):
            seconds += self._image_seconds(request)
            due = min(request.arrived + self.max_queue_seconds, request.deadline or math.inf)
            share = max(share, needed_share(seconds, due - now))
        return share

    def _admit(self) -> list[Request]:
        """Moves images from waiting to running: those that fit beside the small ones, and one larger at a time."""
        if not self._changed:
            return []
        self._changed = False
        joined: list[Request] = []
        refused = (math.inf, 0)
        for request in self._in_order():
            if size(request) < refused and self._fits(request, [*self.running, *joined]):
                joined.append(request)
            else:
                refused = min(refused, size(request))  # where one does not fit, nothing as large does
        for request in joined:
            self._take(request)
            self._charge(request)
        self.running += joined
        return joined

    def _fits(self, request: Request, running: list[Request]) -> bool:
        small, _ = self._split([*running, request])
        return request in small or not self._split(running)[1]

    def _split(self, running: Iterable[Request]) -> tuple[list[Request], list[Request]]:
        """The smallest images that fill a step together, and the rest."""
        ordered = sorted(running, key=size)
        small = self._fill(ordered)
        return small, ordered[len(small) :]

    def _fill(self, ordered: Sequence[Request], skip: bool = False) -> list[Request]:
        """The first image and those after it that fit; with `skip`, beyond one that does not."""
        chosen: list[Request] = []
        tokens, budget = 0, self.token_budget
        for request in ordered:
            slowdown = self.costs.step_seconds(tokens + request.tokens) / self.costs.step_seconds(tokens)
            if not chosen or (tokens + request.tokens <= budget and slowdown <= MAX_SLOWDOWN):
                chosen.append(request)
                tokens += request.tokens
            elif not skip:
                break
        return chosen

    def _in_order(self) -> Iterator[Request]:
        """The waiting, as they would be started if all of them could."""
        served = dict(self._served)
        queues = {tenant: iter(queue) for tenant, queue in self.waiting.items()}
        heads = {tenant: next(queue) for tenant, queue in queues.items()}
        while heads:
            tenant = min(heads, key=lambda name: served[name] + PATIENCE[heads[name].params.priority])
            request = heads.pop(tenant)
            yield request
            served[tenant] += self._image_seconds(request)
            following = next(queues[tenant], None)
            if following is not None:
                heads[tenant] = following

    def _take(self, request: Request) -> None:
        queue = self.waiting[request.params.tenant]
        queue.remove(request)
        if not queue:
            del self.waiting[request.params.tenant]
        self._changed = True

    def _charge(self, request: Request) -> None:
        """Books an image's device time to its tenant, and forgets tenants who are owed nothing."""
        tenant = request.params.tenant
        self._least_served = max(self._least_served, self._served[tenant])
        self._served[tenant] += self._image_seconds(request)
        for name in [name for name in self._served if name not in self.waiting]:
            if self._served[name] <= self._least_served:
                del self._served[name]

    def _due(self, request: Request) -> tuple[float, float]:
        """Within a tenant: when its patience ends, or when it has to start to meet its deadline."""
        due = request.arrived + PATIENCE[request.params.priority]
        if request.deadline is not None:
            due = min(due, request.deadline - self._image_seconds(request))
        return due, request.arrived

    def _everyone(self) -> Iterator[Request]:
        yield from self.running
        for queue in self.waiting.values():
            yield from queue

    def _image_seconds(self, request: Request) -> float:
        """What is left of it, alone on the device."""
        steps = request.params.num_inference_steps - request.step
        return self.costs.image_seconds(request.tokens, steps, request.pixels)

    def _seconds(self, batch: Batch) -> float:
        if batch.phase is Phase.DECODE:
            return self.costs.decode_seconds(batch.requests[0].pixels)
        return self.costs.step_seconds(batch.tokens)


def needed_share(seconds: float, within: float) -> float:
    """Of the device's time, for larger images with so much work left, to be done `within` seconds if that can be."""
    return MOST_SHARE if seconds >= MOST_SHARE * within else max(LEAST_SHARE, seconds / within)


def size(request: Request) -> tuple[float, int]:
    """What makes an image large: first the rows of its step, then how many steps it has left."""
    return request.tokens, request.params.num_inference_steps - request.step


def batch_of(group: list[Request]) -> Batch:
    """One image of the group that is ready for the decoder, else a step for all."""
    ready = next((request for request in group if request.decode_due), None)
    return Batch(Phase.DENOISE, tuple(group)) if ready is None else Batch(Phase.DECODE, (ready,))
