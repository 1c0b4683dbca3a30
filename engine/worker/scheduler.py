"""Continuous batching: images join and leave the running batch between denoise steps.

Small images, and those with few steps left, run together and first. Larger ones, whose steps would delay them, get the
share of device time that they need to finish within `max_queue_seconds`.
Waiting images are ordered by tenant (lowest device time first), then by priority and deadline; none waits forever.
"""

import math
from bisect import insort
from collections.abc import Iterable, Iterator, Sequence

from ..costs import CostModel
from ..fairness import MIN_SHARE, PATIENCE, required_share
from .image_task import Batch, ImageTask, Phase

MAX_SLOWDOWN = 2.0
"""Maximum factor by which a larger image may lengthen the step of the smaller ones it joins."""


class Scheduler:
    """Scheduler of one device.

    Call `schedule` only while busy. After a batch, advance its tasks, and `finish` those that are decoded.

    Args:
        costs: predicted seconds; the engine replaces them after every step.
        max_batch_tokens: maximum tokens of a forward, counting both branches of guidance; one image always fits.
        max_step_seconds: maximum predicted seconds of a step of several images.
        max_queue_seconds: seconds within which larger images should finish, even beside a stream of small ones.
        exact: run each image in a forward of its own.
        max_joins: maximum number of images that start in one encode batch.
    """

    def __init__(
        self,
        costs: CostModel,
        max_batch_tokens: int,
        max_step_seconds: float,
        max_queue_seconds: float,
        exact: bool = False,
        max_joins: float = math.inf,
    ) -> None:
        self.costs = costs
        self.max_batch_tokens = max_batch_tokens
        self.max_step_seconds = max_step_seconds
        self.max_queue_seconds = max_queue_seconds
        self.exact = exact
        self.max_joins = max_joins
        self.waiting: dict[str, list[ImageTask]] = {}  # by tenant, the most urgent image first
        self.running: list[ImageTask] = []
        self.served: dict[str, float] = {}  # predicted device seconds by tenant
        self._virtual_time = 0.0  # of fair queueing: the device seconds with which a new tenant starts
        self._credit = 0.0  # device seconds available to the larger images
        self._changed = False  # whether an image may join that could not before
        self._steps = 0

    @property
    def busy(self) -> bool:
        """Whether there are images, waiting or running."""
        return bool(self.waiting or self.running)

    @property
    def token_budget(self) -> int:
        """Maximum tokens of a step of several images."""
        return 0 if self.exact else min(self.max_batch_tokens, self.costs.tokens_within(self.max_step_seconds))

    def add(self, task: ImageTask) -> None:
        """Queues an image."""
        tenant = task.params.tenant
        if tenant not in self.waiting:
            self.served[tenant] = max(self.served.get(tenant, 0.0), self._virtual_time)
        insort(self.waiting.setdefault(tenant, []), task, key=self._urgency)
        self._changed = True

    def remove(self, request_id: str) -> list[ImageTask]:
        """Removes the images of a request, waiting or running, and returns them."""
        removed = [task for task in self._tasks() if task.request_id == request_id]
        for task in removed:
            if task in self.running:
                self.finish(task)
            else:
                self._remove_waiting(task)
        return removed

    def finish(self, task: ImageTask) -> None:
        """Removes a running image."""
        self.running.remove(task)
        self._changed = True

    def shrink(self, tokens: int) -> None:
        """Limits steps of several images to half the tokens of a step that ran out of memory."""
        self.max_batch_tokens = max(1, tokens // 2)

    def schedule(self, now: float) -> Batch:
        """Returns the next batch. Images that can join are encoded first; else the small or the larger ones advance."""
        joined = self._join()
        if joined:
            return Batch(Phase.ENCODE, tuple(joined))
        self._steps += 1
        small, large = self._split(self.running)
        batch = next_batch(small)
        if large:
            turn = next_batch(self._select(sorted(large, key=lambda task: task.last_step), skip=True))
            if self._seconds(turn) <= self._credit:
                self._credit -= self._seconds(turn)
                batch = turn
            else:
                share = self._required_share(small, now)
                self._credit += self._seconds(batch) * share / (1 - share)
        else:
            self._credit = 0.0
        for task in batch.tasks:
            task.last_step = self._steps
        return batch

    def _required_share(self, small: list[ImageTask], now: float) -> float:
        """Share of device time that all images larger than these need to finish in time, one after the other."""
        limit, share, seconds = small[-1].tokens, MIN_SHARE, 0.0
        larger = [task for task in self._tasks() if task.tokens > limit]
        for task in sorted(larger, key=lambda task: task.arrived):
            seconds += self._image_seconds(task)
            due = min(task.arrived + self.max_queue_seconds, task.deadline or math.inf)
            share = max(share, required_share(seconds, due - now))
        return share

    def _join(self) -> list[ImageTask]:
        """Moves images from waiting to running: those that fit into the small ones' step, and one larger at a time."""
        if not self._changed:
            return []
        self._changed = False
        joined: list[ImageTask] = []
        refused = (math.inf, 0)
        for task in self._waiting_in_order():
            if rank(task) < refused and self._fits(task, [*self.running, *joined]):
                joined.append(task)
            else:
                refused = min(refused, rank(task))  # an image of this rank or above would not fit either
            if len(joined) >= self.max_joins:
                self._changed = True  # the others follow in the next batch
                break
        for task in joined:
            self._remove_waiting(task)
            self._charge(task)
        self.running += joined
        return joined

    def _fits(self, task: ImageTask, running: list[ImageTask]) -> bool:
        """Whether the image can run with these: in the step of the small ones, or as the only larger one."""
        small, _ = self._split([*running, task])
        return task in small or not self._split(running)[1]

    def _split(self, running: Iterable[ImageTask]) -> tuple[list[ImageTask], list[ImageTask]]:
        """The smallest images that fit into one step, and the larger ones."""
        ordered = sorted(running, key=rank)
        small = self._select(ordered)
        return small, ordered[len(small) :]

    def _select(self, ordered: Sequence[ImageTask], skip: bool = False) -> list[ImageTask]:
        """The first image and the following ones that fit into its step, up to one that does not.

        Args:
            skip: continue after an image that does not fit.
        """
        selected: list[ImageTask] = []
        tokens, budget = 0, self.token_budget
        for task in ordered:
            slowdown = self.costs.step_seconds(tokens + task.tokens) / self.costs.step_seconds(tokens)
            if not selected or (tokens + task.tokens <= budget and slowdown <= MAX_SLOWDOWN):
                selected.append(task)
                tokens += task.tokens
            elif not skip:
                break
        return selected

    def _waiting_in_order(self) -> Iterator[ImageTask]:
        """Waiting images in the order in which they would start if all of them fitted."""
        served = dict(self.served)
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

    def _remove_waiting(self, task: ImageTask) -> None:
        queue = self.waiting[task.params.tenant]
        queue.remove(task)
        if not queue:
            del self.waiting[task.params.tenant]
        self._changed = True

    def _charge(self, task: ImageTask) -> None:
        """Adds an image's device time to its tenant, and drops idle tenants whose entry has no effect any more."""
        tenant = task.params.tenant
        self._virtual_time = max(self._virtual_time, self.served[tenant])
        self.served[tenant] += self._image_seconds(task)
        for name in [name for name in self.served if name not in self.waiting]:
            if self.served[name] <= self._virtual_time:
                del self.served[name]

    def _urgency(self, task: ImageTask) -> tuple[float, float]:
        """Sort key within a tenant: the end of its patience or the latest start for its deadline, then its arrival."""
        due = task.arrived + PATIENCE[task.params.priority]
        if task.deadline is not None:
            due = min(due, task.deadline - self._image_seconds(task))
        return due, task.arrived

    def _tasks(self) -> Iterator[ImageTask]:
        """All images, running and waiting."""
        yield from self.running
        for queue in self.waiting.values():
            yield from queue

    def _image_seconds(self, task: ImageTask) -> float:
        """Predicted seconds that an image still needs, alone on the device."""
        steps = task.params.num_inference_steps - task.step
        seconds = self.costs.image_seconds(task.tokens, steps, task.pixels)
        return seconds + self.costs.encode_image_seconds(task.pixels) if task.encode_due else seconds

    def _seconds(self, batch: Batch) -> float:
        """Predicted seconds of a batch of started images."""
        if batch.phase is Phase.ENCODE_IMAGE:
            return self.costs.encode_image_seconds(batch.tasks[0].pixels)
        if batch.phase is Phase.DECODE:
            return self.costs.decode_seconds(batch.tasks[0].pixels)
        return self.costs.step_seconds(batch.tokens)


def rank(task: ImageTask) -> tuple[float, int]:
    """Size of an image for the scheduler: tokens of its step, then the number of steps left."""
    return task.tokens, task.params.num_inference_steps - task.step


def next_batch(group: list[ImageTask]) -> Batch:
    """The encode of an image that some of the group repaint, or the decode of one, or else a denoise step of all."""
    source = next((task.params.image for task in group if task.encode_due), None)
    if source is not None:  # which the images of one request share
        due = tuple(task for task in group if task.encode_due and task.params.image is source)
        return Batch(Phase.ENCODE_IMAGE, due)
    ready = next((task for task in group if task.decode_due), None)
    return Batch(Phase.DENOISE, tuple(group)) if ready is None else Batch(Phase.DECODE, (ready,))
