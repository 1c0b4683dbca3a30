"""Exceptions as OpenAI's error object, by one table: every response of 400 and above is made here.

The server adds these errors to the engine's (engine/errors.py):

RequestError
    InvalidBody                 the body is not a JSON object
    UnsupportedContentType      the content type is not JSON
    UnsupportedEncoding         the body is compressed
    BodyTooLarge                the body exceeds the limit
    HeadTooLarge                the request line and headers exceed the limit
    RequestTooSlow              the request did not arrive in time
    OriginNotAllowed            the web page is not allowed by --cors-origin
    ModelNotFound               the requested model is not the one served
    FileNotFound                the image does not exist, or has expired
    BatchesDisabled             the server runs without --data and --database
    NoSuchBatchObject           the file or batch does not exist, or belongs to another key
    BatchStoreUnavailable       the database of batches does not answer
    BatchStoreFull              the batches hold as many bytes as they may
    RangeNotSatisfiable         the range begins beyond the end of the image
    StorageFailed               the image for a URL cannot be stored
    MissingKey                  no API key was sent
    InvalidKey                  the API key is not accepted
    TooManyRequests             the caller exceeds its rate or concurrency
"""

import json
import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from engine import (
    CheckpointError,
    DeadlineExceeded,
    DeviceError,
    EngineUnavailable,
    GenerationFailed,
    InvalidParams,
    QueueFull,
    RequestCancelled,
)

MAX_MESSAGE_CHARS = 1000
CLIENT_GONE = 499  # nginx's status for the log: the client has disconnected and cannot read it


class RequestError(Exception):
    """An error that the server finds in a request, before the engine."""


class InvalidBody(RequestError):
    """The body is not a JSON object."""


class BodyTooLarge(RequestError):
    """The body exceeds the limit."""


class HeadTooLarge(RequestError):
    """The request line and headers exceed the limit."""


class RequestTooSlow(RequestError):
    """The request did not arrive in time."""

    headers: ClassVar = {"connection": "close"}


class UnsupportedContentType(RequestError):
    """The content type is not JSON."""


class UnsupportedEncoding(RequestError):
    """The body is compressed."""

    headers: ClassVar = {"accept-encoding": "identity"}


class OriginNotAllowed(RequestError):
    """The web page, its method or one of its headers is not allowed by --cors-origin."""


class ModelNotFound(RequestError):
    """The requested model is not the one served."""


class FileNotFound(RequestError):
    """The image does not exist, or has expired."""


class BatchesDisabled(RequestError):
    """The server runs without --data and --database."""


class NoSuchBatchObject(RequestError):
    """The file or batch does not exist, or belongs to another key."""


class BatchStoreUnavailable(RequestError):
    """The database of batches does not answer or has no space. `reason` says why, for the log: it may name hosts."""

    def __init__(self, reason: str) -> None:
        super().__init__("the database of batches does not answer; try again later")
        self.reason = reason


class BatchStoreFull(RequestError):
    """The batches hold as many bytes as they may."""

    headers: ClassVar = {"x-should-retry": "false"}


class RangeNotSatisfiable(RequestError):
    """The range begins beyond the end of an image of `size` bytes."""

    def __init__(self, size: int) -> None:
        super().__init__(f"the range must begin within the image, which has {size} bytes")
        self.headers = {"content-range": f"bytes */{size}"}


class StorageFailed(RequestError):
    """The image for a URL cannot be stored."""

    headers: ClassVar = {"x-should-retry": "false"}  # the official clients would generate the image twice more


class MissingKey(RequestError):
    """No API key was sent."""

    headers: ClassVar = {"www-authenticate": "Bearer"}


class InvalidKey(RequestError):
    """The API key is not accepted."""

    headers: ClassVar = {"www-authenticate": "Bearer"}


class TooManyRequests(RequestError):
    """The caller exceeds its rate or concurrency and should wait for `retry_after` seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True)
class Kind:
    """The response to one class of errors. An error's own `param`, `code` and `retry_after` override these."""

    status: int
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    code: str | None = None
    param: str | None = None
    retry_after: int | None = None  # seconds


TABLE: dict[type[Exception] | int, Kind] = {
    InvalidParams: Kind(400, "invalid_request_error"),
    InvalidBody: Kind(400, "invalid_request_error"),
    UnsupportedContentType: Kind(400, "invalid_request_error", "unsupported_content_type"),
    OriginNotAllowed: Kind(400, "invalid_request_error"),
    UnsupportedEncoding: Kind(415, "invalid_request_error", "unsupported_content_encoding"),
    BodyTooLarge: Kind(413, "invalid_request_error"),
    HeadTooLarge: Kind(431, "invalid_request_error"),
    RequestTooSlow: Kind(408, "invalid_request_error", "request_timeout"),
    MissingKey: Kind(401, "invalid_request_error"),
    InvalidKey: Kind(401, "invalid_request_error", "invalid_api_key"),
    FileNotFound: Kind(404, "invalid_request_error", "file_not_found"),
    BatchesDisabled: Kind(404, "invalid_request_error", "batches_disabled"),
    NoSuchBatchObject: Kind(404, "invalid_request_error", None, "id"),
    BatchStoreUnavailable: Kind(503, "server_error", retry_after=5),
    BatchStoreFull: Kind(507, "server_error", "storage_failed"),
    RangeNotSatisfiable: Kind(416, "invalid_request_error"),
    StorageFailed: Kind(507, "server_error", "storage_failed"),
    TooManyRequests: Kind(429, "rate_limit_error", "rate_limit_exceeded", retry_after=1),
    ModelNotFound: Kind(404, "invalid_request_error", "model_not_found", "model"),
    404: Kind(404, "invalid_request_error", "unknown_url"),
    405: Kind(405, "invalid_request_error", "method_not_supported"),
    RequestCancelled: Kind(CLIENT_GONE, "invalid_request_error"),
    ClientDisconnect: Kind(CLIENT_GONE, "invalid_request_error"),
    QueueFull: Kind(429, "rate_limit_error", "rate_limit_exceeded", retry_after=1),
    EngineUnavailable: Kind(503, "server_error", retry_after=5),
    CheckpointError: Kind(503, "server_error", retry_after=60),
    DeviceError: Kind(503, "server_error", retry_after=60),
    GenerationFailed: Kind(500, "server_error"),
    # Not 504 or 408: the official clients retry those at once, and the retry would miss its deadline too.
    DeadlineExceeded: Kind(400, "invalid_request_error", "deadline_exceeded", "timeout"),
    Exception: Kind(500, "server_error"),
}


def error_response(error: Exception, request: Request) -> Response:
    """The response to a request that ended with this error."""
    kind = kind_of(error)
    headers = dict(getattr(error, "headers", None) or {})
    if kind.retry_after is not None:
        headers["retry-after"] = str(max(math.ceil(getattr(error, "retry_after", kind.retry_after)), 1))
    where = ""
    if isinstance(error, HTTPException):
        where = f": {request.method} {request.scope['path'][:200]}"
        if error.status_code == 404:
            where += f"; set the client's base URL to {base_url(request)}"
    return Response(error_body(error, where), kind.status, headers, media_type="application/json")


def base_url(request: Request) -> str:
    """What a client of this server needs. Not request.base_url, which fails on an invalid Host header."""
    seen = f"{request.scope['scheme']}://{request.headers.get('host', '')}{request.scope.get('root_path', '')}"
    start = request.app.state.config.public_url or seen
    return f"{start.rstrip('/')}/v1"


def error_body(error: Exception, where: str = "") -> bytes:
    """OpenAI's error object as JSON, with all four keys. `where` is appended to the message."""
    kind = kind_of(error)
    body = {
        "message": printable(message_of(error) + where)[:MAX_MESSAGE_CHARS],
        "type": kind.type,
        "param": getattr(error, "param", kind.param),
        "code": getattr(error, "code", kind.code),
    }
    return json.dumps({"error": body}).encode()


def kind_of(error: Exception) -> Kind:
    if isinstance(error, HTTPException):
        return TABLE.get(error.status_code) or Kind(error.status_code, "invalid_request_error")
    return next(TABLE[kind] for kind in type(error).__mro__ if kind in TABLE)


def message_of(error: Exception) -> str:
    if isinstance(error, HTTPException):
        return error.detail
    if kind_of(error) is TABLE[Exception]:  # the message could expose paths or secrets; it is in the log
        return "internal server error; see the server's log for this x-request-id"
    return str(error)


def printable(text: str) -> str:
    """`text` with lone surrogates escaped: a message may quote the input that caused it, and must be encodable."""
    return text.encode("utf-8", "backslashreplace").decode()
