"""Keys, guesses and rates over HTTP. The engine is never started, so accepted requests get 503."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine import EngineConfig
from server.app import create_app
from server.auth import ApiKeys, KeyFileError
from server.limits import GUESSES
from server.settings import ServerConfig

from .routes.test_operations import asgi_client

KEY = "sk-the-right-one"
BODY = {"prompt": "a cat"}
Check = Callable[[httpx.AsyncClient], Coroutine[Any, Any, None]]


def run(check: Check, **settings: Any) -> None:
    async def main() -> None:
        async with asgi_client(create_app(ServerConfig(EngineConfig(), **settings))) as client:
            await check(client)

    asyncio.run(main())


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def test_no_keys_configured_accepts_any_key() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        for headers in ({}, bearer("any"), {"authorization": "Basic eDp5"}):
            assert (await client.get("/v1/models", headers=headers)).status_code == 503

    run(check)


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, None),
        ({"authorization": KEY}, None),
        ({"authorization": "Bearer "}, None),
        ({"authorization": f"Basic {KEY}"}, None),
        (bearer("sk-another"), "invalid_api_key"),
        (bearer(KEY + "x"), "invalid_api_key"),
        (bearer(KEY[:-1]), "invalid_api_key"),
        ({"authorization": b"Bearer \xff\xfe"}, "invalid_api_key"),
    ],
)
def test_wrong_keys_get_401(headers: Any, code: str | None, caplog: pytest.LogCaptureFixture) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        for method, path in (("GET", "/v1/models"), ("POST", "/v1/images/generations")):
            response = await client.request(method, path, headers=headers)
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
            error = response.json()["error"]
            assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", code, None)
            assert "sk-" not in response.text
        assert 'sana_rejected_total{reason="api_key"} 2.0' in (await client.get("/metrics")).text

    run(check, api_keys=(KEY,))
    assert "sk-" not in caplog.text


def test_right_key_passes_with_any_scheme_case() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        for scheme in ("Bearer", "bearer", "BEARER "):
            response = await client.get("/v1/models", headers={"authorization": f"{scheme} {KEY}"})
            assert response.status_code == 503

    run(check, api_keys=("other", KEY))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"api-key": KEY}, 503),
        ({"api-key": KEY, "authorization": "Basic eDp5"}, 503),
        ({"api-key": "other", **bearer(KEY)}, 503),
        ({"api-key": "other"}, 401),
        ({"api-key": " "}, 401),
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["/v1/models", "/openai/models", "/openai/v1/models/demo"])
def test_azure_key_header_accepted(path: str, headers: dict[str, str], status: int) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        assert (await client.get(path, headers=headers)).status_code == status

    run(check, api_keys=(KEY,))


def test_operator_routes_need_no_key() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        for path, status in (("/health", 200), ("/ready", 503), ("/metrics", 200), ("/", 200)):
            assert (await client.get(path)).status_code == status

    run(check, api_keys=(KEY,))


def test_key_guesses_block_address() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        statuses = [(await client.get("/v1/models", headers=bearer(f"guess-{k}"))).status_code for k in range(20)]
        assert statuses == [401] * GUESSES + [429] * (20 - GUESSES)
        refused = await client.get("/v1/models", headers=bearer(KEY))
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.json()["error"]["type"] == "rate_limit_error"

    run(check, api_keys=(KEY,))


def test_missing_key_not_counted_as_guess() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        for _ in range(2 * GUESSES):
            assert (await client.get("/v1/models")).status_code == 401

    run(check, api_keys=(KEY,))


def test_rate_limit_per_key_sets_headers() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        responses = [await client.post("/v1/images/generations", json=BODY, headers=bearer("a")) for _ in range(4)]
        assert [response.status_code for response in responses] == [503, 503, 503, 429]
        assert [response.headers.get("x-ratelimit-remaining-requests") for response in responses[:3]] == ["2", "1", "0"]
        assert responses[0].headers["x-ratelimit-limit-requests"] == "3"
        assert responses[0].headers["x-ratelimit-reset-requests"].endswith("s")
        assert int(responses[3].headers["retry-after"]) >= 1
        other = await client.post("/v1/images/generations", json=BODY, headers=bearer("b"))
        assert other.status_code == 503
        assert (await client.get("/v1/models", headers=bearer("a"))).status_code == 503  # uses no device time

    run(check, api_keys=("a", "b"), rate_limit=3)


def test_rate_limit_per_address_without_keys() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        responses = [await client.post("/v1/images/generations", json=BODY) for _ in range(2)]
        assert [response.status_code for response in responses] == [503, 429]

    run(check, rate_limit=1)


def test_cors_only_for_allowed_origins() -> None:
    preflight = {"origin": "https://page.example", "access-control-request-method": "POST"}

    async def off(client: httpx.AsyncClient) -> None:
        response = await client.options("/v1/images/generations", headers=preflight)
        assert response.status_code == 405
        assert "access-control-allow-origin" not in response.headers

    async def on(client: httpx.AsyncClient) -> None:
        response = await client.options("/v1/images/generations", headers=preflight)
        assert response.headers["access-control-allow-origin"] == "https://page.example"
        other = await client.get("/health", headers={"origin": "https://other.example"})
        assert "access-control-allow-origin" not in other.headers
        response = await client.get("/health", headers={"origin": "https://page.example"})
        exposed = response.headers["access-control-expose-headers"]
        assert all(name in exposed for name in ("x-request-id", "x-ignored-params", "x-ratelimit-remaining-requests"))
        for other_headers in ({"origin": "https://other.example"}, {"access-control-request-method": "PUT"}):
            refused = await client.options("/v1/images/generations", headers={**preflight, **other_headers})
            assert (refused.status_code, refused.headers["content-type"]) == (400, "application/json")
            assert refused.headers["x-request-id"]
            assert set(refused.json()["error"]) == {"message", "type", "param", "code"}
        private = {**preflight, "access-control-request-private-network": "true"}
        assert (await client.options("/v1/models", headers=private)).headers["access-control-allow-private-network"]
        refused = await client.options("/v1/models", headers={**private, "origin": "https://other.example"})
        assert refused.status_code == 400

    run(off)
    run(on, cors_origins=("HTTPS://Page.example:443/",))


@pytest.mark.parametrize(
    ("path", "requested"),
    [
        ("/v1/images/generations", {"headers": "authorization,content-type,x-stainless-os,x-request-id"}),
        ("/v1//images/generations/", {"headers": "content-type"}),
        ("/openai/deployments/demo/images/generations", {"headers": "api-key"}),
        ("/v1/models", {"method": "GET", "private-network": "true"}),
        ("/files/x.png", {"method": "HEAD", "headers": "range"}),
        ("/metrics", {"method": "GET"}),
    ],
)
def test_preflight_of_allowed_page_accepted(path: str, requested: dict[str, str]) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        fields = {f"access-control-request-{name}": value for name, value in {"method": "POST", **requested}.items()}
        response = await client.options(path, headers={"origin": "https://page.example", **fields})
        assert response.status_code == 200
        allowed = {name.removeprefix("access-control-allow-"): value for name, value in response.headers.items()}
        assert allowed["origin"] == "https://page.example"
        assert fields["access-control-request-method"] in allowed["methods"]
        assert all(name in allowed.get("headers", "") for name in requested.get("headers", "").split(","))
        assert allowed.get("private-network") == requested.get("private-network")

    run(check, cors_origins=("https://page.example",))


def test_tenants_are_key_hashes(tmp_path: Path) -> None:
    keys = ApiKeys(("a", "b"), None)
    tenants = {keys.tenant("a"), keys.tenant("b")}
    assert len(tenants) == 2
    assert all(tenant and len(tenant) == 16 and int(tenant, 16) for tenant in tenants)
    assert keys.tenant("c") is None
    assert "a-secret" not in repr(ServerConfig(EngineConfig(), api_keys=("a-secret",)))


def test_key_file_reloaded_on_change(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "keys"
    file.write_text("# staff\nold\n\n")
    keys = ApiKeys((), file)
    assert keys.tenant("old")
    assert keys.tenant("# staff") is None
    file.write_text("new-key\n")
    assert keys.tenant("old") is None
    assert keys.tenant("new-key")
    file.write_bytes(b"\xef\xbb\xbfwindows-key\r\nnew-key\r\n")
    assert keys.tenant("windows-key")
    file.write_text("sch\u00f6n\n")  # a key that no client can send
    assert keys.tenant("new-key")
    file.unlink()
    assert keys.tenant("new-key")  # an operator's mistake must lock no client out
    assert "keeping the previous keys" in caplog.text
    file.write_text("")
    assert keys.tenant("new-key") is None
    assert keys.required


def test_unusable_key_file_stops_start(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="cannot read"):
        ApiKeys((), tmp_path / "absent")
    (tmp_path / "empty").write_text("# nothing\n")
    with pytest.raises(KeyFileError, match="must hold at least one API key"):
        ApiKeys((), tmp_path / "empty")
    (tmp_path / "binary").write_bytes(os.urandom(8) + b"\xff")
    with pytest.raises(KeyFileError):
        ApiKeys((), tmp_path / "binary")
