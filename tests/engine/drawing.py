"""Pictures from an EngineCore in this process."""

import io
import queue
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from engine import EngineConfig, Event, Failed, Finished, GenerationParams, StepReport
from engine.core import EngineCore
from engine.messages import Submit

TIMEOUT_SECONDS = 60.0


class Engine:
    """An engine core and the events it has emitted."""

    def __init__(self, model: Path | str, dtype: str = "float32") -> None:
        self.events: queue.SimpleQueue[Event | StepReport] = queue.SimpleQueue()
        self.core = EngineCore(EngineConfig(model=str(model), device="cpu", dtype=dtype), self.events.put)

    def draw(self, requests: Sequence[GenerationParams]) -> list[np.ndarray]:
        """All requests at once: of each, pixels uint8 [n, H, W, 3]."""
        for i, params in enumerate(requests):
            self.core.submit(Submit(str(i), params))
        while self.core.busy:
            self.core.step()
        images: dict[tuple[int, int], np.ndarray] = {}
        while len(images) < sum(params.n for params in requests):
            event = self.events.get(timeout=TIMEOUT_SECONDS)
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Finished):
                pixels = np.asarray(Image.open(io.BytesIO(event.image)))
                images[int(event.request_id), event.image_index] = pixels
        return [np.stack([images[i, k] for k in range(params.n)]) for i, params in enumerate(requests)]
