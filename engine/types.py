"""The nouns that cross the engine's border: what is asked, what is told. Frozen, picklable, free of tensors."""

from dataclasses import dataclass, field
from typing import Literal

from .errors import SanaError

MAX_SEED = 2**63 - 1
MAX_IMAGES = 10
MAX_STEPS = 100
MAX_PARTIAL_IMAGES = 3
MAX_PROMPT_CHARS = 32000

Priority = Literal["high", "normal", "low"]
ImageFormat = Literal["png", "jpeg", "webp"]


@dataclass(frozen=True)
class GenerationParams:
    """One request for `n` images of one prompt. Image k is drawn from seed + k.

    Args:
        prompt: text; what lies beyond the encoder's 298 tokens is cut.
        negative_prompt: text to steer away from; "" is the model's unconditional branch.
        width, height: pixels of the image, exactly.
        num_inference_steps: forward passes of the transformer.
        guidance_scale: classifier-free guidance; off at 1 and below (Sprint: the embedded guidance).
        seed: of the first image.
        n: images.
        partial_images: previews of each image on its way, evenly spaced over its steps.
        output_format, output_compression: of the finished images; 0..100, where PNG is lossless and takes only 100.
        embed_params: write prompt and settings into the file's text chunks (PNG); seed and model always are.
        priority: class in the queue.
        timeout: seconds from submission after which the caller no longer wants the images; None: never.
        tenant: whose share of the device this request draws on, such as a hash of an API key.
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


@dataclass(frozen=True)
class ModelInfo:
    """What the loaded model is and takes; the worker sends it when it is ready.

    Args:
        id: name in the API.
        default_size: (width, height) in pixels.
        size_multiple: both sides are multiples of it.
        max_side: longest side in pixels.
        created: Unix seconds.
        guidance_branch: classifier-free guidance by a second branch, which doubles the work; Sprint embeds the scale.
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
    guidance_branch: bool = True


@dataclass(frozen=True)
class Timings:
    """Seconds a request spent in each stage."""

    queue: float = 0.0
    encode: float = 0.0
    denoise: float = 0.0
    decode: float = 0.0


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
    """What image `image_index` looks like so far, in the format asked for; `preview_index` counts from 0."""

    image_index: int
    preview_index: int
    image: bytes = field(repr=False)


@dataclass(frozen=True)
class Finished(Event):
    """Image `image_index` is done, in the format asked for; `text_tokens` of prompt and negative prompt were read."""

    image_index: int
    seed: int
    image: bytes = field(repr=False)
    timings: Timings
    text_tokens: int


@dataclass(frozen=True)
class Failed(Event):
    """The request, all its images, ended with this error."""

    error: SanaError
