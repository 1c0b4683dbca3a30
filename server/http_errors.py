"""From exceptions to OpenAI's error object, in one table: every answer of 400 and above is made here.

Besides the engine's errors (engine/errors.py) the server knows

RequestError
    InvalidBody                 the body is not a JSON object
    UnsupportedContentType      it is not declared as JSON
    BodyTooLarge                more bytes than the server reads
    RequestTooSlow              the request does not arrive
    OriginNotAllowed            a web page that no --cors-origin names
    ModelNotFound               another model than the one served was asked for
    FileNotFound                no such image, or no longer
    RangeNotSatisfiable         a range beyond the end of an image
    MissingKey                  no API key
    InvalidKey                  none of ours
    TooManyRequests             more than the caller may ask
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
CLIENT_GONE = 499  # nginx's number; nobody is left to read it, the log is


class RequestError(Exception):
    """What the server itself finds wrong with a request."""


class InvalidBody(RequestError):
    """The body is not a JSON object."""


class BodyTooLarge(RequestError):
    """More bytes than the server reads."""


class RequestTooSlow(RequestError):
    """The request does not arrive."""

    headers: ClassVar = {"connection": "close"}


class UnsupportedContentType(RequestError):
    """The body is not declared as JSON."""


class OriginNotAllowed(RequestError):
    """A web page that no --cors-origin names, or what it wants to send."""


class ModelNotFound(RequestError):
    """Another model than the one served was asked for."""


class FileNotFound(RequestError):
    """No such image, or no longer."""


class RangeNotSatisfiable(RequestError):
    """A range beyond the end of an image of `size` bytes."""

    def __init__(self, size: int) -> None:
        super().__init__(f"the range begins beyond the end of the image, which has {size} bytes")
        self.headers = {"content-range": f"bytes */{size}"}


class MissingKey(RequestError):
    """No API key was sent."""

    headers: ClassVar = {"www-authenticate": "Bearer"}


class InvalidKey(RequestError):
    """The API key is none of ours."""

    headers: ClassVar = {"www-authenticate": "Bearer"}


class TooManyRequests(RequestError):
    """More than the caller may ask; `retry_after` is in seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True)
class Kind:
    """How one class of errors is told. The error's own `param` and `code`, where it has them, go first."""

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
    BodyTooLarge: Kind(413, "invalid_request_error"),
    RequestTooSlow: Kind(408, "invalid_request_error", "request_timeout"),
    MissingKey: Kind(401, "invalid_request_error"),
    InvalidKey: Kind(401, "invalid_request_error", "invalid_api_key"),
    FileNotFound: Kind(404, "invalid_request_error", "file_not_found"),
    RangeNotSatisfiable: Kind(416, "invalid_request_error"),
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
    # 400, not 504 or 408: official clients repeat those at once, and what missed its deadline misses it again
    DeadlineExceeded: Kind(400, "invalid_request_error", "deadline_exceeded", "timeout"),
    Exception: Kind(500, "server_error"),
}


def error_response(error: Exception, request: Request) -> Response:
    """The answer to a request that ended with this error."""
    kind = kind_of(error)
    headers = dict(getattr(error, "headers", None) or {})
    if kind.retry_after is not None:
        headers["retry-after"] = str(max(math.ceil(getattr(error, "retry_after", kind.retry_after)), 1))
    where = f": {request.method} {request.url.path}" if isinstance(error, HTTPException) else ""
    return Response(error_body(error, where), kind.status, headers, media_type="application/json")


def error_body(error: Exception, where: str = "") -> bytes:
    """OpenAI's error object as JSON, all four keys."""
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
    if kind_of(error) is TABLE[Exception]:  # its text is for the log: it may hold anything
        return "the server failed to answer; its log says more under this x-request-id"
    return str(error)


def printable(text: str) -> str:
    """`text` with lone surrogates spelled out: an error message may quote the input that caused it."""
    return text.encode("utf-8", "backslashreplace").decode()
