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
MAX_LEVELS = 32
"""Depth of nested objects and arrays. The deepest valid request has three."""
BODY_SECONDS = 30.0  # a prompt is small: a slower client only holds the connection


async def read_json(request: Request, limit: int, seconds: float | None = None) -> dict[str, Any]:
    """The body as a dict, without its null entries, which mean "absent".

    Raises UnsupportedContentType, UnsupportedEncoding, BodyTooLarge, RequestTooSlow or InvalidBody.

    Args:
        limit: maximum bytes.
        seconds: time in which it must arrive; None: BODY_SECONDS.
    """
    seconds = BODY_SECONDS if seconds is None else seconds
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        message = f"Content-Type must be application/json, got {content_type or 'none'}"
        raise UnsupportedContentType(message)
    check_encoding(request)
    try:
        async with asyncio.timeout(seconds):
            body = await read_body(request, limit)
    except TimeoutError:
        raise RequestTooSlow(f"the body must arrive within {seconds:g} s") from None
    for name, magic in COMPRESSED.items():
        if body.startswith(magic):
            raise UnsupportedEncoding(f"the body must not be compressed, got {name} data")
    try:
        value = parse_json(body)
    except UnicodeDecodeError as error:
        wrong = f"{body[error.start]:#04x} at position {error.start}"
        raise InvalidBody(f"the body must be valid JSON in UTF-8, got the byte {wrong}") from None
    except ValueError as error:
        raise InvalidBody(f"the body must be valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidBody('the body must be a JSON object, like {"prompt": "a cat"}')
    return {name: entry for name, entry in value.items() if entry is not None}


def check_encoding(request: Request) -> None:
    """Raises UnsupportedEncoding if the body is declared as compressed."""
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise UnsupportedEncoding(f"the body must not be compressed, got Content-Encoding {encoding[:40]}")


def parse_json(data: bytes) -> Any:
    """The JSON value. Raises ValueError, also for one nested so deeply that code that walks it could fail."""
    try:
        value = json.loads(data.decode("utf-8-sig"))
        if not is_deeper(value, MAX_LEVELS):
            return value
    except RecursionError:
        pass
    raise ValueError(f"it must not be nested more than {MAX_LEVELS} levels deep")


def is_deeper(value: object, levels: int) -> bool:
    """Whether objects and arrays are nested in each other more than `levels` deep."""
    if not isinstance(value, dict | list):
        return False
    entries = value.values() if isinstance(value, dict) else value
    return not levels or any(is_deeper(entry, levels - 1) for entry in entries)


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
