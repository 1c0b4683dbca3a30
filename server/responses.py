"""The bodies of responses, and their images in base64 by pieces: no image is copied on the event loop."""

import base64
import time
from collections.abc import Iterator
from typing import Any

from engine import STAGES, Finished, GenerationParams, ModelInfo, Preview, latent_pixels

from .request_params import quality_of
from .schemas import CompletedEvent, ImageData, ImagesResponse, PartialImageEvent, StageTimings, TokenDetails, Usage

PIECE_BYTES = 3 << 16  # a multiple of 3, so that pieces of base64 join
IMAGE_MARK = "@"
IMAGE_FIELD = f'"b64_json":"{IMAGE_MARK}"'.encode()  # unique: quotes inside of JSON strings are escaped


def describe_images(
    params: GenerationParams, model: ModelInfo, images: list[Finished], urls: list[str] | None, seconds: float
) -> ImagesResponse:
    """The body of a 200, with IMAGE_MARK for each image that has no URL."""
    if urls is None:
        data = [ImageData(b64_json=IMAGE_MARK, seed=image.seed) for image in images]
    else:
        data = [ImageData(url=url, seed=image.seed) for url, image in zip(urls, images, strict=True)]
    return ImagesResponse(
        created=int(time.time()),
        data=data,
        usage=usage(params, model, len(images), images[0].text_tokens),  # all images share one text
        model=model.id,
        guidance_scale=params.guidance_scale,
        num_inference_steps=params.num_inference_steps,
        timings=timings(images, seconds),
        **echo(params, model),
    )


def describe_preview(params: GenerationParams, model: ModelInfo, preview: Preview) -> PartialImageEvent:
    return PartialImageEvent(
        type="image_generation.partial_image" if params.image is None else "image_edit.partial_image",
        b64_json=IMAGE_MARK,
        partial_image_index=preview.preview_index,
        image_index=preview.image_index,
        created_at=int(time.time()),
        **{**echo(params, model), "size": f"{preview.width}x{preview.height}"},
    )


def describe_completed(
    params: GenerationParams, model: ModelInfo, image: Finished, first: bool, seconds: float
) -> CompletedEvent:
    """The event of one of the n images. Only the `first` counts the text: clients sum the usage of events."""
    return CompletedEvent(
        type="image_generation.completed" if params.image is None else "image_edit.completed",
        b64_json=IMAGE_MARK,
        created_at=int(time.time()),
        usage=usage(params, model, 1, image.text_tokens if first else 0),
        image_index=image.image_index,
        seed=image.seed,
        num_inference_steps=params.num_inference_steps,
        timings=timings([image], seconds),
        **echo(params, model),
    )


def echo(params: GenerationParams, model: ModelInfo) -> dict[str, Any]:
    return {
        "size": f"{params.width}x{params.height}",
        "quality": quality_of(model, params.num_inference_steps),
        "output_format": params.output_format,
    }


def usage(params: GenerationParams, model: ModelInfo, images: int, text: int) -> Usage:
    """Tokens as the transformer counts them. `text` is the number of text tokens."""
    pixels = latent_pixels(params, model)
    generated, read = images * pixels, 0 if params.image is None or text == 0 else pixels
    return Usage(
        input_tokens=text + read,
        output_tokens=generated,
        total_tokens=text + read + generated,
        input_tokens_details=TokenDetails(text_tokens=text, image_tokens=read),
        output_tokens_details=TokenDetails(text_tokens=0, image_tokens=generated),
    )


def timings(images: list[Finished], seconds: float) -> StageTimings:
    """Seconds of the slowest image in each stage; `seconds` is the total."""
    stages = {stage: round(max(getattr(image.timings, stage) for image in images), 6) for stage in STAGES}
    return StageTimings(**stages, total=round(seconds, 6))


def json_length(frame: bytes, images: list[bytes]) -> int:
    """Number of bytes that `json_pieces` yields."""
    return len(frame) + sum((len(image) + 2) // 3 * 4 - len(IMAGE_MARK) for image in images)


def json_pieces(frame: bytes, images: list[bytes]) -> Iterator[bytes]:
    """The JSON with its marks replaced by the images in base64, to be iterated in a thread.

    In pieces, because encoding 40 MB at once holds the GIL for 0.3 s.
    """
    before, *after = frame.split(IMAGE_FIELD) if images else [frame]
    for image, rest in zip(images, after, strict=True):
        yield before + b'"b64_json":"' + base64.b64encode(image[:PIECE_BYTES])
        for start in range(PIECE_BYTES, len(image), PIECE_BYTES):
            yield base64.b64encode(image[start : start + PIECE_BYTES])
        before = b'"' + rest
    yield before
