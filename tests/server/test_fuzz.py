"""Malformed bodies: each gets a 400 with OpenAI's error object, and the server keeps running."""

import json
import socket
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from server.schemas import ImageGenerationRequest

from .live import LiveServer

GENERATIONS = "/v1/images/generations"
JSON = {"content-type": "application/json"}
NUMBERS = [-1, 0, 2**31, 2**63, 2**64, -(2**63), 10**400, 0.5, 1e308, -0.0]
TEXTS = ["", " ", "1", "\0", "\u202e", "a" * 40_000, "\ud800", "'; DROP TABLE images; --", "../../etc/passwd"]
ODD: list[Any] = [*NUMBERS, *TEXTS, "http://127.0.0.1:1/", "${jndi:ldap://x}", True, False, [], [[]], [1], {}, {"a": 1}]
RAW = [
    b'{"prompt": "a cat", "prompt": 5}',
    b'{"prompt": "a cat", "n": 1, "n": "2"}',
    b'{"prompt": "a\xff"}',
    b'{"prompt": "a cat", "n": 01}',
    b'{"prompt": "a cat", "n": +1}',
    b'{"prompt": "a cat", "n": NaN}',
    b'{"prompt": "a cat", "guidance_scale": Infinity}',
    b'{"prompt": "a cat", "guidance_scale": 1e999}',
    b'{"prompt": "a cat", "seed": 1e-2}',
    b'{"prompt": "a cat", "n": ' + b"1" * 10_000 + b"}",
    b'{"prompt": "a cat", "size": "' + b"9" * 10_000 + b'x1"}',
    b'{"prompt": ' + b"[" * 100_000,
    b'{"prompt": ' + b"[" * 900 + b"]" * 900 + b"}",
    b'{"prompt": ' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}",
    b'{"prompt": "a cat"',
    b'{"prompt": "a cat"} {"prompt": "a dog"}',
    b'\xef\xbb\xbf{"prompt": ""}',
    '{"prompt": "a cat"}'.encode("utf-16"),
    b"prompt=a+cat",
]


def check_refused(response: httpx.Response) -> None:
    assert response.status_code in (400, 404), response.text[:200]  # 404: unknown model
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert len(response.json()["error"]["message"]) <= 1000


@pytest.mark.parametrize("body", RAW, ids=range(len(RAW)))
def test_malformed_bodies_get_400(http: httpx.Client, body: bytes) -> None:
    check_refused(http.post(GENERATIONS, content=body, headers=JSON))


@pytest.mark.parametrize("name", sorted(ImageGenerationRequest.model_fields))
def test_odd_values_refused_in_every_field(http: httpx.Client, name: str) -> None:
    """The invalid size or count ensures that nothing is generated, even if the value is accepted."""
    for value in ODD:
        body = {"prompt": "a cat", "size": "1x1", "n": 0, name: value}
        response = http.post(GENERATIONS, content=json.dumps(body).encode(), headers=JSON)
        check_refused(response)


def test_odd_field_names_refused(http: httpx.Client) -> None:
    for name in ("", "\0", "\ud800", "__proto__", "a" * 100_000, "x\r\ny: z", "{}", "%s%n"):
        body = {"prompt": "a cat", "size": "1x1", name: 1}
        check_refused(http.post(GENERATIONS, content=json.dumps(body).encode(), headers=JSON))


def test_truncated_body_leaves_server_healthy(server: LiveServer, http: httpx.Client) -> None:
    address = urlsplit(server.url)
    head = f"POST {GENERATIONS} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n"
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(head.encode() + b'{"prompt"')
    assert http.get("/health").status_code == 200


def test_client_urls_never_fetched(http: httpx.Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as bait:
        bait.settimeout(0.5)
        url = f"http://127.0.0.1:{bait.getsockname()[1]}/x.png"
        headers = {"referer": url, "x-callback": url}
        fields = ("callback", "webhook", "url", "user", "safety_identifier", "prompt")
        body: dict[str, Any] = {"size": "64x64", "num_inference_steps": 1, **dict.fromkeys(fields, url)}
        assert http.post(GENERATIONS, json=body, headers=headers).status_code == 200
        for name in ("image", "image_url", "mask"):
            check_refused(http.post(GENERATIONS, json={**body, name: url}, headers=headers))
        with pytest.raises(TimeoutError):
            bait.accept()
