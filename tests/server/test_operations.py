"""/health, /ready and /metrics, and what is answered before an engine is there."""

import asyncio
import os
import signal

import httpx
import pytest

from engine import EngineClient, EngineConfig
from server.app import create_app
from server.config import ServerConfig

from .conftest import MODEL


def asgi_client(app: object) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test", timeout=60)  # type: ignore[arg-type]


def check_unavailable(response: httpx.Response) -> None:
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0
    assert response.json()["error"]["type"] == "server_error"


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/ready"), ("GET", "/v1/models"), ("POST", "/v1/images/generations")]
)
def test_503_while_the_model_loads(method: str, path: str) -> None:
    async def check() -> None:
        async with asgi_client(create_app(ServerConfig(EngineConfig()))) as client:  # no lifespan: it never loads
            check_unavailable(await client.request(method, path, json={"prompt": "a cat"}))

    asyncio.run(check())


def test_503_when_the_engine_was_killed() -> None:
    async def check() -> None:
        app = create_app(ServerConfig(EngineConfig(model=MODEL, device="cpu")))
        async with app.router.lifespan_context(app), asgi_client(app) as client:
            engine: EngineClient = app.state.engine
            while (await client.get("/health")).status_code == 503:
                await asyncio.sleep(0.05)
            assert engine.alive
            long = {"prompt": "a cat", "n": 10, "num_inference_steps": 100}
            drawing = asyncio.create_task(client.post("/v1/images/generations", json=long))
            while not engine.queued_images:
                await asyncio.sleep(0.01)
            assert engine._process is not None
            os.kill(engine._process.pid or 0, signal.SIGKILL)
            check_unavailable(await drawing)
            check_unavailable(await client.get("/health"))
            check_unavailable(await client.post("/v1/images/generations", json={"prompt": "a cat"}))

    asyncio.run(check())


def test_health_is_alive_and_ready_names_the_model(http: httpx.Client) -> None:
    model = http.get("/v1/models").json()["data"][0]["id"]
    assert http.get("/health").json() == {"status": "ok"}
    assert http.get("/ready").json() == {"status": "ready", "model": model}


def test_health_lives_while_the_model_loads() -> None:
    async def check() -> None:
        async with asgi_client(create_app(ServerConfig(EngineConfig()))) as client:
            assert (await client.get("/health")).status_code == 200

    asyncio.run(check())
