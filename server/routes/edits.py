"""POST /v1/images/edits and /v1/images/variations: images repainted from another one, within a mask if there is one.

Uploads are in memory until the answer is sent, and nowhere else.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from engine import MAX_PROMPT_CHARS, InvalidParams

from ..auth import limit
from ..body import read_json
from ..http_errors import BodyTooLarge, RequestTooSlow
from ..limits import UploadMemory
from ..schemas import ImageEditRequest, ImagesResponse, ImageVariationRequest, parse_request
from ..source_images import MAX_IMAGE_BYTES, repaint_values
from ..synonyms import SYNONYMS, fold, synonyms_of
from ..upload_form import read_form
from .images import respond, to_params
from .models import served_model

router = APIRouter()
MAX_FORM_BYTES = 2 * MAX_IMAGE_BYTES + (1 << 20)
MAX_JSON_BYTES = MAX_FORM_BYTES * 4 // 3  # the same in base64
UPLOAD_SECONDS = 600.0
"""Maximum time of an upload: of the largest form over 1.3 Mbit/s."""
MAX_HELD_BYTES = 1 << 30
"""Bytes of uploads and of the pixels in them that all running requests may hold."""
READERS = 2
"""Images that are read at once: one of 8192 x 8192 pixels takes up to 0.9 GB meanwhile."""
IMAGE_PARTS = {
    f"{name}{suffix}" for field in ("image", "mask") for name in (field, *SYNONYMS[field]) for suffix in ("", "[]")
}
"""Names of the parts of a form that are images."""
TEXTS = {name for name, field in ImageEditRequest.model_fields.items() if "str" in str(field.annotation)}
"""Fields whose value in a form stays a text, even if it looks like a number."""


async def hold_bytes(request: Request) -> AsyncGenerator[None]:
    """Dependency: gives the bytes that the request has taken back when it is answered."""
    request.state.held = 0
    try:
        yield
    finally:
        take(request, -request.state.held)


def take(request: Request, count: int) -> None:
    """Counts bytes that the request holds; a negative number gives some back. Raises TooManyRequests."""
    memory: UploadMemory = request.app.state.uploads
    memory.take(count)
    request.state.held += count


def schema_of(kind: type[ImageEditRequest]) -> dict[str, Any]:
    """The request body as the OpenAPI document has it."""
    schema = kind.model_json_schema()
    for name in ("image", "mask"):
        schema["properties"][name] = {"type": "string", "format": "binary"}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def settings_of(kind: type[ImageEditRequest]) -> dict[str, Any]:
    """Arguments of a route."""
    return {
        "response_model": ImagesResponse,
        "responses": {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
        "openapi_extra": schema_of(kind),
        "dependencies": [Depends(limit), Depends(hold_bytes)],
    }


HIDDEN: dict[str, Any] = {"include_in_schema": False, "dependencies": [Depends(limit), Depends(hold_bytes)]}


@router.post("/openai/deployments/{deployment:path}/images/edits", **HIDDEN)
@router.post("/openai/v1/images/edits", **HIDDEN)
@router.post("/v1/images/edits", **settings_of(ImageEditRequest))
async def edit_image(request: Request) -> Response:
    """Repaints an image by a prompt; within its transparent pixels, or those of a mask, if there are any."""
    return await repaint(request, ImageEditRequest)


@router.post("/openai/v1/images/variations", **HIDDEN)
@router.post("/v1/images/variations", **settings_of(ImageVariationRequest))
async def vary_image(request: Request) -> Response:
    """Repaints an image without a prompt."""
    return await repaint(request, ImageVariationRequest)


async def repaint(request: Request, kind: type[ImageEditRequest]) -> Response:
    started = time.monotonic()
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "application/json":
        take(request, 2 * int(request.headers.get("content-length", MAX_JSON_BYTES)))  # once more as a file
        fields = await read_json(request, MAX_JSON_BYTES, UPLOAD_SECONDS)
    else:
        fields = await read_images(request)
    body, ignored = parse_request(kind, fields, request.app.state.config.strict_params)
    if kind is ImageEditRequest and not body.prompt.strip():
        raise InvalidParams("prompt is empty; describe the image to generate", "prompt")
    model = served_model(request.app.state, request.path_params.get("deployment", body.model))
    async with request.app.state.uploads.readers:
        values = await asyncio.to_thread(repaint_values, model, body.image, body.mask, body.size, body.strength)
    del fields
    body.image = body.mask = None
    pixels = values["image"]
    take(request, len(pixels.pixels) + len(pixels.mask or b"") - request.state.held)
    if body.mask_feather is not None:
        values["mask_feather"] = body.mask_feather
    params = to_params(body, model, request.state.tenant, **values)
    return await respond(params, body, model, ignored, started, request)


async def read_images(request: Request) -> dict[str, Any]:
    """The form as the dict that its JSON would be, with files as bytes; empty fields and files are absent."""
    if int(request.headers.get("content-length", "0")) > MAX_FORM_BYTES:
        raise BodyTooLarge(f"the form must not exceed {MAX_FORM_BYTES} bytes")
    files: dict[str, bytearray] = {}

    async def write(part: str, data: bytes) -> None:
        take(request, 2 * len(data))  # once more as bytes
        files.setdefault(part, bytearray()).extend(data)

    try:
        async with asyncio.timeout(UPLOAD_SECONDS):
            fields, _ = await read_form(request, MAX_FORM_BYTES, write, IMAGE_PARTS, 4 * MAX_PROMPT_CHARS)
    except TimeoutError:
        raise RequestTooSlow(f"the form must arrive within {UPLOAD_SECONDS:g} s") from None
    values: dict[str, Any] = {name: typed(name, text) for name, text in fields.items() if text}
    for part, data in files.items():
        name = part.removesuffix("[]")
        if name in values:
            raise InvalidParams(f"{name} and {name}[] are the same parameter; send one image", name)
        values[name] = bytes(data)
    return values


def typed(name: str, text: str) -> Any:
    """The value of a field of a form as its JSON would have it: a number, true or false, unless the field is a text."""
    if synonyms_of(ImageEditRequest.model_fields).get(fold(name), name) in TEXTS:
        return text
    try:
        value = json.loads(text.strip().lower())
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, bool | int | float) else text
