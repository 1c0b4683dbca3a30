"""The URLs of images: the public URL of the settings, and the headers of proxies."""

import asyncio
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse

from server.auth import client_address
from server.urls import ProxyError, TrustedProxies, URLError, apply_forwarded, check_url, trusted_addresses

PLAIN = {"host": "10.0.0.5:8000"}


def base_url(**headers: str) -> str:
    """Start of the URLs of a request with these headers; underscores stand for hyphens."""
    fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in {**PLAIN, **headers}.items()]
    scope = {"type": "http", "scheme": "http", "path": "/v1/images/generations", "headers": fields}
    apply_forwarded(scope)
    return str(Request(scope).base_url)


@pytest.mark.parametrize(
    ("headers", "url"),
    [
        ({}, "http://10.0.0.5:8000/"),
        ({"x_forwarded_proto": "https", "x_forwarded_host": "example.org"}, "https://example.org/"),
        ({"x_forwarded_proto": "https, http", "x_forwarded_host": "example.org, inner"}, "https://example.org/"),
        ({"x_forwarded_host": "example.org", "x_forwarded_port": "8080"}, "http://example.org:8080/"),
        (
            {"x_forwarded_proto": "https", "x_forwarded_host": "example.org", "x_forwarded_port": "443"},
            "https://example.org/",
        ),
        ({"host": "example.org", "x_forwarded_port": "443"}, "https://example.org/"),
        ({"host": "example.org", "x_forwarded_port": "443, 8080"}, "https://example.org/"),
        ({"host": "example.org", "x_forwarded_port": "80"}, "http://example.org/"),
        ({"x_forwarded_host": "example.org:81", "x_forwarded_port": "82"}, "http://example.org:81/"),
        ({"x_forwarded_host": "[2001:db8::1]", "x_forwarded_port": "81"}, "http://[2001:db8::1]:81/"),
        ({"x_forwarded_host": "example.org", "x_forwarded_prefix": "/sana/"}, "http://example.org/sana/"),
        ({"host": "example.org", "x_forwarded_proto": "HTTPS"}, "https://example.org/"),
        ({"forwarded": 'for=192.0.2.1;proto=https;host="example.org:8443", for=10.0.0.9'}, "https://example.org:8443/"),
        ({"x_forwarded_host": "evil.org/path?", "x_forwarded_proto": "javascript"}, "http://10.0.0.5:8000/"),
        ({"x_forwarded_port": "99999999", "x_forwarded_prefix": "//evil.org"}, "http://10.0.0.5:8000/"),
    ],
    ids=str,
)
def test_forwarded_headers_make_base_url(headers: dict[str, str], url: str) -> None:
    assert base_url(**headers) == url


@pytest.mark.parametrize(
    "url", ["https://example.org", "http://10.0.0.1:8000/", "https://example.org/a/b", "http://[::1]:80"]
)
def test_url_accepted(url: str) -> None:
    check_url("--public-url", url)


@pytest.mark.parametrize(
    "url",
    [
        "example.org", "example.org:8000", "//example.org", "https://", "https:/example.org", "ftp://example.org", "",
        "https://example.org?x=1", "https://example.org/#a", "https://exam ple.org", "http://example.org:99999",
        "http://[::1", "https://user:secret@example.org", "https://example.org/\u00e4", "https://example.org/{name}",
        'https://example.org/"', "https://example.org/%zz", "https://$HOST", "https://example.org/a\\b",
    ],
)  # fmt: skip
def test_malformed_url_refused(url: str) -> None:
    with pytest.raises(URLError, match=r"^--public-url must be like https://example\.org"):
        check_url("--public-url", url)


@pytest.mark.parametrize("url", ["example.org/sana", "https:example.org/sana", "http:/example.org/sana"])
def test_url_without_scheme_gets_hint(url: str) -> None:
    with pytest.raises(URLError, match=r"did you mean https://example\.org/sana\?"):
        check_url("--public-url", url)


def test_trusted_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORWARDED_ALLOW_IPS", raising=False)
    assert trusted_addresses([]) == ["127.0.0.1/32", "::1/128"]
    assert trusted_addresses(["10.0.0.7/8", "fd00::/8"]) == ["10.0.0.0/8", "fd00::/8"]
    assert trusted_addresses(["10.0.0.7", "*"]) == ["*"]
    assert trusted_addresses(["::ffff:10.0.0.7"]) == ["10.0.0.7/32"]  # as clients are named after their requests
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "10.0.0.7, 10.0.0.8")
    assert trusted_addresses([]) == ["10.0.0.7/32", "10.0.0.8/32"]


@pytest.mark.parametrize("proxy", ["nginx", "10.0.0.0/40", "10.0.0.7:80", "https://10.0.0.7", "10.0.0.7;"])
def test_proxy_that_is_no_address_refused(proxy: str) -> None:
    with pytest.raises(ProxyError, match="must be an address like"):
        trusted_addresses([proxy])


@pytest.mark.parametrize(
    ("sender", "trusted", "seen"),
    [
        ("127.0.0.1", ["127.0.0.1"], ["https://example.org/", "192.0.2.1"]),
        ("::ffff:127.0.0.1", ["127.0.0.1"], ["https://example.org/", "192.0.2.1"]),
        ("10.1.2.3", ["10.0.0.0/8"], ["https://example.org/", "192.0.2.1"]),
        ("10.1.2.3", ["*"], ["https://example.org/", "192.0.2.1"]),
        ("10.1.2.3", ["127.0.0.1"], ["http://test/", "10.1.2.3"]),
        ("::ffff:10.1.2.3", ["127.0.0.1", "::1"], ["http://test/", "10.1.2.3"]),
    ],
)
def test_only_trusted_proxies_count(sender: str, trusted: list[str], seen: list[str]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope)
        await JSONResponse([str(request.base_url), client_address(request)])(scope, receive, send)

    async def get() -> httpx.Response:
        transport = httpx.ASGITransport(TrustedProxies(app, trusted), client=(sender, 1234))  # type: ignore[arg-type]
        headers = {
            "x-forwarded-for": "192.0.2.1",
            "x-forwarded-proto": "https",
            "x-forwarded-host": "example.org",
        }
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get("/", headers=headers)

    assert asyncio.run(get()).json() == seen


def test_first_of_repeated_headers_counts() -> None:
    """A proxy may add a header of its own instead of appending to the list."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await JSONResponse(str(Request(scope).base_url))(scope, receive, send)

    async def get() -> httpx.Response:
        transport = httpx.ASGITransport(TrustedProxies(app, ["127.0.0.1"]), client=("127.0.0.1", 1234))  # type: ignore[arg-type]
        headers = [("x-forwarded-proto", "https"), ("x-forwarded-proto", "http"), ("x-forwarded-host", "example.org")]
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get("/", headers=headers)

    assert asyncio.run(get()).json() == "https://example.org/"
