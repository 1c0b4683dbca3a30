"""POST /v1/images/generations: from the body to the engine's events and back to OpenAI's answer."""

import asyncio
import base64
import contextlib
import logging
import re
import secrets
import time
from collections.abc import Iterator

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from engine import EngineClient, EngineUnavailable, Finished, GenerationParams, ModelInfo, RequestCancelled

from .body import read_json
from .errors import ModelNotFound, printable
from .params import fill_params
from .schemas import ImageData, ImageGenerationRequest, ImagesResponse, StageTimings, parse_generation

log = logging.getLogger("sana.images")
router = APIRouter()
MAX_NAMED_PARAMS = 20
IMAGE_MARK = "@"  # stands nowhere else in an answer
PIECE_BYTES = 3 << 16  # a multiple of 3, so that pieces of base64 join
BODY_SCHEMA = {"requestBody": {"required": True, "content": {"application/json": {
    "schema": ImageGenerationRequest.model_json_schema()
}}}}  # fmt: skip


@router.post("/v1/images/generations", response_model=ImagesResponse, openapi_extra=BODY_SCHEMA)
async def create_images(request: Request) -> StreamingResponse:
    started = time.monotonic()
    engine: EngineClient = request.app.state.engine
    asked, unknown = parse_generation(await read_json(request, request.app.state.config.max_body_bytes))
    model = served_model(engine, asked.model)
    params = fill_params(
        model,
        asked.prompt,
        size=asked.size,
        num_inference_steps=asked.num_inference_steps,
        guidance_scale=asked.guidance_scale,
        seed=asked.seed,
        negative_prompt=asked.negative_prompt,
        n=asked.n,
    )
    headers = {}
    if unknown:
        headers["x-ignored-params"] = header_names(unknown)
        log.warning("%s ignored parameters: %s", request.state.request_id, headers["x-ignored-params"])
    images = await generate_while_connected(engine, params, request)
    frame = frame_response(asked, params, images, time.monotonic() - started)
    headers["content-length"] = str(sum(map(len, frame)) + sum(base64_length(len(image.image)) for image in images))
    pieces = response_pieces(frame, [image.image for image in images])
    return StreamingResponse(pieces, headers=headers, media_type="application/json")  # a thread takes the pieces


def served_model(engine: EngineClient, name: str | None = None) -> ModelInfo:
    """The model behind `name`; None means the one there is. Raises EngineUnavailable or ModelNotFound."""
    model = engine.model
    if model is None:
        raise EngineUnavailable("the engine is still loading, or stopping; try again in a few seconds")
    if name not in (None, model.id):
        shown = printable(repr(name))[:100]
        raise ModelNotFound(f"The model {shown} does not exist; this server serves '{model.id}'.")
    return model


async def generate_while_connected(engine: EngineClient, params: GenerationParams, request: Request) -> list[Finished]:
    """The images in order. Raises RequestCancelled, and frees the device, when the client hangs up first."""
    drawing = asyncio.create_task(generate(engine, params, request.state.request_id))
    leaving = asyncio.create_task(wait_for_disconnect(request))
    try:
        await asyncio.wait((drawing, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not drawing.done():
            raise RequestCancelled("the client hung up")
        return drawing.result()
    finally:
        drawing.cancel()
        leaving.cancel()
        await asyncio.gather(drawing, leaving, return_exceptions=True)


async def generate(engine: EngineClient, params: GenerationParams, request_id: str) -> list[Finished]:
    unique_id = f"{request_id}.{secrets.token_hex(4)}"  # clients may send the same x-request-id twice
    async with contextlib.aclosing(engine.generate(params, unique_id)) as events:
        images = [event async for event in events if isinstance(event, Finished)]
    return sorted(images, key=lambda image: image.image_index)


async def wait_for_disconnect(request: Request) -> None:
    """Returns when the client has closed the connection; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def frame_response(
    asked: ImageGenerationRequest, params: GenerationParams, images: list[Finished], seconds: float
) -> list[bytes]:
    """The answer's JSON cut where the images belong: before, between and after them."""
    stages = {
        stage: round(max(getattr(image.timings, stage) for image in images), 6)
        for stage in ("queue", "encode", "denoise", "decode")
    }
    response = ImagesResponse(
        created=int(time.time()),
        data=[ImageData(b64_json=IMAGE_MARK, seed=image.seed) for image in images],
        size=f"{params.width}x{params.height}",
        quality=asked.quality if asked.quality in ("low", "medium", "high") else "high",
        timings=StageTimings(**stages, total=round(seconds, 6)),
    )
    return response.model_dump_json().encode().split(IMAGE_MARK.encode())


def response_pieces(frame: list[bytes], images: list[bytes]) -> Iterator[bytes]:
    """The frame with its images in base64. In pieces, since encoding 40 MB at once holds the GIL for 0.3 s."""
    for before, image in zip(frame, images, strict=False):
        yield before + base64.b64encode(image[:PIECE_BYTES])
        for start in range(PIECE_BYTES, len(image), PIECE_BYTES):
            yield base64.b64encode(image[start : start + PIECE_BYTES])
    yield frame[-1]


def base64_length(size: int) -> int:
    return (size + 2) // 3 * 4


def header_names(names: list[str]) -> str:
    """Names as they may stand in a header and a log line, whatever the client called them."""
    shown = [re.sub(r"[^A-Za-z0-9_.-]", "?", name)[:40] for name in names[:MAX_NAMED_PARAMS]]
    return ", ".join(shown)
