"""Real processes, real HTTP: concurrent requests that differ in every field, and a killed engine process."""

import asyncio
import base64
import io
import json
import os
import random
import signal
import time
from typing import Any

import httpx
import numpy as np
from PIL import Image

from benchmarks.live import Server

from .live import LiveServer

SECONDS = 300.0


def body(i: int) -> dict[str, Any]:
    """Body of request number i."""
    rng = random.Random(i)
    return {
        "prompt": rng.choice(["a red circle", "a blue square left of a green triangle", "two yellow squares"]),
        "size": f"{rng.choice((64, 128, 192, 256))}x{rng.choice((64, 128, 192))}",
        "num_inference_steps": rng.randint(2, 6),
        "guidance_scale": rng.choice((1.0, 4.5, 7.0)),
        "negative_prompt": rng.choice(("", "", "red")),
        "n": rng.choice((1, 1, 1, 2)),
        "seed": 100 * i,
    }


def images(answer: httpx.Response) -> list[np.ndarray]:
    assert answer.status_code == 200, answer.text
    files = [base64.b64decode(entry["b64_json"]) for entry in answer.json()["data"]]
    return [np.asarray(Image.open(io.BytesIO(file))).astype(int) for file in files]


async def post(client: httpx.AsyncClient, request: dict[str, Any]) -> httpx.Response:
    return await client.post("/v1/images/generations", json=request)


def test_batched_images_equal_single_images(roomy_server: LiveServer) -> None:
    async def main() -> None:
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(base_url=roomy_server.url, timeout=SECONDS, limits=limits) as client:
            batched = await asyncio.gather(*(post(client, body(i)) for i in range(64)))
            for i, answer in enumerate(batched):
                alone = images(await post(client, body(i)))
                together = images(answer)
                assert len(together) == body(i)["n"]
                for one, other in zip(together, alone, strict=True):
                    assert np.abs(one - other).max() <= 1

    asyncio.run(main())


def test_short_request_finishes_before_long(roomy_server: LiveServer) -> None:
    async def main() -> None:
        async with httpx.AsyncClient(base_url=roomy_server.url, timeout=SECONDS) as client:
            long = {"prompt": "a red circle", "size": "256x256", "num_inference_steps": 20, "seed": 1}
            running = [asyncio.create_task(post(client, long)) for _ in range(3)]
            await asyncio.sleep(0.3)
            await post(client, {**long, "num_inference_steps": 5})
            assert not any(task.done() for task in running)
            await asyncio.gather(*running)

    asyncio.run(main())


def test_chaos_fails_only_poison_request(roomy_server: LiveServer) -> None:
    """The engine process is killed at a random moment, clients disconnect, one prompt kills the process each time."""
    rng = random.Random(0)

    async def disturbed(client: httpx.AsyncClient, i: int) -> httpx.Response | None:
        await asyncio.sleep(rng.uniform(0, 8))
        task = asyncio.create_task(post(client, body(i)))
        if i % 5 == 0:  # a client that disconnects
            await asyncio.sleep(rng.uniform(0, 3))
            task.cancel()
            await asyncio.wait([task])
            return None
        return await task

    async def kill() -> None:
        await asyncio.sleep(rng.uniform(1, 4))
        engines = Server(roomy_server.url, roomy_server.process.pid).engines()
        os.kill(engines[0], signal.SIGKILL)

    async def main() -> None:
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(base_url=roomy_server.url, timeout=SECONDS, limits=limits) as client:
            answers, _ = await asyncio.gather(asyncio.gather(*(disturbed(client, i) for i in range(40))), kill())
            kept = [answer for answer in answers if answer is not None]
            assert [answer.status_code for answer in kept] == [200] * 32
            for i, answer in enumerate(answers):
                if answer is not None and i % 7 == 1:
                    for one, other in zip(images(answer), images(await post(client, body(i))), strict=True):
                        assert np.abs(one - other).max() <= 1

            poison = asyncio.create_task(post(client, {"prompt": "poison", "size": "64x64"}))
            bystanders = [asyncio.create_task(post(client, body(i))) for i in range(4)]
            failed = await poison
            assert failed.status_code == 500
            assert failed.json()["error"]["type"] == "server_error"
            assert "ended 2 times" in failed.json()["error"]["message"]
            assert [(await task).status_code for task in bystanders] == [200] * 4
            started = time.monotonic()
            assert json.loads((await client.get("/health")).text)["status"] == "ok"
            assert time.monotonic() - started < 1

    asyncio.run(main())
