"""Messages between the client and an engine process, in addition to events and step reports."""

import time
from dataclasses import dataclass, field

from .costs import CostModel, MemoryModel
from .errors import SanaError
from .stats import StepReport
from .types import Event, GenerationParams, ModelInfo


@dataclass(frozen=True)
class Submit:
    """Generate images of a request.

    Args:
        images: indices of the images; None: all `n`.
        arrived, deadline: seconds by time.monotonic, whose clock all processes of a machine share.
    """

    request_id: str
    params: GenerationParams
    images: tuple[int, ...] | None = None
    arrived: float = field(default_factory=time.monotonic)
    deadline: float | None = None


@dataclass(frozen=True)
class Cancel:
    """Drop a request, queued or running."""

    request_id: str


@dataclass(frozen=True)
class Stop:
    """End the process without finishing anything."""


@dataclass(frozen=True)
class Ready:
    """The model is loaded and warmed up."""

    model: ModelInfo
    costs: CostModel
    memory: MemoryModel


@dataclass(frozen=True)
class StartFailed:
    """The model could not be loaded; the process ends."""

    error: SanaError


Command = Submit | Cancel | Stop
Report = Event | StepReport | Ready | StartFailed
