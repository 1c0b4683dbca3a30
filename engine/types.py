"""Types that cross the engine's boundary: parameters in, events out. Frozen, picklable, free of tensors."""

from dataclasses import dataclass, field, fields
from typing import Literal

from .errors import SanaError

Priority = Literal["high", "normal", "low"]
ImageFormat = Literal["png", "jpeg", "webp"]


@dataclass(frozen=True)
class SourceImage:
    """The image that a request repaints, of the width and height in its parameters.

    Args:
        pixels: RGB, three bytes per pixel, row by row.
        mask: a byte per pixel, above 0 where the image is repainted; None: everywhere.
    """

    pixels: bytes = field(repr=False)
    mask: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class GenerationParams:
    """One request for `n` images of one prompt. Image k is generated from seed + k, modulo 2^64.

    Args:
        prompt: text; the encoder reads its first 298 tokens and cuts the rest.
        negative_prompt: text to steer away from; "" is the model's unconditional branch.
        width, height: pixels of the file, exactly; the image is generated on the model's grid and cropped centrally.
        num_inference_steps: forward passes of the transformer.
        guidance_scale: classifier-free guidance; off at 1 and below (Sprint: the embedded guidance).
        seed: seed of the first image.
        n: number of images.
        partial_images: previews per image, evenly spaced over its steps.
        output_format: file format of images and previews.
        output_compression: quality of JPEG and WebP, 0..100; PNG is lossless and takes only 100.
        embed_params: write prompt and settings into the file's metadata (PNG), beside the seed and the model.
        priority: class in the queue.
        timeout: seconds from submission after which the caller no longer wants the images; None: no limit.
        tenant: owner of the request, such as a hash of an API key; tenants share the device equally.
        background: generate only in the time that other requests leave, in their steps where there is room, and after
            all of them; the queue's limit does not apply.
        image: image to repaint; None: generate from the text alone.
        strength: share of the steps that an image to repaint takes, the last ones: with 0 it stays what the
            autoencoder makes of it, with 1 nothing of it is left.
        mask_feather: pixels inside the mask over which the new image blends into the old one.
    """

    prompt: str
    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    seed: int
    negative_prompt: str = ""
    n: int = 1
    partial_images: int = 0
    output_format: ImageFormat = "png"
    output_compression: int = 100
    embed_params: bool = True
    priority: Priority = "normal"
    timeout: float | None = None
    tenant: str = ""
    background: bool = False
    image: SourceImage | None = None
    strength: float = 1.0
    mask_feather: int = 8

    @property
    def start_step(self) -> int:
        """First step of the schedule that is run, as diffusers' image-to-image pipelines choose it."""
        if self.image is None:
            return 0
        steps = self.num_inference_steps
        return int(max(steps - min(steps * self.strength, steps), 0))

    @property
    def denoise_steps(self) -> int:
        """Steps that are run."""
        return self.num_inference_steps - self.start_step


@dataclass(frozen=True)
class ModelInfo:
    """Description and limits of the loaded model; the engine process sends it when it is ready.

    Args:
        id: name in the API.
        default_size: (width, height) in pixels.
        size_multiple: grid of the sizes that the model generates, in pixels; other sizes are cropped.
        max_side: longest side in pixels.
        created: Unix seconds.
        dtype, dtype_reason: dtype of the transformer, and why it is this one.
        guidance_branch: classifier-free guidance by a second branch, which doubles the work; Sprint embeds the scale.
        takes_images: whether the checkpoint has the autoencoder's encoder, without which no image can be repainted.
    """

    id: str
    default_size: tuple[int, int]
    default_steps: int
    default_guidance: float
    size_multiple: int
    max_side: int
    created: int
    device: str
    dtype: str
    dtype_reason: str = ""
    guidance_branch: bool = True
    takes_images: bool = True


@dataclass(frozen=True)
class Timings:
    """Seconds that an image spent in each stage, in the order of the stages."""

    queue: float = 0.0
    encode: float = 0.0
    denoise: float = 0.0
    decode: float = 0.0


STAGES = tuple(stage.name for stage in fields(Timings))
"""Names of the stages of an image, in order: fields of Timings, values of labels, keys of the API."""


@dataclass(frozen=True)
class Event:
    """Something that happened to a request."""

    request_id: str


@dataclass(frozen=True)
class Started(Event):
    """The request left the queue: its first step is about to run."""


@dataclass(frozen=True)
class Progress(Event):
    """Image `image_index` finished step `step` of `steps`."""

    image_index: int
    step: int
    steps: int


@dataclass(frozen=True)
class Preview(Event):
    """Unfinished image `image_index`, as a file in the requested format; `preview_index` counts from 0.

    Args:
        width: pixels, like height: a preview of a large image is reduced.
    """

    image_index: int
    preview_index: int
    image: bytes = field(repr=False)
    width: int
    height: int


@dataclass(frozen=True)
class Finished(Event):
    """Finished image `image_index`, as a file in the requested format.

    Args:
        text_tokens: tokens of prompt and negative prompt that the model read.
    """

    image_index: int
    seed: int
    image: bytes = field(repr=False)
    timings: Timings
    text_tokens: int


@dataclass(frozen=True)
class Failed(Event):
    """The request ended with this error, all its images included."""

    error: SanaError
