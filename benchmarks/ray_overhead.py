"""What Ray Serve adds: the same images from `sana serve` and from Ray, in turn. Needs the extra `ray`.

    python -m benchmarks.ray_overhead --images 100

Then the throughput of one engine replica beside that of two, each with one thread.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import httpx2

from .arguments import make_parser, parse
from .http_overhead import WARM_UP, generate_over_http, summary
from .live import serve
from .ray_live import RayApplication, demo_config, serve_on_ray

SECONDS = 600.0
TARGET_MS, TARGET_RATIO = 8.0, 1.6


async def added_latency(plain: str, ray: str, args: argparse.Namespace) -> None:
    seconds: dict[str, list[float]] = {plain: [], ray: []}
    async with httpx2.AsyncClient(timeout=SECONDS) as client:
        for seed in range(WARM_UP + args.images):
            for url, times in seconds.items():
                client.base_url = httpx2.URL(url)
                times.append(await generate_over_http(client, args.px, args.steps, seed))
    for name, url in (("sana serve", plain), ("Ray Serve", ray)):
        print(f"{name:17} {summary(seconds[url][WARM_UP:])}")
    added = [on_ray - alone for alone, on_ray in zip(seconds[plain], seconds[ray], strict=True)]
    print(f"added per image   {summary(added[WARM_UP:])} (target of p50: below {TARGET_MS:g} ms)", flush=True)


async def images_per_second(application: RayApplication, args: argparse.Namespace) -> float:
    """Rate of a closed loop of concurrent clients."""
    left = iter(range(WARM_UP))
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=application.url, timeout=SECONDS, limits=limits) as client:

        async def ask() -> None:
            for seed in left:
                await generate_over_http(client, args.px, args.steps, seed)

        await asyncio.gather(*(ask() for _ in range(WARM_UP)))
        started = time.perf_counter()
        left = iter(range(args.requests))
        await asyncio.gather(*(ask() for _ in range(args.concurrency)))
        return args.requests / (time.perf_counter() - started)


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser("ray_overhead", __doc__)
    parser.add_argument("--images", type=int, default=100, help="images in either way (default: %(default)s)")
    parser.add_argument("--requests", type=int, default=60, help="requests of the throughput (default: %(default)s)")
    parser.add_argument("--concurrency", type=int, default=8, help="clients of the throughput (default: %(default)s)")
    parser.add_argument("--px", type=int, default=256, help="side of an image in pixels (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=4, help="denoising steps per image (default: %(default)s)")
    args = parse(parser, argv, images=1, requests=2, concurrency=1, px=64, steps=1)
    rates = []
    with tempfile.TemporaryDirectory() as folder, serve_on_ray(demo_config(Path(folder), 1), Path(folder)) as ray:
        ray.wait_for(1)
        with serve("--max-queue-seconds", "600") as plain:
            asyncio.run(added_latency(plain.url, ray.url, args))
        for replicas in (1, 2):
            ray.engine["num_replicas"] = replicas
            ray.deploy()
            ray.wait_for(replicas)
            rates.append(asyncio.run(images_per_second(ray, args)))
    print(f"1 replica {rates[0]:6.2f} images/s, 2 replicas {rates[1]:6.2f} images/s")
    print(f"ratio {rates[1] / rates[0]:.2f} (target: at least {TARGET_RATIO:g})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
