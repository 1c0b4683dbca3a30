"""One image in the engine, and the batches it is run in. Free of torch, since the scheduler works on these alone."""

import time
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING

from ..params import MAX_SEED
from ..types import GenerationParams, Timings

if TYPE_CHECKING:
    from concurrent.futures import Future

    from .state import ImageState


class Phase(Enum):
    """Work of a batch on the device."""

    ENCODE = "encode"
    ENCODE_IMAGE = "encode_image"
    DENOISE = "denoise"
    DECODE = "decode"


@dataclass(eq=False)
class ImageTask:
    """Image `image_index` of a submitted request.

    Args:
        grid_size: (width, height) in pixels that it is generated at; its file is cropped to the size in `params`.
        guided: whether its forwards have a second, unconditional branch.
        tokens: tokens that it adds to a forward, both branches counted.
        arrived, deadline: seconds by time.monotonic.
        step: the step of its schedule that it takes next.
        image_encoded: whether the image that it repaints is encoded.
        previews: decoded previews.
        delivered: done when its last preview or image so far has been emitted.
        last_step: number of the scheduler's step that it last took part in.
        state: tensors, from the end of the encode phase to the end of decode.
        started, encoded, denoised: seconds by time.monotonic at the start and at the ends of the first two phases.
    """

    request_id: str
    image_index: int
    params: GenerationParams
    grid_size: tuple[int, int]
    guided: bool
    tokens: int
    arrived: float = field(default_factory=time.monotonic)
    deadline: float | None = None
    step: int = 0
    image_encoded: bool = False
    previews: int = 0
    delivered: "Future[None] | None" = None
    last_step: int = 0
    state: "ImageState | None" = None
    started: float = 0.0
    encoded: float = 0.0
    denoised: float = 0.0

    @property
    def seed(self) -> int:
        """Seed of this image."""
        return (self.params.seed + self.image_index) % (MAX_SEED + 1)

    @property
    def pixels(self) -> int:
        """Pixels that the decoder generates."""
        return self.grid_size[0] * self.grid_size[1]

    @property
    def denoise_done(self) -> bool:
        """Whether all denoise steps are finished."""
        return self.step >= self.params.num_inference_steps

    @property
    def encode_due(self) -> bool:
        """Whether the autoencoder's encoder runs next, for an image to repaint."""
        return self.params.image is not None and not self.image_encoded

    @property
    def decode_due(self) -> bool:
        """Whether the decoder runs next: all steps are done, or those before a preview."""
        if self.encode_due:
            return False
        return self.denoise_done or self.step in self.preview_steps[self.previews : self.previews + 1]

    @cached_property
    def preview_steps(self) -> tuple[int, ...]:
        """Steps after which a preview is decoded, evenly spaced; after the last step follows the image itself."""
        steps, count = self.params.denoise_steps, self.params.partial_images
        spaced = {round(steps * (k + 1) / (count + 1)) for k in range(count)}
        return tuple(sorted(self.params.start_step + step for step in spaced if 0 < step < steps))

    def timings(self, decoded: float) -> Timings:
        """Seconds in each stage, for an image that was decoded at `decoded` by time.monotonic."""
        return Timings(
            queue=self.started - self.arrived,
            encode=self.encoded - self.started,
            denoise=self.denoised - self.encoded,
            decode=decoded - self.denoised,
        )


@dataclass(frozen=True)
class Batch:
    """Images that advance by one phase together."""

    phase: Phase
    tasks: tuple[ImageTask, ...]

    @property
    def tokens(self) -> int:
        """Tokens of the forward, both branches of guidance counted."""
        return sum(task.tokens for task in self.tasks)
