"""One image on its way through the engine, and the batches it travels in. Free of torch: policy reads only this."""

import time
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from .types import GenerationParams, Timings

if TYPE_CHECKING:
    from .state import ImageState


class Phase(Enum):
    """What a batch does on the device."""

    ENCODE = "encode"
    DENOISE = "denoise"
    DECODE = "decode"


@dataclass(eq=False)
class Request:
    """Image `image_index` of a submitted request.

    Args:
        tokens: latent pixels of the image.
        forwards: images it adds to a forward: 2 under classifier-free guidance.
        state: tensors, from the end of the encode phase to the end of decode.
    """

    request_id: str
    image_index: int
    params: GenerationParams
    tokens: int
    forwards: int
    step: int = 0
    state: "ImageState | None" = None
    arrived: float = field(default_factory=time.monotonic)
    started: float = 0.0
    encoded: float = 0.0
    denoised: float = 0.0

    @property
    def seed(self) -> int:
        return self.params.seed + self.image_index

    @property
    def cost(self) -> int:
        """Tokens it adds to a forward."""
        return self.tokens * self.forwards

    @property
    def denoise_done(self) -> bool:
        return self.step >= self.params.num_inference_steps

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
    requests: tuple[Request, ...]
