"""A request as its caller's side keeps it: what was asked, what has been told, what is left. Survives the engine."""

import asyncio
from dataclasses import dataclass, field

from .types import Event, Failed, Finished, GenerationParams, Preview, Progress, Started


@dataclass(eq=False)
class Request:
    """Accepted, and not forgotten before every image or one error has been told.

    Args:
        seconds: predicted for all its images, alone on the device.
        tokens: rows that one of its images adds to a forward.
        arrived, deadline: on the event loop's clock, time.monotonic.
        events: for the caller; bounded by what one request can cause.
        sent: the present engine process has it.
        started: the present engine process has begun to draw it.
        deaths: of engine processes that had begun to draw it.
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
    deaths: int = 0
    failed: bool = False
    _start_sent: bool = False
    _finished: set[int] = field(default_factory=set)
    _steps: dict[int, int] = field(default_factory=dict)
    _best_steps: dict[int, int] = field(default_factory=dict)
    _previews: dict[int, int] = field(default_factory=dict)

    @property
    def missing(self) -> tuple[int, ...]:
        """Images not handed out yet."""
        return tuple(index for index in range(self.params.n) if index not in self._finished)

    @property
    def done(self) -> bool:
        return self.failed or len(self._finished) == self.params.n

    @property
    def seconds_spent(self) -> float:
        """Predicted device seconds behind the images in progress: lost, if they are."""
        steps = sum(step for index, step in self._steps.items() if index not in self._finished)
        return self.seconds * steps / (self.params.n * self.params.num_inference_steps)

    @property
    def seconds_left(self) -> float:
        return self.seconds * len(self.missing) / self.params.n - self.seconds_spent

    def receive(self, event: Event) -> None:
        """Notes an event, and passes it on unless a process that has ended since told the same."""
        if self._is_news(event):
            self.events.put_nowait(event)

    def engine_ended(self) -> None:
        """The process that had it is gone: what was not handed out begins again."""
        self.deaths += self.started
        self.sent = self.started = False
        self._steps.clear()

    def _is_news(self, event: Event) -> bool:
        if self.done:
            return False
        if isinstance(event, Started):
            self.started = True
            self._start_sent, sent_before = True, self._start_sent
            return not sent_before
        if isinstance(event, Progress):
            self._steps[event.image_index] = event.step
            return raises(self._best_steps, event.image_index, event.step)
        if isinstance(event, Preview):
            return raises(self._previews, event.image_index, event.preview_index + 1)
        if isinstance(event, Finished):
            sent_before = event.image_index in self._finished
            self._finished.add(event.image_index)
            return not sent_before
        self.failed = isinstance(event, Failed)
        return True


def raises(marks: dict[int, int], index: int, mark: int) -> bool:
    """Whether `mark` is above the highest so far, which it then becomes."""
    higher = mark > marks.get(index, 0)
    if higher:
        marks[index] = mark
    return higher
