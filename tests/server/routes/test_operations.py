"""/health, /ready and /metrics, and responses while no engine is ready."""

import asyncio
import os
import signal

import httpx
import pytest

from benchmarks.live import Server
from engine import EngineConfig
from server.app import create_app
from server.settings import ServerConfig

from ..live import LiveServer
from ..test_metrics import parse


def asgi_client(app: object) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test", timeout=60)  # type: ignore[arg-type]


def check_unavailable(response: httpx.Response) -> None:
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0
    assert response.json()["error"]["type"] == "server_error"


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/ready"), ("GET", "/v1/models"), ("POST", "/v1/images/generations")]
)
def test_routes_get_503_while_loading(method: str, path: str) -> None:
    async def check() -> None:
        async with asgi_client(create_app(ServerConfig(EngineConfig()))) as client:  # without lifespan it never loads
            check_unavailable(await client.request(method, path, json={"prompt": "a cat"}))

    asyncio.run(check())


def test_killed_engine_restarts_and_finishes_requests(
    roomy_server: LiveServer,
) -> None:
    async def check() -> None:
        async with httpx.AsyncClient(base_url=roomy_server.url, timeout=60) as client:

            async def read(name: str) -> float:
                return parse((await client.get("/metrics")).text)[(name, ())]

            restarts = await read("sana_engine_restarts_total")
            body = {"prompt": "a cat", "num_inference_steps": 100}
            generating = asyncio.create_task(client.post("/v1/images/generations", json=body))
            while not await read("sana_running_images"):
                await asyncio.sleep(0.01)
            os.kill(Server(roomy_server.url, roomy_server.process.pid).engines()[0], signal.SIGKILL)
            while (await client.get("/ready")).status_code == 200:
                await asyncio.sleep(0.01)
            check_unavailable(await client.get("/ready"))
            assert (await client.get("/health")).status_code == 200
            assert (await generating).status_code == 200
            assert await read("sana_engine_restarts_total") == restarts + 1

    asyncio.run(check())


def test_health_and_ready_when_loaded(http: httpx.Client) -> None:
    model = http.get("/v1/models").json()["data"][0]["id"]
    assert http.get("/health").json() == {"status": "ok"}
    assert http.get("/ready").json() == {"status": "ready", "model": model}


def test_health_is_200_while_loading() -> None:
    async def check() -> None:
        async with asgi_client(create_app(ServerConfig(EngineConfig()))) as client:
            assert (await client.get("/health")).status_code == 200

    asyncio.run(check())
