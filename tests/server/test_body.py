import asyncio
import gzip
import json
import zlib
from typing import Any

import pytest
from starlette.requests import Request
from starlette.types import Message

from server.body import DRAINED_BODIES, MAX_LEVELS, read_json
from server.http_errors import BodyTooLarge, InvalidBody, UnsupportedContentType, UnsupportedEncoding

LIMIT = 1000


def read(body: bytes, content_type: str | None = "application/json", limit: int = LIMIT) -> dict[str, Any]:
    """`read_json` of a body that arrives in chunks, as from a socket."""
    chunks = [body[i : i + 64] for i in range(0, len(body), 64)] or [b""]

    async def receive() -> Message:
        return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}

    headers = [] if content_type is None else [(b"content-type", content_type.encode())]
    request = Request({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive)
    return asyncio.run(read_json(request, limit))


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json; charset=utf-8", "Application/JSON ;x=y"]
)
def test_json_body_read(content_type: str) -> None:
    assert read('{"prompt": "ein Käfer 🐞", "n": 2}'.encode(), content_type) == {"prompt": "ein Käfer 🐞", "n": 2}


def test_null_entries_removed() -> None:
    assert read(b'{"prompt": "a", "size": null}') == {"prompt": "a"}


def test_byte_order_mark_accepted() -> None:
    assert read(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


@pytest.mark.parametrize("content_type", [None, "", "text/plain", "multipart/form-data; boundary=x", "application/xml"])
def test_content_type_must_be_json(content_type: str | None) -> None:
    with pytest.raises(UnsupportedContentType, match="application/json"):
        read(b"{}", content_type)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"a": 1', b"{'a': 1}", b'{"a": "\xff\xfe"}', b"\x00", b'{"a": 1} x', b'{"n": ' + b"9" * 900 + b"."],
)
def test_invalid_json_refused(body: bytes) -> None:
    with pytest.raises(InvalidBody, match="must be valid JSON"):
        read(body)


@pytest.mark.parametrize(
    "body", ['{"prompt": "Käfer"}'.encode("latin-1"), '{"prompt": "a"}'.encode("utf-16"), b'{"a": "\xff"}']
)
def test_other_encoding_than_utf8_named(body: bytes) -> None:
    """PowerShell 5 sends Latin-1, and PowerShell's redirected files are UTF-16."""
    with pytest.raises(InvalidBody, match=r"in UTF-8, got the byte 0x(e4|ff) at position \d+$"):
        read(body)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("gzip", gzip.compress(b'{"prompt": "a cat"}')),
        ("zlib", zlib.compress(b'{"prompt": "a cat"}')),
        ("zstd", b"\x28\xb5\x2f\xfd\x04\x00"),
    ],
)
def test_unlabelled_compression_named(name: str, body: bytes) -> None:
    with pytest.raises(UnsupportedEncoding, match=f"must not be compressed, got {name} data"):
        read(body)


@pytest.mark.parametrize("body", [b"[]", b'"prompt"', b"1", b"null", b"true"])
def test_json_must_be_object(body: bytes) -> None:
    with pytest.raises(InvalidBody, match="must be a JSON object"):
        read(body)


@pytest.mark.parametrize("levels", [MAX_LEVELS, 300, 800, 990, 100_000])
def test_deep_nesting_refused(levels: int) -> None:
    body = b'{"a":' + b"[" * levels + b"]" * levels + b"}"
    with pytest.raises(InvalidBody, match=f"more than {MAX_LEVELS} levels"):
        read(body, limit=len(body))


def test_nesting_within_limit_accepted() -> None:
    levels = MAX_LEVELS - 1
    assert read(b'{"a":' + b'{"b":' * levels + b"1" + b"}" * levels + b"}")


def test_body_limit_is_exact() -> None:
    body = json.dumps({"a": "x" * (LIMIT - 9)}).encode()
    assert len(body) == LIMIT
    assert len(read(body)["a"]) == LIMIT - 9
    with pytest.raises(BodyTooLarge, match=str(LIMIT)):
        read(body + b" ")


def test_endless_body_not_read_to_end() -> None:
    taken = 0

    async def receive() -> Message:
        nonlocal taken
        taken += LIMIT
        return {"type": "http.request", "body": b"x" * LIMIT, "more_body": True}

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-type", b"application/json")]}
    with pytest.raises(BodyTooLarge):
        asyncio.run(read_json(Request(scope, receive), LIMIT))
    assert taken == LIMIT * (DRAINED_BODIES + 1)
