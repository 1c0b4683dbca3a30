"""One image on its way through the engine, and the batches it travels in. Free of torch: policy reads only this."""

import time
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING

from ..types import GenerationParams, Timings

if TYPE_CHECKING:
    from concurrent.futures import Future

    from .state import ImageState


class Phase(Enum):
    """What a batch does on the device."""

    ENCODE = "encode"
    DENOISE = "denoise"
    DECODE = "decode"


@dataclass(eq=False)
class ImageTask:
    """Image `image_index` of a submitted request.

    Args:
        guided: by a second, unconditional branch of the forward.
        tokens: rows it adds to a forward, both branches counted.
        deadline: by time.monotonic, as `arrived`.
        previews: how many have been decoded.
        handed_out: done when the last of its pictures, preview or image, has been told.
        last_step: number of the scheduler's step that it last took part in.
        state: tensors, from the end of the encode phase to the end of decode.
    """

    request_id: str
    image_index: int
    params: GenerationParams
    guided: bool
    tokens: int
    arrived: float = field(default_factory=time.monotonic)
    deadline: float | None = None
    step: int = 0
    previews: int = 0
    handed_out: "Future[None] | None" = None
    last_step: int = 0
    state: "ImageState | None" = None
    started: float = 0.0
    encoded: float = 0.0
    denoised: float = 0.0

    @property
    def seed(self) -> int:
        return self.params.seed + self.image_index

    @property
    def pixels(self) -> int:
        return self.params.width * self.params.height

    @property
    def denoise_done(self) -> bool:
        return self.step >= self.params.num_inference_steps

    @property
    def decode_due(self) -> bool:
        """The decoder comes next: all steps are done, or those before a preview."""
        return self.denoise_done or self.step in self.preview_steps[self.previews : self.previews + 1]

    @cached_property
    def preview_steps(self) -> tuple[int, ...]:
        """Steps after which a preview is drawn, evenly spaced; the last step is the image itself."""
        steps, count = self.params.num_inference_steps, self.params.partial_images
        spaced = {round(steps * (k + 1) / (count + 1)) for k in range(count)}
        return tuple(sorted(step for step in spaced if 0 < step < steps))

    def timings(self, decoded: float) -> Timings:
        return Timings(
            queue=self.started - self.arrived,
            encode=self.encoded - self.started,
            denoise=self.denoised - self.encoded,
            decode=decoded - self.denoised,
        )


@dataclass(frozen=True)
class Batch:
    phase: Phase
    tasks: tuple[ImageTask, ...]

    @property
    def tokens(self) -> int:
        """Rows of its forward."""
        return sum(task.tokens for task in self.tasks)
