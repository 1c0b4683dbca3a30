"""What HTTP adds to the engine: the same pictures asked of EngineClient and of `sana serve`, in turn.

    python -m benchmarks.http_overhead --pictures 30 --streams 100

Then that many streams at once, while /health is asked every 10 ms.
"""

import argparse
import asyncio
import base64
import contextlib
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx2

from engine import EngineClient, EngineConfig, Finished, GenerationParams

from .health import health_asked

SIDE = 256
WARM_UP = 3


@contextlib.contextmanager
def serve() -> Iterator[str]:
    """The URL of a server with the demo model on the CPU."""
    command = [sys.executable, "-m", "server.cli", "serve", "--device", "cpu", "--port", "0", "--log-level", "warning"]
    command += ["--max-queue-seconds", "600"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield re.findall(r"http://\S+", process.stdout.readline())[0]
        process.terminate()


async def draw_alone(engine: EngineClient, seed: int, steps: int) -> float:
    started = time.perf_counter()
    params = GenerationParams("a red circle", SIDE, SIDE, steps, 4.5, seed)
    async with contextlib.aclosing(engine.generate(params)) as events:
        images = [event.image async for event in events if isinstance(event, Finished)]
    assert len(images) == 1
    return time.perf_counter() - started


async def draw_over_http(client: httpx2.AsyncClient, seed: int, steps: int) -> float:
    started = time.perf_counter()
    body = {"prompt": "a red circle", "size": f"{SIDE}x{SIDE}", "num_inference_steps": steps, "seed": seed}
    answer = (await client.post("/v1/images/generations", json=body)).json()
    base64.b64decode(answer["data"][0]["b64_json"])
    return time.perf_counter() - started


async def stream(client: httpx2.AsyncClient, seed: int, steps: int) -> float:
    """Seconds until the last event."""
    started = time.perf_counter()
    body = {"prompt": "a red circle", "size": f"{SIDE}x{SIDE}", "num_inference_steps": steps, "seed": seed}
    async with client.stream("POST", "/v1/images/generations", json={**body, "stream": True}) as response:
        text = b"".join([chunk async for chunk in response.aiter_bytes()])
    assert b"event: image_generation.completed" in text, text[:300]
    return time.perf_counter() - started


def told(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    p50, p99 = statistics.median(ordered), ordered[int(0.99 * (len(ordered) - 1))]
    return f"p50 {1000 * p50:8.1f} ms   p99 {1000 * p99:8.1f} ms   of {len(ordered)}"


async def measure(url: str, arguments: argparse.Namespace) -> None:
    engine = EngineClient(EngineConfig(device="cpu"))
    await engine.start()
    alone, over_http = [], []
    async with httpx2.AsyncClient(base_url=url, timeout=600, limits=httpx2.Limits(max_connections=None)) as client:
        for picture in range(WARM_UP + arguments.pictures):
            alone.append(await draw_alone(engine, picture, arguments.steps))
            over_http.append(await draw_over_http(client, picture, arguments.steps))
        await engine.stop()
        differences = [http - engine for http, engine in zip(over_http, alone, strict=True)][WARM_UP:]
        print(f"{SIDE}x{SIDE}, {arguments.steps} steps, demo model on the CPU, one at a time, in turn")
        print(f"engine alone      {told(alone[WARM_UP:])}")
        print(f"over HTTP         {told(over_http[WARM_UP:])}")
        print(f"pair by pair      {told(differences)}")
        with health_asked(url) as health:
            seconds = await asyncio.gather(*(stream(client, k, arguments.steps) for k in range(arguments.streams)))
        print(f"{arguments.streams} streams       {told(list(seconds))}")
        print(f"/health meanwhile {told(health)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pictures", type=int, default=30, help="of each (%(default)s)")
    parser.add_argument("--steps", type=int, default=4, help="per picture (%(default)s)")
    parser.add_argument("--streams", type=int, default=100, help="at once (%(default)s)")
    arguments = parser.parse_args()
    with serve() as url:
        asyncio.run(measure(url, arguments))


if __name__ == "__main__":
    main()
