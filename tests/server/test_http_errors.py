import json
from collections.abc import Iterator

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from engine import DeadlineExceeded, EngineUnavailable, GenerationFailed, InvalidParams, QueueFull, SanaError
from server.http_errors import MAX_MESSAGE_CHARS, TABLE, Kind, error_body, error_response, kind_of


def subclasses(kind: type[Exception]) -> Iterator[type[Exception]]:
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


@pytest.fixture
def request_() -> Request:
    return Request({"type": "http", "method": "GET", "path": "/x", "headers": [], "server": ("host", 80)})


@pytest.mark.parametrize("kind", [k for k in subclasses(SanaError) if k.__module__ == "engine.errors"])
def test_every_engine_error_in_table(kind: type[Exception]) -> None:
    assert kind in TABLE


@pytest.mark.parametrize("kind", TABLE.values())
def test_error_type_matches_status(kind: Kind) -> None:
    assert kind.type == (
        "server_error" if kind.status >= 500 else "rate_limit_error" if kind.status == 429 else "invalid_request_error"
    )
    assert (kind.retry_after is not None) == (kind.status in (429, 503))


def test_error_object_has_four_keys(request_: Request) -> None:
    response = error_response(InvalidParams("no", "size"), request_)
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/json"
    expected = {"message": "no", "type": "invalid_request_error", "param": "size", "code": "invalid_value"}
    assert json.loads(response.body) == {"error": expected}


@pytest.mark.parametrize(("error", "status"), [(QueueFull("full"), 429), (EngineUnavailable("loading"), 503)])
def test_retryable_errors_have_retry_after(error: Exception, status: int, request_: Request) -> None:
    response = error_response(error, request_)
    assert response.status_code == status
    assert int(response.headers["retry-after"]) >= 1


def test_retry_after_rounded_up_from_error(request_: Request) -> None:
    assert error_response(QueueFull("full", retry_after=7.2), request_).headers["retry-after"] == "8"


def test_deadline_error_not_retried_by_clients(request_: Request) -> None:
    deadline = error_response(DeadlineExceeded("late"), request_)
    assert deadline.status_code not in (408, 409, 429)
    assert deadline.status_code < 500
    assert json.loads(deadline.body)["error"]["code"] == "deadline_exceeded"
    assert json.loads(error_response(GenerationFailed("broken"), request_).body)["error"]["code"] is None


def test_http_exception_keeps_headers(request_: Request) -> None:
    response = error_response(HTTPException(405, headers={"Allow": "POST"}), request_)
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    assert json.loads(response.body)["error"]["code"] == "method_not_supported"


def test_unexpected_error_is_500_without_message(request_: Request) -> None:
    response = error_response(KeyError("/home/me/secret"), request_)
    assert response.status_code == 500
    assert b"secret" not in response.body


def test_error_subclass_uses_nearest_row() -> None:
    class Special(QueueFull):
        pass

    assert kind_of(Special("x")) is TABLE[QueueFull]


def test_error_message_bounded_and_encodable() -> None:
    message = json.loads(error_body(InvalidParams("\ud800" + "x" * 10_000)))["error"]["message"]
    assert len(message) == MAX_MESSAGE_CHARS
    assert message.startswith("\\ud800x")
