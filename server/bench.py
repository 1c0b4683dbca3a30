"""`sana bench URL`: throughput and latency of a running server, measured by a client."""

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx2
from tqdm import tqdm

from engine import SanaError

from .urls import server_url

TIMEOUT_SECONDS = 600.0


@dataclass
class Results:
    """Seconds of the successful requests, and the reasons of the failed ones."""

    seconds: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)  # seconds until the first preview
    failed: Counter[str] = field(default_factory=Counter)


async def measure(args: argparse.Namespace) -> int:
    """Sends the requests and prints a table. Returns the exit status: 1 if a request failed."""
    if args.requests < 1 or args.concurrency < 1:
        raise SanaError(f"--requests and --concurrency must be at least 1, got {args.requests} and {args.concurrency}")
    body = {"prompt": args.prompt, "size": args.size, "num_inference_steps": args.num_inference_steps}
    if args.stream:
        body |= {"stream": True, "partial_images": 3}
    headers = {"authorization": f"Bearer {args.api_key}"} if args.api_key else {}
    limits = httpx2.Limits(max_connections=args.concurrency)
    results = Results()
    seeds = iter(range(args.requests))
    url = server_url(args.url)
    async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=TIMEOUT_SECONDS, limits=limits) as client:
        started = time.perf_counter()
        with tqdm(total=args.requests, unit="image", file=sys.stderr, dynamic_ncols=True) as bar:

            async def send_remaining() -> None:
                for seed in seeds:  # one iterator for all tasks
                    await send(client, {**body, "seed": seed}, results)
                    bar.update()

            await asyncio.gather(*(send_remaining() for _ in range(args.concurrency)))
        elapsed = time.perf_counter() - started
    print(report(results, elapsed, args))
    return 1 if results.failed else 0


async def send(client: httpx2.AsyncClient, body: dict[str, Any], results: Results) -> None:
    started = time.perf_counter()
    first = None
    try:
        async with client.stream("POST", "/v1/images/generations", json=body) as response:
            if response.status_code != 200:
                message = json.loads(await response.aread())["error"]["message"]
                results.failed[f"{response.status_code} {message}"[:100]] += 1
                return
            tail = b""
            async for chunk in response.aiter_bytes():
                if first is None and b"image_generation.partial_image" in chunk:
                    first = time.perf_counter() - started
                tail = (tail + chunk)[-400:]
            if b'"error"' in tail:
                results.failed["error inside the stream"] += 1
                return
    except (httpx2.HTTPError, ValueError, KeyError) as error:
        results.failed[f"{type(error).__name__} {error}"[:100]] += 1
        return
    results.seconds.append(time.perf_counter() - started)
    if first is not None:
        results.first.append(first)


def report(results: Results, elapsed: float, args: argparse.Namespace) -> str:
    """The figures, with the settings they were measured with."""
    steps = "of the model" if args.num_inference_steps is None else args.num_inference_steps
    done = len(results.seconds)
    lines = [f"{args.url}: size {args.size}, steps {steps}, {args.requests} requests, {args.concurrency} concurrent"]
    lines.append(f"images/s     {done / elapsed:.2f} ({done} in {elapsed:.1f} s)")
    for name, seconds in (("latency", results.seconds), ("first image", results.first)):
        if seconds:
            shown = ", ".join(f"p{share} {percentile(seconds, share):.3f}" for share in (50, 95, 99))
            lines.append(f"{name:12} {shown} s")
    lines += [f"failed       {count} x {reason}" for reason, count in results.failed.most_common()]
    return "\n".join(lines)


def percentile(values: list[float], share: int) -> float:
    """The smallest value that at least `share` per cent of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(-(-len(ordered) * share // 100) - 1, 0)]
