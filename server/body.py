"""Reads the JSON object of a request within limits of size and time."""

import asyncio
import json
from typing import Any

from starlette.requests import Request

from .http_errors import BodyTooLarge, InvalidBody, RequestTooSlow, UnsupportedContentType, UnsupportedEncoding

DRAINED_BODIES = 16
"""Times the limit that a too large body is still read, and dropped: a client that is sending reads no response."""
COMPRESSED = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd", "zlib": b"\x78\x9c"}
"""First bytes of compressed data: some clients compress without saying so, and JSON never begins like this."""
BODY_SECONDS = 30.0  # a prompt is small: a slower client only holds the connection


async def read_json(request: Request, limit: int) -> dict[str, Any]:
    """The body as a dict, without its null entries, which mean "absent".

    Raises UnsupportedContentType, UnsupportedEncoding, BodyTooLarge, RequestTooSlow or InvalidBody.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        message = f"Content-Type must be application/json, got {content_type or 'none'}"
        raise UnsupportedContentType(message)
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise UnsupportedEncoding(f"the body must not be compressed, got Content-Encoding {encoding[:40]}")
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await read_body(request, limit)
    except TimeoutError:
        raise RequestTooSlow(f"the body must arrive within {BODY_SECONDS:g} s") from None
    for name, magic in COMPRESSED.items():
        if body.startswith(magic):
            raise UnsupportedEncoding(f"the body must not be compressed, got {name} data")
    try:
        value = json.loads(body.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        wrong = f"{body[error.start]:#04x} at position {error.start}"
        raise InvalidBody(f"the body must be valid JSON in UTF-8, got the byte {wrong}") from None
    except (ValueError, RecursionError) as error:  # RecursionError: nested deeper than any valid request
        raise InvalidBody(f"the body must be valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidBody('the body must be a JSON object, like {"prompt": "a cat"}')
    return {name: entry for name, entry in value.items() if entry is not None}


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body. Raises BodyTooLarge beyond `limit` bytes, with or without a Content-Length."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
        elif size > limit * DRAINED_BODIES:
            break
    if size > limit:
        raise BodyTooLarge(f"the body must not exceed {limit} bytes")
    return b"".join(chunks)
