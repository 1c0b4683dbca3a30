"""POST /v1/images/generations: from the request body to the engine's events, and from them to OpenAI's response.

Azure's clients send the same requests below /openai.
"""

import asyncio
import contextlib
import logging
import re
import secrets
import time
from collections.abc import AsyncGenerator
from dataclasses import fields
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import StreamingResponse
from starlette.responses import Response

from engine import Engine, Event, Finished, GenerationParams, ModelInfo, RequestCancelled, is_guided

from ..auth import limit
from ..body import read_json
from ..file_store import FileStore
from ..http_errors import StorageFailed
from ..observe import observe
from ..request_params import resolve_params
from ..responses import describe_images, json_length, json_pieces
from ..schemas import ImageGenerationRequest, ImagesResponse, parse_generation
from ..settings import ServerConfig
from ..streaming import EventStream
from ..writing import OutputError
from .models import default_format, served_model

log = logging.getLogger("sana.images")
router = APIRouter()
MAX_NAMED_PARAMS = 20
SHARED_FIELDS = ImageGenerationRequest.model_fields.keys() & {field.name for field in fields(GenerationParams)}
BODY_SCHEMA = {"requestBody": {"required": True, "content": {"application/json": {
    "schema": ImageGenerationRequest.model_json_schema()
}}}}  # fmt: skip


@router.post(
    "/openai/deployments/{deployment:path}/images/generations", include_in_schema=False, dependencies=[Depends(limit)]
)
@router.post("/openai/v1/images/generations", include_in_schema=False, dependencies=[Depends(limit)])
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
    body, ignored = parse_generation(await read_json(request, config.max_body_bytes), config.strict_params)
    model_name = request.path_params.get("deployment", body.model)  # a deployment's name is Azure's name of a model
    model = served_model(request.app.state, model_name)
    return await respond(to_params(body, model, request.state.tenant), body, model, ignored, started, request)


async def respond(
    params: GenerationParams,
    body: ImageGenerationRequest,
    model: ModelInfo,
    ignored: list[str],
    started: float,
    request: Request,
) -> Response:
    """Generates the images and answers, by events or at once.

    Args:
        body: request that `params` were made of.
        ignored: unknown names in it.
        started: seconds by time.monotonic.
    """
    headers = {}
    if params.negative_prompt.strip() and not is_guided(params, model):
        ignored.append("negative_prompt")  # its branch does not run; the engine drops it from the file too
    if ignored:
        headers["x-ignored-params"] = header_names(ignored)
        names, request_id = headers["x-ignored-params"], request.state.request_id
        log.warning("%s ignored parameters: %s", request_id, names, extra={"request_id": request_id})
    engine: Engine = request.app.state.engine
    # The engine needs unique ids, and two clients may send the same x-request-id.
    unique_id = f"{request.state.request_id}/{secrets.token_hex(4)}"
    events = observe(engine.generate(params, unique_id), params, request)
    if body.stream:
        return await EventStream(params, model, events, headers, request.state.request_id).opened()
    images = await collect_while_connected(events, request)
    urls = None
    model_name = request.path_params.get("deployment", body.model)
    if (body.response_format or default_format(request.app.state, model_name)) == "url":
        urls = await store_images(images, params, request)
    frame = describe_images(params, model, images, urls, time.monotonic() - started).model_dump_json(exclude_none=True)
    inline = [] if urls else [image.image for image in images]
    headers["content-length"] = str(json_length(frame.encode(), inline))
    pieces = json_pieces(frame.encode(), inline)
    # Starlette iterates a plain iterator in a thread, so that base64 is not encoded on the event loop.
    return StreamingResponse(pieces, headers=headers, media_type="application/json")


def to_params(body: ImageGenerationRequest, model: ModelInfo, tenant: str, **values: Any) -> GenerationParams:
    """The request as the engine takes it: a field that both classes have is passed on under its name.

    Args:
        values: further arguments of `resolve_params`, in place of those of the request.
    """
    shared = {name: getattr(body, name) for name in SHARED_FIELDS}
    if not body.stream:
        shared["partial_images"] = None
    given = {"size": body.size, "quality": body.quality, "tenant": tenant} | shared | values
    return resolve_params(model, **given)


async def collect_while_connected(events: AsyncGenerator[Event], request: Request) -> list[Finished]:
    """The images in order. Raises RequestCancelled, and frees the device, when the client disconnects first."""
    generating = asyncio.create_task(collect(events))
    disconnecting = asyncio.create_task(wait_for_disconnect(request))
    try:
        await asyncio.wait((generating, disconnecting), return_when=asyncio.FIRST_COMPLETED)
        if not generating.done():
            raise RequestCancelled("the client disconnected")
        return generating.result()
    finally:
        generating.cancel()
        disconnecting.cancel()
        await asyncio.gather(generating, disconnecting, return_exceptions=True)


async def collect(events: AsyncGenerator[Event]) -> list[Finished]:
    async with contextlib.aclosing(events):
        images = [event async for event in events if isinstance(event, Finished)]
    return sorted(images, key=lambda image: image.image_index)


async def wait_for_disconnect(request: Request) -> None:
    """Returns when the client has closed the connection. The body must have been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def store_images(images: list[Finished], params: GenerationParams, request: Request) -> list[str]:
    """Absolute URLs of the stored images: below the public URL or the request's host, unless the store has its own.

    Raises StorageFailed.
    """
    files: FileStore = request.app.state.files
    try:
        saved = [await files.save(image.image, params.output_format) for image in images]
    except OutputError as error:
        request_id = request.state.request_id
        log.error("%s %s", request_id, error, extra={"request_id": request_id})
        message = f"the image cannot be stored for a URL: {error.reason}; response_format b64_json needs no storage"
        raise StorageFailed(message) from error
    base = (request.app.state.config.public_url or str(request.base_url)).rstrip("/")
    return [base + url if url.startswith("/") else url for url in saved]


def header_names(names: list[str]) -> str:
    """The names in characters that are safe in a header and a log line, the first MAX_NAMED_PARAMS of them."""
    shown = [re.sub(r"[^A-Za-z0-9_.-]", "?", name)[:40] for name in names[:MAX_NAMED_PARAMS]]
    return ", ".join(shown)
