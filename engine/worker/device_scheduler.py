"""Two classes of images on one device: interactive ones as if alone, background ones in the time that these leave.

Background images stop at the next step when an interactive one arrives, and keep their state. Beside interactive images
they only fill up a step, as far as this hardly lengthens it.
"""

from collections.abc import Sequence

from ..costs import CostModel
from .image_task import Batch, ImageTask, Phase
from .scheduler import Scheduler

FILL_SLOWDOWN = 1.05
"""Maximum factor by which background images may lengthen a step of interactive ones. On a GPU a small step takes about
as long as a larger one, so there is room; on a CPU a step grows with its tokens, so there is none."""
BACKGROUND_STEP = 20.0
"""Maximum seconds of a step of several background images, as a multiple of a step's fixed part. An interactive image
that arrives waits for it, and longer steps would save at most a twentieth."""
MAX_ENCODED_PROMPTS = 8
"""Maximum background images that start in one encode batch, for the same reason: as many prompts share a forward."""


class DeviceScheduler:
    """Scheduler of one device; arguments as for Scheduler. Call `schedule` only while busy."""

    def __init__(
        self,
        costs: CostModel,
        max_batch_tokens: int,
        max_step_seconds: float,
        max_queue_seconds: float,
        exact: bool = False,
    ) -> None:
        self.interactive = Scheduler(costs, max_batch_tokens, max_step_seconds, max_queue_seconds, exact)
        self.background = Scheduler(costs, max_batch_tokens, 0.0, max_queue_seconds, exact, MAX_ENCODED_PROMPTS)
        self.costs = costs

    @property
    def busy(self) -> bool:
        """Whether there are images, waiting or running."""
        return self.interactive.busy or self.background.busy

    @property
    def running(self) -> Sequence[ImageTask]:
        """Started images of both classes."""
        return (*self.interactive.running, *self.background.running)

    @property
    def token_budget(self) -> int:
        """Maximum tokens of a step of several images."""
        return self.interactive.token_budget

    @property
    def costs(self) -> CostModel:
        """Predicted seconds; the engine replaces them after every step."""
        return self.interactive.costs

    @costs.setter
    def costs(self, costs: CostModel) -> None:
        self.interactive.costs = self.background.costs = costs
        longest = self.interactive.max_step_seconds
        # The fixed part is the difference of two measurements, which may be nearly nothing on a busy machine.
        self.background.max_step_seconds = min(max(BACKGROUND_STEP * costs.step, longest / 2), longest)

    def add(self, task: ImageTask) -> None:
        """Queues an image."""
        self._class_of(task).add(task)

    def finish(self, task: ImageTask) -> None:
        """Removes a running image."""
        self._class_of(task).finish(task)

    def remove(self, request_id: str) -> list[ImageTask]:
        """Removes the images of a request, waiting or running, and returns them."""
        return self.interactive.remove(request_id) + self.background.remove(request_id)

    def shrink(self, tokens: int) -> None:
        """Limits steps of several images to half the tokens of a step that ran out of memory."""
        self.interactive.shrink(tokens)
        self.background.shrink(tokens)

    def schedule(self, now: float) -> Batch:
        """Returns the next batch: of interactive images if there are any, filled up, else of background images."""
        if not self.interactive.busy:
            return self.background.schedule(now)
        batch = self.interactive.schedule(now)
        return batch if batch.phase is not Phase.DENOISE else self._filled(batch)

    def _filled(self, batch: Batch) -> Batch:
        """The denoise step with the started background images that fit into it."""
        tasks, tokens = list(batch.tasks), batch.tokens
        longest = self.costs.step_seconds(tokens) * FILL_SLOWDOWN
        for task in sorted(self.background.running, key=lambda task: task.tokens):
            more = tokens + task.tokens
            if more > self.token_budget or self.costs.step_seconds(more) > longest:
                break
            if not (task.encode_due or task.decode_due):
                tasks.append(task)
                tokens = more
        return Batch(Phase.DENOISE, tuple(tasks))

    def _class_of(self, task: ImageTask) -> Scheduler:
        return self.background if task.params.background else self.interactive
