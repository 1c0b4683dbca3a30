"""State of an accepted request on the client side. It outlives engine processes, so that none of them can lose it."""

import asyncio
from dataclasses import dataclass, field

from .types import Event, Failed, Finished, GenerationParams, Preview, Progress, Started


@dataclass(eq=False)
class Request:
    """An accepted request, kept until the caller has received every image or one error.

    Args:
        seconds: predicted device seconds of all its images, run alone.
        tokens: tokens that one of its images adds to a forward.
        arrived, deadline: seconds by time.monotonic, the event loop's clock.
        events: events for the caller; their number is bounded by the request's images, steps and previews.
        sent: whether the present engine process has received it.
        started: whether the present engine process has started to generate it.
        crashes: number of engine processes that ended after they had started to generate it.
    """

    request_id: str
    params: GenerationParams
    seconds: float
    tokens: int
    arrived: float
    deadline: float | None
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    sent: bool = False
    started: bool = False
    crashes: int = 0
    failed: bool = False
    _start_sent: bool = False
    _finished: set[int] = field(default_factory=set)
    _steps: dict[int, int] = field(default_factory=dict)
    _sent_steps: dict[int, int] = field(default_factory=dict)
    _sent_previews: dict[int, int] = field(default_factory=dict)

    @property
    def missing(self) -> tuple[int, ...]:
        """Indices of the images that are not finished."""
        return tuple(index for index in range(self.params.n) if index not in self._finished)

    @property
    def done(self) -> bool:
        """Whether the request has failed or all its images are finished."""
        return self.failed or len(self._finished) == self.params.n

    @property
    def seconds_spent(self) -> float:
        """Predicted device seconds spent on unfinished images, which are lost if the process ends."""
        steps = sum(step for index, step in self._steps.items() if index not in self._finished)
        return self.seconds * steps / (self.params.n * max(self.params.denoise_steps, 1))

    @property
    def seconds_left(self) -> float:
        """Predicted device seconds until the request is done."""
        return self.seconds * len(self.missing) / self.params.n - self.seconds_spent

    def receive(self, event: Event) -> None:
        """Records an event, and passes it on unless an earlier process has sent the same."""
        if self._is_new(event):
            self.events.put_nowait(event)

    def reset(self) -> None:
        """Prepares the unfinished images to start again, after the engine process of the request has ended."""
        self.crashes += self.started
        self.sent = self.started = False
        self._steps.clear()

    def _is_new(self, event: Event) -> bool:
        if self.done:
            return False
        if isinstance(event, Started):
            self.started = True
            self._start_sent, sent_before = True, self._start_sent
            return not sent_before
        if isinstance(event, Progress):
            self._steps[event.image_index] = event.step
            return raise_maximum(self._sent_steps, event.image_index, event.step)
        if isinstance(event, Preview):
            return raise_maximum(self._sent_previews, event.image_index, event.preview_index + 1)
        if isinstance(event, Finished):
            sent_before = event.image_index in self._finished
            self._finished.add(event.image_index)
            return not sent_before
        self.failed = isinstance(event, Failed)
        return True


def raise_maximum(maxima: dict[int, int], index: int, value: int) -> bool:
    """Sets maxima[index] to `value` if that is greater, and returns whether it was."""
    greater = value > maxima.get(index, 0)
    if greater:
        maxima[index] = value
    return greater
