"""Who advances next. Continuous batching at step level: images join and leave the running pack between steps.

Small images, and those with few steps left, run together and first; larger ones, whose step would hold them up, get a
share of the device's time: what they need to be done within the seconds that the queue may hold.
Waiting images are ordered by tenant (least served first), then by priority and deadline; nobody waits forever.
"""

import math
from bisect import insort
from collections.abc import Iterable, Iterator, Sequence

from ..costs import CostModel
from ..fairness import LEAST_SHARE, PATIENCE, needed_share
from .image_task import Batch, ImageTask, Phase

MAX_SLOWDOWN = 2.0
"""A step of small images is at most so many times longer for a larger one that takes part."""


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
        self.waiting: dict[str, list[ImageTask]] = {}  # by tenant, the most urgent first
        self.running: list[ImageTask] = []
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

    def add(self, task: ImageTask) -> None:
        tenant = task.params.tenant
        if tenant not in self.waiting:
            self._served[tenant] = max(self._served.get(tenant, 0.0), self._least_served)
        insort(self.waiting.setdefault(tenant, []), task, key=self._due)
        self._changed = True

    def remove(self, request_id: str) -> list[ImageTask]:
        """Takes every image of a request out, wherever it is."""
        removed = [task for task in self._everyone() if task.request_id == request_id]
        for task in removed:
            if task in self.running:
                self.finish(task)
            else:
                self._take(task)
        return removed

    def finish(self, task: ImageTask) -> None:
        self.running.remove(task)
        self._changed = True

    def shrink(self, tokens: int) -> None:
        """Steps of several images stay below half of a step that the memory did not suffice for."""
        self.max_batch_tokens = max(1, tokens // 2)

    def schedule(self, now: float) -> Batch:
        """What can join is encoded at once; else the small images take a step, or the larger ones, when it is due."""
        joined = self._join()
        if joined:
            return Batch(Phase.ENCODE, tuple(joined))
        self._steps += 1
        small, large = self._split(self.running)
        batch = next_batch(small)
        if large:
            turn = next_batch(self._fill(sorted(large, key=lambda task: task.last_step), skip=True))
            if self._seconds(turn) <= self._credit:
                self._credit -= self._seconds(turn)
                batch = turn
            else:
                share = self._share_beside(small, now)
                self._credit += self._seconds(batch) * share / (1 - share)
        else:
            self._credit = 0.0
        for task in batch.tasks:
            task.last_step = self._steps
        return batch

    def _share_beside(self, small: list[ImageTask], now: float) -> float:
        """What all images larger than these, running or waiting, need to be done in time, one after the other."""
        limit, share, seconds = small[-1].tokens, LEAST_SHARE, 0.0
        larger = [task for task in self._everyone() if task.tokens > limit]
        for task in sorted(larger, key=lambda task: task.arrived):
            seconds += self._image_seconds(task)
            due = min(task.arrived + self.max_queue_seconds, task.deadline or math.inf)
            share = max(share, needed_share(seconds, due - now))
        return share

    def _join(self) -> list[ImageTask]:
        """Moves images from waiting to running: those that fit beside the small ones, and one larger at a time."""
        if not self._changed:
            return []
        self._changed = False
        joined: list[ImageTask] = []
        refused = (math.inf, 0)
        for task in self._in_order():
            if rank(task) < refused and self._fits(task, [*self.running, *joined]):
                joined.append(task)
            else:
                refused = min(refused, rank(task))  # where one does not fit, nothing as large does
        for task in joined:
            self._take(task)
            self._charge(task)
        self.running += joined
        return joined

    def _fits(self, task: ImageTask, running: list[ImageTask]) -> bool:
        small, _ = self._split([*running, task])
        return task in small or not self._split(running)[1]

    def _split(self, running: Iterable[ImageTask]) -> tuple[list[ImageTask], list[ImageTask]]:
        """The smallest images that fill a step together, and the rest."""
        ordered = sorted(running, key=rank)
        small = self._fill(ordered)
        return small, ordered[len(small) :]

    def _fill(self, ordered: Sequence[ImageTask], skip: bool = False) -> list[ImageTask]:
        """The first image and those after it that fit; with `skip`, beyond one that does not."""
        chosen: list[ImageTask] = []
        tokens, budget = 0, self.token_budget
        for task in ordered:
            slowdown = self.costs.step_seconds(tokens + task.tokens) / self.costs.step_seconds(tokens)
            if not chosen or (tokens + task.tokens <= budget and slowdown <= MAX_SLOWDOWN):
                chosen.append(task)
                tokens += task.tokens
            elif not skip:
                break
        return chosen

    def _in_order(self) -> Iterator[ImageTask]:
        """The waiting, as they would be started if all of them could."""
        served = dict(self._served)
        queues = {tenant: iter(queue) for tenant, queue in self.waiting.items()}
        heads = {tenant: next(queue) for tenant, queue in queues.items()}
        while heads:
            tenant = min(heads, key=lambda name: served[name] + PATIENCE[heads[name].params.priority])
            task = heads.pop(tenant)
            yield task
            served[tenant] += self._image_seconds(task)
            following = next(queues[tenant], None)
            if following is not None:
                heads[tenant] = following

    def _take(self, task: ImageTask) -> None:
        queue = self.waiting[task.params.tenant]
        queue.remove(task)
        if not queue:
            del self.waiting[task.params.tenant]
        self._changed = True

    def _charge(self, task: ImageTask) -> None:
        """Books an image's device time to its tenant, and forgets tenants who are owed nothing."""
        tenant = task.params.tenant
        self._least_served = max(self._least_served, self._served[tenant])
        self._served[tenant] += self._image_seconds(task)
        for name in [name for name in self._served if name not in self.waiting]:
            if self._served[name] <= self._least_served:
                del self._served[name]

    def _due(self, task: ImageTask) -> tuple[float, float]:
        """Within a tenant: when its patience ends, or when it has to start to meet its deadline."""
        due = task.arrived + PATIENCE[task.params.priority]
        if task.deadline is not None:
            due = min(due, task.deadline - self._image_seconds(task))
        return due, task.arrived

    def _everyone(self) -> Iterator[ImageTask]:
        yield from self.running
        for queue in self.waiting.values():
            yield from queue

    def _image_seconds(self, task: ImageTask) -> float:
        """What is left of it, alone on the device."""
        steps = task.params.num_inference_steps - task.step
        return self.costs.image_seconds(task.tokens, steps, task.pixels)

    def _seconds(self, batch: Batch) -> float:
        if batch.phase is Phase.DECODE:
            return self.costs.decode_seconds(batch.tasks[0].pixels)
        return self.costs.step_seconds(batch.tokens)


def rank(task: ImageTask) -> tuple[float, int]:
    """What makes an image large: first the rows of its step, then how many steps it has left."""
    return task.tokens, task.params.num_inference_steps - task.step


def next_batch(group: list[ImageTask]) -> Batch:
    """One image of the group that is ready for the decoder, else a step for all."""
    ready = next((task for task in group if task.decode_due), None)
    return Batch(Phase.DENOISE, tuple(group)) if ready is None else Batch(Phase.DECODE, (ready,))
