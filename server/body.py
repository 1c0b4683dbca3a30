"""Reads a request's JSON object, whatever was sent instead of one."""

import asyncio
import json
from typing import Any

from starlette.requests import Request

from .http_errors import BodyTooLarge, InvalidBody, RequestTooSlow, UnsupportedContentType

DRAINED_BODIES = 16  # a client that is still sending reads no answer: so much of a body too large is read and dropped

BODY_SECONDS = 30.0  # a prompt is small; whoever needs longer holds a connection for its own sake


async def read_json(request: Request, limit: int) -> dict[str, Any]:
    """The body as a dict without its null entries, which mean "absent". Raises InvalidBody."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        message = f"Content-Type is {content_type or 'missing'}; send application/json"
        raise UnsupportedContentType(message)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await read_body(request, limit)
    except TimeoutError:
        raise RequestTooSlow(f"the body did not arrive within {BODY_SECONDS:g} s") from None
    try:
        value = json.loads(body.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # RecursionError: nested deeper than any request of ours
        raise InvalidBody(f"the body is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidBody('the body must be a JSON object, like {"prompt": "a cat"}')
    return {name: entry for name, entry in value.items() if entry is not None}


async def read_body(request: Request, limit: int) -> bytes:
    """Raises BodyTooLarge beyond `limit` bytes, whether or not they were announced."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
        elif size > limit * DRAINED_BODIES:
            break
    if size > limit:
        raise BodyTooLarge(f"the body is larger than {limit} bytes, the most this server reads")
    return b"".join(chunks)
