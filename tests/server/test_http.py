"""Behaviour common to all routes over real sockets: ids, JSON errors, limits."""

import gzip
import json
import re
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from .live import LiveServer

GENERATIONS = "/v1/images/generations"
JSON = {"content-type": "application/json"}


def check_error(response: httpx.Response, status: int, code: str | None) -> str:
    """Checks OpenAI's error object and returns its message."""
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", None, code)
    return error["message"]


@pytest.mark.parametrize(
    "path",
    [
        "/v1",
        "/v1/images/upscales",
        "/static/x.js",
        "/static/..%2fapp.py",
        "/docs",
        "/a%0Ab",
        "/\u00e9",
    ],
)
def test_unknown_url_gets_404(http: httpx.Client, path: str) -> None:
    assert "GET" in check_error(http.get(path), 404, "unknown_url")


GET_PATHS = [
    "/",
    "/static/style.css",
    "/health",
    "/ready",
    "/metrics",
    "/openapi.json",
    "/v1/models",
    "/v1/models/demo",
    "/files/x.png",
]


@pytest.mark.parametrize("method", ["OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "BREW", "A" * 5000])
def test_wrong_method_gets_405_with_allow(http: httpx.Client, method: str) -> None:
    for path in GET_PATHS:
        response = http.request(method, path)
        check_error(response, 405, "method_not_supported")
        assert set(response.headers["allow"].split(", ")) == {"GET", "HEAD"}
    if method != "POST":
        response = http.request(method, GENERATIONS)
        check_error(response, 405, "method_not_supported")
        assert response.headers["allow"] == "POST"


def test_head_equals_get_without_body(http: httpx.Client, server: LiveServer) -> None:
    for path in (*GET_PATHS, "/nope", GENERATIONS):
        whole = http.get(path)
        head = http.head(path, headers={"x-request-id": f"head-of-{len(path)}"})
        assert (head.status_code, head.content) == (whole.status_code, b"")
        assert head.headers["content-type"] == whole.headers["content-type"]
        if path != "/metrics":  # they change
            expected = int(whole.headers["content-length"]) + ("HEAD" in whole.text)
            assert int(head.headers["content-length"]) == expected
    assert f"head-of-{len('/nope')} HEAD /nope 404" in server.logged("HEAD /nope")
    assert http.head(GENERATIONS).headers["allow"] == "POST"


def test_long_method_shortened_in_log(http: httpx.Client, server: LiveServer) -> None:
    http.request("B" * 5000, "/health")
    assert "B" * 21 not in server.logged("B" * 20 + " /health 405")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"prompt": "\xff"}', b"[1]", b'{"a":' * 50_000, b"[" * 200_000, b'{"n": ' + b"9" * 5000 + b"}"],
)
def test_body_not_json_object_gets_400(http: httpx.Client, body: bytes) -> None:
    assert "JSON" in check_error(http.post(GENERATIONS, content=body, headers=JSON), 400, None)


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_wrong_content_type_gets_400(http: httpx.Client, content_type: str | None) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    response = http.post(GENERATIONS, content=b'{"prompt": "a cat"}', headers=headers)
    assert "application/json" in check_error(response, 400, "unsupported_content_type")


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, identity", "GZIP", "x" * 500])
def test_compressed_body_gets_415(http: httpx.Client, encoding: str) -> None:
    headers = {**JSON, "content-encoding": encoding}
    response = http.post(GENERATIONS, content=gzip.compress(b'{"prompt": "a cat"}'), headers=headers)
    message = check_error(response, 415, "unsupported_content_encoding")
    assert f"Content-Encoding {encoding.lower()[:40]}" in message
    assert response.headers["accept-encoding"] == "identity"


def test_identity_encoding_accepted(http: httpx.Client) -> None:
    response = http.post(GENERATIONS, content=b"[]", headers={**JSON, "content-encoding": "identity"})
    assert "JSON object" in check_error(response, 400, None)


@pytest.fixture(scope="module")
def file_path(http: httpx.Client) -> str:
    body = {"prompt": "a cat", "size": "256x256", "num_inference_steps": 1, "response_format": "url"}
    return urlsplit(http.post(GENERATIONS, json=body).json()["data"][0]["url"]).path


@pytest.mark.parametrize("path", ["", "/", "/static/style.css", "/static/script.js"])
def test_file_unchanged_gets_304(http: httpx.Client, file_path: str, path: str) -> None:
    path = path or file_path
    whole = http.get(path)
    etag, date = whole.headers["etag"], whole.headers["last-modified"]
    for fields in (
        {"if-none-match": etag},
        {"if-none-match": f'"other", W/{etag}'},
        {"if-none-match": "*"},
        {"if-modified-since": date},
        {"if-none-match": etag, "range": "bytes=99999999-"},
    ):
        answer = http.get(path, headers=fields)
        assert (answer.status_code, answer.content) == (304, b""), fields
        assert answer.headers["etag"] == etag
        assert answer.headers["cache-control"] == whole.headers["cache-control"]
    assert http.head(path, headers={"if-none-match": etag}).status_code == 304
    for fields in (
        {"if-none-match": '"other"'},
        {"if-none-match": '"other"', "if-modified-since": date},
        {"if-modified-since": "Thu, 01 Jan 1970 00:00:00 GMT"},
        {"if-modified-since": "yesterday"},
    ):
        assert http.get(path, headers=fields).content == whole.content, fields


def test_too_large_body_gets_413(http: httpx.Client) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(40):
            yield b"x" * 65536

    for content in (b"x" * 3_000_000, chunks()):
        assert "1048576" in check_error(http.post(GENERATIONS, content=content, headers=JSON), 413, None)


def test_valid_request_id_returned_and_logged(http: httpx.Client, server: LiveServer) -> None:
    assert http.get("/health", headers={"x-request-id": "abc-1.2_3"}).headers["x-request-id"] == "abc-1.2_3"
    assert re.search(r"abc-1\.2_3 GET /health 200 \d+\.\d ms\n", server.logged("abc-1.2_3"))


@pytest.mark.parametrize("offered", ["", "a b", "x" * 200, "<script>", "{}"])
def test_invalid_request_id_replaced(http: httpx.Client, offered: str) -> None:
    given = http.get("/health", headers={"x-request-id": offered}).headers["x-request-id"]
    assert re.fullmatch(r"req_[0-9a-f]{24}", given)


def test_request_ids_unique_with_processing_time(http: httpx.Client) -> None:
    answers = [http.get("/health") for _ in range(5)]
    assert len({answer.headers["x-request-id"] for answer in answers}) == 5
    assert all(int(answer.headers["openai-processing-ms"]) >= 0 for answer in answers)


def test_path_cannot_forge_log_line(http: httpx.Client, server: LiveServer) -> None:
    http.get("/x%0d%0aforged%20line")
    assert "\nforged line" not in server.logged("/x%0d%0aforged%20line 404")


@pytest.mark.parametrize("wire", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nhost: a\r\nbad header\r\n\r\n"])
def test_invalid_http_answered_in_json(server: LiveServer, wire: bytes) -> None:
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(wire)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"x-request-id: req_" in head
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}


def test_openapi_requires_prompt(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    operation = document["paths"][GENERATIONS]["post"]
    assert operation["requestBody"]["content"]["application/json"]["schema"]["required"] == ["prompt"]
