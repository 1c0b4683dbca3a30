"""What crosses the pipe between the client and the engine process, besides events."""

from dataclasses import dataclass

from .errors import SanaError
from .types import GenerationParams, ModelInfo


@dataclass(frozen=True)
class Submit:
    request_id: str
    params: GenerationParams


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


@dataclass(frozen=True)
class StartFailed:
    """The model could not be loaded; the process ends."""

    error: SanaError
