"""/health through the life of an engine, in this process: before, during, and after it was killed."""

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
    ("method", "path"), [("GET", "/health"), ("GET", "/v1/models"), ("POST", "/v1/images/generations")]
)
def test_503_while_the_model_loads(method: str, path: str) -> None:
    async def check() -> None:
        async with asgi_client(create_app(ServerConfig(EngineConfig()))) as client:  # no lifespan: it never loads
            check_unavailable(await client.request(method, path, json={"prompt": "a cat"}))

    asyncio.run(check())


def test_a_killed_engine_is_503_for_seconds_and_its_pictures_are_only_late() -> None:
    async def check() -> None:
        app = create_app(ServerConfig(EngineConfig(model=MODEL, device="cpu")))
        async with app.router.lifespan_context(app), asgi_client(app) as client:
            engine: EngineClient = app.state.engine
            while (await client.get("/health")).status_code == 503:
                await asyncio.sleep(0.05)
            body = {"prompt": "a cat", "n": 2, "num_inference_steps": 10, "size": "64x64"}
            drawing = asyncio.create_task(client.post("/v1/images/generations", json=body))
            while not engine.stats().running_images:
                await asyncio.sleep(0.01)
            os.kill(engine.pids[0], signal.SIGKILL)
            while engine.ready:
                await asyncio.sleep(0.01)
            check_unavailable(await client.get("/health"))
            assert (await drawing).status_code == 200
            assert (await client.get("/health")).status_code == 200

    asyncio.run(check())


def test_health_names_the_model(http: httpx.Client) -> None:
    model = http.get("/v1/models").json()["data"][0]["id"]
    assert http.get("/health").json() == {"status": "ok", "model": model}
