"""Batch files: throughput beside that of concurrent requests, and the latency of requests beside a running batch.

    python -m benchmarks.batches --requests 96

Both ways generate the same images with the same engine, in turn; the median of the rounds counts.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import httpx2

from server.bench import percentile

from .arguments import make_parser, parse
from .batch_files import ENDPOINT, bodies, status, submit, wait
from .live import serve

MANY = 3000
"""Lines of the batch beside which latency is measured: more than the demo model can generate meanwhile."""


async def send_all(client: httpx2.AsyncClient, requests: list[dict[str, Any]], concurrency: int) -> float:
    """Seconds for all requests, `concurrency` at a time."""
    waiting = iter(requests)

    async def send() -> None:
        for body in waiting:
            (await client.post(ENDPOINT, json=body)).raise_for_status()

    started = time.perf_counter()
    await asyncio.gather(*(send() for _ in range(concurrency)))
    return time.perf_counter() - started


async def run_batch(client: httpx2.AsyncClient, requests: list[dict[str, Any]]) -> float:
    """Seconds from the request that creates the batch to its end."""
    started = time.perf_counter()
    batch = await wait(client, await submit(client, requests))
    assert batch["request_counts"]["completed"] == len(requests), batch
    return time.perf_counter() - started


async def latencies(client: httpx2.AsyncClient, count: int, px: int, steps: int, pause: float) -> list[float]:
    """Seconds of each of `count` requests, one after the other."""
    seconds = []
    for seed in range(count):
        await asyncio.sleep(pause)
        body = {"prompt": "a red circle", "size": f"{px}x{px}", "num_inference_steps": steps, "seed": seed}
        started = time.perf_counter()
        (await client.post(ENDPOINT, json=body)).raise_for_status()
        seconds.append(time.perf_counter() - started)
    return seconds


async def measure(url: str, args: argparse.Namespace) -> None:
    sides, steps = ([int(part) for part in text.split(",")] for text in (args.px, args.steps))
    requests = bodies(args.requests, sides, steps)
    limits = httpx2.Limits(max_connections=args.concurrency + 2)
    async with httpx2.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        await send_all(client, requests[:4], 2)  # fills the prompt cache for both ways
        pairs = []
        for _ in range(args.rounds):
            pairs.append((await send_all(client, requests, args.concurrency), await run_batch(client, requests)))
        shown = ", ".join(f"{single:.2f} s, {batch:.2f} s" for single, batch in pairs)
        print(f"requests, batch: {shown}", flush=True)
        many = bodies(MANY, sides, steps)
        sides_of = (args.latency_px, max(steps), args.pause)
        await latencies(client, 2, *sides_of)
        alone, beside = [], []
        batch_id = ""
        for _ in range(args.rounds):
            alone += await latencies(client, args.latencies, *sides_of)
            batch_id = await submit(client, many)
            await wait(client, batch_id, ("in_progress",))
            await asyncio.sleep(1)
            beside += await latencies(client, args.latencies, *sides_of)
            generated = (await status(client, batch_id))["request_counts"]["completed"]
            await client.post(f"/v1/batches/{batch_id}/cancel")
            await wait(client, batch_id)
    sent, batched = (sorted(way)[len(pairs) // 2] for way in zip(*pairs, strict=True))
    ratios = ", ".join(f"{single / batch:.2f}" for single, batch in pairs)
    count = len(requests)
    print(f"{count} requests, sides {args.px} px, steps {args.steps}, in {args.rounds} rounds")
    print(f"{args.concurrency} concurrent requests    {count / sent:.2f} images/s")
    print(f"one batch file            {count / batched:.2f} images/s; of the former, by round: {ratios} (target: 0.95)")
    p95 = [percentile(seconds, 95) for seconds in (alone, beside)]
    for name, seconds in (("alone", alone), ("beside a batch", beside)):
        print(
            f"{args.latency_px} px {name:16} p50 {percentile(seconds, 50):.3f} s, p95 {percentile(seconds, 95):.3f} s"
        )
    print(f"ratio of p95              {p95[1] / p95[0]:.2f} (target: at most 1.5)")
    print(f"lines generated meanwhile {generated}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("batches", __doc__)
    parser.add_argument("--requests", type=int, default=96, help="requests per round (default: %(default)s)")
    parser.add_argument("--concurrency", type=int, default=16, help="concurrent requests (default: %(default)s)")
    px_help = "widths and heights in pixels, chosen uniformly (default: %(default)s)"
    parser.add_argument("--px", default="64,128,192,256", help=px_help)
    parser.add_argument("--steps", default="10,14,20", help="denoising steps, chosen uniformly (default: %(default)s)")
    latency_help = "requests per round whose latency is measured (default: %(default)s)"
    parser.add_argument("--latencies", type=int, default=20, help=latency_help)
    parser.add_argument("--latency-px", type=int, default=256, help="their side in pixels (default: %(default)s)")
    pause_help = "seconds before each of them, in which the batch starts again (default: %(default)s)"
    parser.add_argument("--pause", type=float, default=0.2, help=pause_help)
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default: %(default)s)")
    tiny: dict[str, Any] = dict(px="64", steps="1", latencies=2, latency_px=64, rounds=1)
    args = parse(parser, argv, requests=4, concurrency=2, **tiny)
    with (
        tempfile.TemporaryDirectory(prefix="sana-batches-", ignore_cleanup_errors=True) as folder,
        serve("--max-queue-seconds", "600", "--data", folder) as server,
    ):
        asyncio.run(measure(server.url, args))


if __name__ == "__main__":
    main()
