"""What HTTP adds to the engine: the same images from EngineClient and from `sana serve`, in turn.

    python -m benchmarks.http_overhead --images 30 --streams 100

Then concurrent streams, with /health probed every 10 ms meanwhile.
"""

import argparse
import asyncio
import base64
import contextlib
import time
from collections.abc import Sequence

import httpx2

from engine import EngineClient, EngineConfig, Finished, GenerationParams
from server.bench import percentile

from .arguments import make_parser, parse
from .live import probe_health, serve

WARM_UP = 3


async def generate_in_engine(engine: EngineClient, px: int, steps: int, seed: int) -> float:
    """Seconds until the image is there."""
    started = time.perf_counter()
    params = GenerationParams("a red circle", px, px, steps, 4.5, seed)
    async with contextlib.aclosing(engine.generate(params)) as events:
        images = [event.image async for event in events if isinstance(event, Finished)]
    assert len(images) == 1
    return time.perf_counter() - started


async def generate_over_http(client: httpx2.AsyncClient, px: int, steps: int, seed: int) -> float:
    """Seconds until the image is there, decoded from base64."""
    started = time.perf_counter()
    body = {"prompt": "a red circle", "size": f"{px}x{px}", "num_inference_steps": steps, "seed": seed}
    response = (await client.post("/v1/images/generations", json=body)).json()
    base64.b64decode(response["data"][0]["b64_json"])
    return time.perf_counter() - started


async def stream(client: httpx2.AsyncClient, px: int, steps: int, seed: int) -> float:
    """Seconds until the last event of a stream."""
    started = time.perf_counter()
    body = {"prompt": "a red circle", "size": f"{px}x{px}", "num_inference_steps": steps, "seed": seed}
    async with client.stream("POST", "/v1/images/generations", json={**body, "stream": True}) as response:
        text = b"".join([chunk async for chunk in response.aiter_bytes()])
    assert b"event: image_generation.completed" in text, text[:300]
    return time.perf_counter() - started


def summary(seconds: Sequence[float]) -> str:
    p50, p99 = (1000 * percentile(list(seconds), share) for share in (50, 99))
    return f"p50 {p50:8.1f} ms   p99 {p99:8.1f} ms   of {len(seconds)}"


async def measure(url: str, args: argparse.Namespace) -> None:
    px, steps = args.px, args.steps
    engine = EngineClient(EngineConfig(device="cpu"))
    await engine.start()
    in_engine, over_http = [], []
    async with httpx2.AsyncClient(base_url=url, timeout=600, limits=httpx2.Limits(max_connections=None)) as client:
        for seed in range(WARM_UP + args.images):
            in_engine.append(await generate_in_engine(engine, px, steps, seed))
            over_http.append(await generate_over_http(client, px, steps, seed))
        await engine.stop()
        differences = [http - direct for http, direct in zip(over_http, in_engine, strict=True)]
        print(f"{px}x{px} px, {steps} steps, demo model on the CPU, one image at a time, in turn")
        print(f"engine alone      {summary(in_engine[WARM_UP:])}")
        print(f"over HTTP         {summary(over_http[WARM_UP:])}")
        print(f"added per image   {summary(differences[WARM_UP:])}")
        with probe_health(url) as health:
            seconds = await asyncio.gather(*(stream(client, px, steps, seed) for seed in range(args.streams)))
        print(f"{args.streams} streams       {summary(seconds)}")
        print(f"/health meanwhile {summary(health)}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("http_overhead", __doc__)
    parser.add_argument("--images", type=int, default=30, help="images in either way (default: %(default)s)")
    parser.add_argument("--px", type=int, default=256, help="side of an image in pixels (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=4, help="denoising steps per image (default: %(default)s)")
    parser.add_argument("--streams", type=int, default=100, help="concurrent streams (default: %(default)s)")
    args = parse(parser, argv, images=1, px=64, steps=1, streams=2)
    with serve("--max-queue-seconds", "600") as server:
        asyncio.run(measure(server.url, args))


if __name__ == "__main__":
    main()
