"""Latency of small images while a server generates large ones without end, and whether the large ones advance.

python -m benchmarks.beside_large --large 1024
"""

import argparse
import asyncio
import time
from collections.abc import Sequence

import httpx2

from server.bench import percentile

from .arguments import make_parser, parse
from .live import serve

WARM_UP = 3


async def generate(client: httpx2.AsyncClient, px: int, steps: int, seed: int) -> float:
    """Seconds until the response with the image has arrived."""
    started = time.perf_counter()
    body = {"prompt": "a red circle", "size": f"{px}x{px}", "num_inference_steps": steps, "seed": seed}
    response = await client.post("/v1/images/generations", json=body)
    response.raise_for_status()
    return time.perf_counter() - started


async def generate_in_turn(client: httpx2.AsyncClient, px: int, steps: int, count: int) -> list[float]:
    return [await generate(client, px, steps, seed) for seed in range(count)]


async def generate_forever(client: httpx2.AsyncClient, px: int, steps: int, seconds: list[float]) -> None:
    while True:
        seconds.append(await generate(client, px, steps, len(seconds)))


async def measure(url: str, args: argparse.Namespace) -> None:
    small, large, steps, count = args.small, args.large, args.steps, args.images
    async with httpx2.AsyncClient(base_url=url, timeout=600) as client:
        await generate_in_turn(client, small, steps, WARM_UP)
        alone = await generate_in_turn(client, small, steps, count)
        (large_alone,) = await generate_in_turn(client, large, steps, 1)
        finished: list[float] = []
        streams = [asyncio.create_task(generate_forever(client, large, steps, finished)) for _ in range(args.streams)]
        await asyncio.sleep(1)
        started = time.perf_counter()
        beside = await generate_in_turn(client, small, steps, count)
        elapsed = time.perf_counter() - started
        for stream in streams:
            stream.cancel()
    p95 = [percentile(seconds, 95) for seconds in (alone, beside)]
    print(f"demo model on the CPU, {steps} steps; seconds per image, of {count} images of {small} px each")
    print(f"{small} px alone             p50 {percentile(alone, 50):.2f} s, p95 {p95[0]:.2f} s")
    print(f"beside {args.streams} x {large} px      p50 {percentile(beside, 50):.2f} s, p95 {p95[1]:.2f} s")
    print(f"ratio of p95             {p95[1] / p95[0]:.2f} (target: at most 2)")
    print(
        f"{large} px meanwhile       {len(finished)} finished in {elapsed:.0f} s; alone one takes {large_alone:.2f} s"
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("beside_large", __doc__)
    parser.add_argument("--small", type=int, default=256, help="side of small images in pixels (default: %(default)s)")
    parser.add_argument("--large", type=int, default=512, help="side of large images in pixels (default: %(default)s)")
    parser.add_argument("--streams", type=int, default=1, help="concurrent large images (default: %(default)s)")
    parser.add_argument("--images", type=int, default=40, help="number of small images (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="denoising steps per image (default: %(default)s)")
    args = parse(parser, argv, small=64, large=128, images=2, steps=1)
    with serve("--max-queue-seconds", "600") as server:
        asyncio.run(measure(server.url, args))


if __name__ == "__main__":
    main()
