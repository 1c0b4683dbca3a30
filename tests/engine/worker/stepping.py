"""Images from an EngineCore in this process."""

import io
import queue
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from engine import EngineConfig, Event, Failed, Finished, GenerationParams, StepReport
from engine.messages import Submit
from engine.worker.core import EngineCore

TIMEOUT_SECONDS = 60.0


class Engine:
    """An engine core, and in `emitted` its events and reports since the last `generate`."""

    def __init__(
        self, model: Path | str = "demo", dtype: str = "float32", device: str = "cpu", **settings: Any
    ) -> None:
        self.events: queue.SimpleQueue[Event | StepReport] = queue.SimpleQueue()
        self.emitted: list[Event | StepReport] = []
        self.core = EngineCore(EngineConfig(model=str(model), device=device, dtype=dtype, **settings), self.events.put)

    def generate(self, requests: Sequence[GenerationParams]) -> list[np.ndarray]:
        """Runs all requests at once and returns the pixels of each, uint8 [n, H, W, 3]."""
        files = self.generate_files(requests)
        return [
            np.stack([np.asarray(Image.open(io.BytesIO(files[i, k]))) for k in range(params.n)])
            for i, params in enumerate(requests)
        ]

    def generate_files(self, requests: Sequence[GenerationParams]) -> dict[tuple[int, int], bytes]:
        """Runs all requests at once and returns the file of image k of request i as [i, k]."""
        self.emitted.clear()
        for i, params in enumerate(requests):
            self.core.submit(Submit(str(i), params))
        files: dict[tuple[int, int], bytes] = {}
        for event in self.run(sum(params.n for params in requests)):
            if isinstance(event, Failed):
                raise event.error
            files[int(event.request_id), event.image_index] = event.image
        return files

    def run(self, outcomes: int) -> list[Finished | Failed]:
        """Steps until the core is idle, and returns `outcomes` finished or failed events, waiting for them."""
        while self.core.busy:
            self.core.step()
        ended: list[Finished | Failed] = []
        while len(ended) < outcomes:
            event = self.events.get(timeout=TIMEOUT_SECONDS)
            self.emitted.append(event)
            if isinstance(event, Finished | Failed):
                ended.append(event)
        return ended
