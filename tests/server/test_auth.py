"""Keys, guesses and rates over HTTP. The engine is never started: what passes is answered 503."""

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


def ask(check: Check, **settings: Any) -> None:
    async def run() -> None:
        async with asgi_client(create_app(ServerConfig(EngineConfig(), **settings))) as client:
            await check(client)

    asyncio.run(run())


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def test_without_keys_everybody_may_ask_with_any_or_none() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        for headers in ({}, bearer("any"), {"authorization": "Basic eDp5"}):
            assert (await client.get("/v1/models", headers=headers)).status_code == 503

    ask(check)


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
def test_other_keys_are_401(headers: Any, code: str | None, caplog: pytest.LogCaptureFixture) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        for method, path in (("GET", "/v1/models"), ("POST", "/v1/images/generations")):
            response = await client.request(method, path, headers=headers)
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
            error = response.json()["error"]
            assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", code, None)
            assert "sk-" not in response.text

    ask(check, api_keys=(KEY,))
    assert "sk-" not in caplog.text


def test_the_right_key_passes_however_the_scheme_is_spelt() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        for scheme in ("Bearer", "bearer", "BEARER "):
            response = await client.get("/v1/models", headers={"authorization": f"{scheme} {KEY}"})
            assert response.status_code == 503

    ask(check, api_keys=("other", KEY))


def test_what_operators_and_browsers_ask_needs_no_key() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        for path, status in (("/health", 200), ("/ready", 503), ("/metrics", 200), ("/", 200)):
            assert (await client.get(path)).status_code == status

    ask(check, api_keys=(KEY,))


def test_guessing_is_429_even_with_the_right_key_in_the_end() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        statuses = [(await client.get("/v1/models", headers=bearer(f"guess-{k}"))).status_code for k in range(20)]
        assert statuses == [401] * GUESSES + [429] * (20 - GUESSES)
        refused = await client.get("/v1/models", headers=bearer(KEY))
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.json()["error"]["type"] == "rate_limit_error"

    ask(check, api_keys=(KEY,))


def test_a_missing_key_is_no_guess() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        for _ in range(2 * GUESSES):
            assert (await client.get("/v1/models")).status_code == 401

    ask(check, api_keys=(KEY,))


def test_the_rate_of_a_key_is_limited_and_told() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        answers = [await client.post("/v1/images/generations", json=BODY, headers=bearer("a")) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [503, 503, 503, 429]
        assert [answer.headers.get("x-ratelimit-remaining-requests") for answer in answers[:3]] == ["2", "1", "0"]
        assert answers[0].headers["x-ratelimit-limit-requests"] == "3"
        assert answers[0].headers["x-ratelimit-reset-requests"].endswith("s")
        assert int(answers[3].headers["retry-after"]) >= 1
        other = await client.post("/v1/images/generations", json=BODY, headers=bearer("b"))
        assert other.status_code == 503
        assert (await client.get("/v1/models", headers=bearer("a"))).status_code == 503  # costs no device

    ask(check, api_keys=("a", "b"), rate_limit=3)


def test_without_keys_the_address_is_limited() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        answers = [await client.post("/v1/images/generations", json=BODY) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [503, 429]

    ask(check, rate_limit=1)


def test_cors_is_off_unless_a_page_is_named() -> None:
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
        answer = await client.get("/health", headers={"origin": "https://page.example"})
        exposed = answer.headers["access-control-expose-headers"]
        assert all(name in exposed for name in ("x-request-id", "x-ignored-params", "x-ratelimit-remaining-requests"))
        for asked in ({"origin": "https://other.example"}, {"access-control-request-method": "DELETE"}):
            refused = await client.options("/v1/images/generations", headers={**preflight, **asked})
            assert (refused.status_code, refused.headers["content-type"]) == (400, "application/json")
            assert refused.headers["x-request-id"]
            assert set(refused.json()["error"]) == {"message", "type", "param", "code"}

    ask(off)
    ask(on, cors_origins=("https://page.example",))


def test_tenants_are_hashes(tmp_path: Path) -> None:
    keys = ApiKeys(("a", "b"), None)
    tenants = {keys.tenant("a"), keys.tenant("b")}
    assert len(tenants) == 2
    assert all(tenant and len(tenant) == 16 and int(tenant, 16) for tenant in tenants)
    assert keys.tenant("c") is None
    assert "a-secret" not in repr(ServerConfig(EngineConfig(), api_keys=("a-secret",)))


def test_the_key_file_is_read_again_when_it_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "keys"
    file.write_text("# staff\nold\n\n")
    keys = ApiKeys((), file)
    assert keys.tenant("old")
    assert keys.tenant("# staff") is None
    file.write_text("new-key\n")
    assert keys.tenant("old") is None
    assert keys.tenant("new-key")
    file.unlink()
    assert keys.tenant("new-key")  # a fault of the operator locks nobody out
    assert "old ones stay" in caplog.text
    file.write_text("")
    assert keys.tenant("new-key") is None
    assert keys.required


def test_a_key_file_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="cannot be read"):
        ApiKeys((), tmp_path / "absent")
    (tmp_path / "empty").write_text("# nothing\n")
    with pytest.raises(KeyFileError, match="holds no API key"):
        ApiKeys((), tmp_path / "empty")
    (tmp_path / "binary").write_bytes(os.urandom(8) + b"\xff")
    with pytest.raises(KeyFileError):
        ApiKeys((), tmp_path / "binary")
