"""What the server asks of an engine: EngineClient has it, and so may a client of engines on other machines."""

from collections.abc import AsyncGenerator
from typing import Protocol

from .config import EngineConfig
from .stats import EngineStats
from .types import Event, GenerationParams, ModelInfo


class Engine(Protocol):
    """An engine that is started once, generates for any number of tasks of one event loop, and is then stopped.

    Attributes:
        config: its settings.
        model: the loaded model; None before `start` has returned and after `stop`.
        draining: whether new requests are refused because the engine stops.
        ready: whether new requests are accepted and can be generated.
    """

    config: EngineConfig
    model: ModelInfo | None
    draining: bool

    @property
    def ready(self) -> bool: ...

    async def start(self) -> ModelInfo:
        """Waits for the model. Raises SanaError if it cannot be loaded."""
        ...

    async def stop(self) -> None:
        """Ends the engine; requests that are not done fail with EngineUnavailable."""
        ...

    def generate(self, params: GenerationParams, request_id: str | None = None) -> AsyncGenerator[Event]:
        """Yields the events of one request, up to its last Finished. Closing the generator cancels the request."""
        ...

    def stats(self) -> EngineStats:
        """Returns a snapshot of the engine."""
        ...
