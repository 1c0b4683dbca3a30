"""What crosses the pipe between the client and an engine process, besides events and step reports."""

import time
from dataclasses import dataclass, field

from .costs import CostModel, MemoryModel
from .errors import SanaError
from .stats import StepReport
from .types import Event, GenerationParams, ModelInfo


@dataclass(frozen=True)
class Submit:
    """Draw these images of a request; None: all `n`. `arrived` and `deadline` are by time.monotonic, all processes'."""

    request_id: str
    params: GenerationParams
    images: tuple[int, ...] | None = None
    arrived: float = field(default_factory=time.monotonic)
    deadline: float | None = None


@dataclass(frozen=True)
class Cancel:
    request_id: str


@dataclass(frozen=True)
class Stop:
    """Finish nothing more and leave."""


@dataclass(frozen=True)
class Ready:
    """The model is loaded and warm."""

    model: ModelInfo
    costs: CostModel
    memory: MemoryModel


@dataclass(frozen=True)
class StartFailed:
    """The model could not be loaded; the process ends."""

    error: SanaError


Order = Submit | Cancel | Stop
Report = Event | StepReport | Ready | StartFailed
