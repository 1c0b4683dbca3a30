"""From exceptions to OpenAI's error object, in one table: every answer of 400 and above is made here.

Besides the engine's errors (engine/errors.py) the server knows
InvalidBody                     the body is not a JSON object
    BodyTooLarge                more bytes than the server reads
    UnsupportedContentType      not declared as JSON
ModelNotFound                   another model than the one served was asked for
"""

import json
import math
from dataclasses import dataclass
from typing import Literal

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


class InvalidBody(Exception):
    """The body is not a JSON object."""


class BodyTooLarge(InvalidBody):
    """More bytes than the server reads."""


class UnsupportedContentType(InvalidBody):
    """The body is not declared as JSON."""


class ModelNotFound(Exception):
    """Another model than the one served was asked for."""


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
    BodyTooLarge: Kind(413, "invalid_request_error"),
    ModelNotFound: Kind(404, "invalid_request_error", "model_not_found", "model"),
    404: Kind(404, "invalid_request_error", "unknown_url"),
    405: Kind(405, "invalid_request_error", "method_not_supported"),
    RequestCancelled: Kind(CLIENT_GONE, "invalid_request_error"),
    ClientDisconnect: Kind(CLIENT_GONE, "invalid_request_error"),
    QueueFull: Kind(429, "rate_limit_error", "rate_limit_exceeded", retry_after=1),
    EngineUnavailable: Kind(503, "server_error", retry_after=5),
    CheckpointError: Kind(503, "server_error", retry_after=60),
    DeviceError: Kind(503, "server_error", retry_after=60),
    GenerationFailed: Kind(500, "server_error", "engine_error"),
    # 400, not 504 or 408: official clients repeat those at once, and what missed its deadline misses it again
    DeadlineExceeded: Kind(400, "invalid_request_error", "deadline_exceeded", "timeout"),
    Exception: Kind(500, "server_error"),
}


def error_response(error: Exception, request: Request) -> Response:
    """The answer to a request that ended with this error."""
    kind = kind_of(error)
    headers = dict(getattr(error, "headers", None) or {})
    if kind.retry_after is not None:
        headers["retry-after"] = str(math.ceil(getattr(error, "retry_after", kind.retry_after)))
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
    if isinstance(error, HTTPException) and error.status_code in TABLE:
        return TABLE[error.status_code]
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
