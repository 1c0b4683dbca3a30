"""POST /v1/images/generations: from the body to the engine's events and back to OpenAI's answer."""

import asyncio
import contextlib
import logging
import re
import secrets
import time
from collections.abc import AsyncGenerator
from urllib.parse import urljoin

from fastapi import APIRouter, Depends, Request
from fastapi.responses import StreamingResponse
from starlette.responses import Response

from engine import EngineClient, Event, Finished, GenerationParams, ModelInfo, RequestCancelled

from ..auth import limit
from ..body import read_json
from ..file_store import FileStore
from ..observe import observe
from ..request_params import fill_params
from ..responses import describe_images, json_length, json_pieces
from ..schemas import ImageGenerationRequest, ImagesResponse, parse_generation
from ..settings import ServerConfig
from ..streaming import EventStream
from .models import served_model

log = logging.getLogger("sana.images")
router = APIRouter()
MAX_NAMED_PARAMS = 20
BODY_SCHEMA = {"requestBody": {"required": True, "content": {"application/json": {
    "schema": ImageGenerationRequest.model_json_schema()
}}}}  # fmt: skip


@router.post(
    "/v1/images/generations",
    response_model=ImagesResponse,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
    openapi_extra=BODY_SCHEMA,
    dependencies=[Depends(limit)],
)
async def create_images(request: Request) -> Response:
    started = time.monotonic()
    config: ServerConfig = request.app.state.config
    asked, unknown = parse_generation(await read_json(request, config.max_body_bytes), config.strict_params)
    model = served_model(request, asked.model)
    params = to_params(asked, model, request)
    headers = {}
    if unknown:
        headers["x-ignored-params"] = header_names(unknown)
        names, request_id = headers["x-ignored-params"], request.state.request_id
        log.warning("%s ignored parameters: %s", request_id, names, extra={"request_id": request_id})
    engine: EngineClient = request.app.state.engine
    unique_id = f"{request.state.request_id}/{secrets.token_hex(4)}"  # clients may send the same x-request-id twice
    events = observe(engine.generate(params, unique_id), params, request)
    if asked.stream:
        return await EventStream(params, model, events, headers, request.state.request_id).admitted()
    images = await collect_while_connected(events, request)
    urls = None
    if (asked.response_format or config.response_format) == "url":
        urls = await store_images(images, params, request)
    frame = describe_images(params, model, images, urls, time.monotonic() - started).model_dump_json(exclude_none=True)
    inline = [] if urls else [image.image for image in images]
    headers["content-length"] = str(json_length(frame.encode(), inline))
    pieces = json_pieces(frame.encode(), inline)
    return StreamingResponse(pieces, headers=headers, media_type="application/json")  # a thread takes the pieces


def to_params(asked: ImageGenerationRequest, model: ModelInfo, request: Request) -> GenerationParams:
    return fill_params(
        model,
        asked.prompt,
        size=asked.size,
        quality=asked.quality,
        num_inference_steps=asked.num_inference_steps,
        guidance_scale=asked.guidance_scale,
        seed=asked.seed,
        negative_prompt=asked.negative_prompt,
        n=asked.n,
        partial_images=asked.partial_images if asked.stream else None,
        output_format=asked.output_format,
        output_compression=asked.output_compression,
        embed_params=asked.embed_params,
        priority=asked.priority,
        timeout=asked.timeout,
        tenant=request.state.tenant,
    )


async def collect_while_connected(events: AsyncGenerator[Event], request: Request) -> list[Finished]:
    """The images in order. Raises RequestCancelled, and frees the device, when the client hangs up first."""
    drawing = asyncio.create_task(collect(events))
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


async def collect(events: AsyncGenerator[Event]) -> list[Finished]:
    async with contextlib.aclosing(events):
        images = [event async for event in events if isinstance(event, Finished)]
    return sorted(images, key=lambda image: image.image_index)


async def wait_for_disconnect(request: Request) -> None:
    """Returns when the client has closed the connection; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def store_images(images: list[Finished], params: GenerationParams, request: Request) -> list[str]:
    """URLs that a browser can open: absolute, on the host the client asked unless the store has its own."""
    files: FileStore = request.app.state.files
    saved = [await files.save(image.image, params.output_format) for image in images]
    return [urljoin(request.app.state.config.public_url or str(request.base_url), url) for url in saved]


def header_names(names: list[str]) -> str:
    """Names as they may stand in a header and a log line, whatever the client called them."""
    shown = [re.sub(r"[^A-Za-z0-9_.-]", "?", name)[:40] for name in names[:MAX_NAMED_PARAMS]]
    return ", ".join(shown)
