"""A busy server: full queues, disconnecting and slow clients."""

import asyncio
import concurrent.futures
import statistics
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from benchmarks.live import probe_health

from .live import LiveServer, request_under_way
from .test_metrics import scrape

LONG: dict[str, Any] = {"prompt": "a cat", "size": "512x512", "n": 10, "num_inference_steps": 100}
SMALL: dict[str, Any] = {"prompt": "a cat", "size": "64x64", "num_inference_steps": 1}


def test_disconnect_frees_queue(server: LiveServer, http: httpx.Client) -> None:
    with request_under_way(server.url, "leaver", LONG):
        pass
    server.logged("leaver POST /v1/images/generations 499")
    assert http.post("/v1/images/generations", json={**SMALL, "n": 10}).status_code == 200  # the queue is empty again


@pytest.mark.parametrize("stream", [False, True])
def test_disconnect_costs_at_most_two_steps(server: LiveServer, http: httpx.Client, stream: bool) -> None:
    """The step that is running, and one that was scheduled before the disconnect was noticed."""

    def read(name: str, **labels: str) -> float:
        return scrape(http).get((name, tuple(labels.items())), 0.0)

    def denoised() -> float:
        return read("sana_step_seconds_count", phase="denoise")

    steps, generated, cancelled = denoised(), read("sana_images_total"), read("sana_cancelled_total")
    with request_under_way(server.url, f"quitter-{stream}", {**LONG, "n": 1, "stream": stream, "partial_images": 3}):
        await_true(lambda: denoised() >= steps + 3)
        assert read("sana_running_images") == 1
        steps = denoised()
    await_true(lambda: read("sana_cancelled_total") == cancelled + 1)
    assert (read("sana_running_images"), read("sana_queued_images"), read("sana_queue_seconds")) == (0, 0, 0)
    time.sleep(1.5)  # the time of many steps
    assert denoised() <= steps + 2
    assert read("sana_images_total") == generated
    assert read("sana_wasted_device_seconds_total") > 0


def await_true(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_full_queue_gets_429_with_retry_after(server: LiveServer, http: httpx.Client) -> None:
    with request_under_way(server.url, "filler", LONG):
        refused = http.post("/v1/images/generations", json=SMALL)
        health = http.get("/health")
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) > 0
    error = refused.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("rate_limit_error", "rate_limit_exceeded", None)
    assert health.status_code == 200
    server.logged("filler POST /v1/images/generations 499")


async def read_stream(client: httpx.AsyncClient, seed: int) -> str:
    """The `event:` line of the last event."""
    body = {**SMALL, "num_inference_steps": 4, "stream": True, "seed": seed}
    async with client.stream("POST", "/v1/images/generations", json=body) as response:
        assert response.status_code == 200
        return [line async for line in response.aiter_lines() if line.startswith("event: ")][-1]


def test_hundred_streams_keep_health_responsive(roomy_server: LiveServer) -> None:
    """The bound is on the median, since the tail depends on the machine's other work (benchmarks/http_overhead.py)."""

    async def run(url: str) -> list[str]:
        async with httpx.AsyncClient(base_url=url, timeout=300, limits=httpx.Limits(max_connections=100)) as client:
            return await asyncio.gather(*(read_stream(client, seed) for seed in range(100)))

    with probe_health(roomy_server.url) as idle:
        time.sleep(1)
    with probe_health(roomy_server.url) as busy:
        ends = asyncio.run(run(roomy_server.url))
    assert ends == ["event: image_generation.completed"] * 100
    assert statistics.median(busy) < max(0.02, 5 * statistics.median(idle))


def test_slow_reader_blocks_no_other_request(server: LiveServer, http: httpx.Client) -> None:
    body = {"prompt": "a cat", "size": "512x512", "num_inference_steps": 1, "n": 2, "stream": True}
    with request_under_way(server.url, "slow-reader", body):
        started = time.monotonic()
        assert http.post("/v1/images/generations", json=SMALL).status_code == 200
        assert http.get("/health").status_code == 200
        assert time.monotonic() - started < 30


def test_same_request_id_twice_accepted(http: httpx.Client) -> None:
    def post(seed: int) -> int:
        answer = http.post("/v1/images/generations", json={**SMALL, "seed": seed}, headers={"x-request-id": "twin"})
        assert answer.status_code == 200, answer.text
        return int(answer.json()["data"][0]["seed"])

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(post, range(4))) == [0, 1, 2, 3]
