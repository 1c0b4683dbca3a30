"""Open-loop load on any OpenAI-compatible server: requests arrive when they arrive, whether or not it keeps up.

python -m benchmarks.serving http://127.0.0.1:8000 --rate 2 --seconds 60 --sizes 128x128,256x256,512x512
"""

import argparse
import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx2

from server.bench import percentile

TIMEOUT_SECONDS = 600.0
PROMPTS = ("a red circle", "a blue square to the left of a green star", "two yellow hearts", "a pink ring above a box")


@dataclass
class Outcome:
    """What became of the arrivals. Seconds."""

    latencies: list[float] = field(default_factory=list)
    first_bytes: list[float] = field(default_factory=list)
    refused: Counter[int] = field(default_factory=Counter)
    refusals: list[float] = field(default_factory=list)  # how long a refusal took
    broken: Counter[str] = field(default_factory=Counter)


def arrivals(
    rate: float, seconds: float, sizes: list[str], steps: int, seed: int
) -> list[tuple[float, dict[str, Any]]]:
    """(moment, body) of a Poisson process of `rate` requests per second, the same for the same seed."""
    draw = random.Random(seed)
    moment, trace = draw.expovariate(rate), []
    while moment < seconds:
        body = {"prompt": draw.choice(PROMPTS), "size": draw.choice(sizes), "seed": len(trace)}
        trace.append((moment, body | {"num_inference_steps": steps, "response_format": "b64_json"}))
        moment += draw.expovariate(rate)
    return trace


async def ask(client: httpx2.AsyncClient, body: dict[str, Any], outcome: Outcome) -> None:
    started = time.perf_counter()
    try:
        async with client.stream("POST", "/v1/images/generations", json=body) as response:
            first = time.perf_counter() - started
            content = await response.aread()
    except httpx2.HTTPError as error:
        outcome.broken[type(error).__name__] += 1
        return
    seconds = time.perf_counter() - started
    if response.status_code == httpx2.codes.OK and json.loads(content)["data"]:
        outcome.latencies.append(seconds)
        outcome.first_bytes.append(first)
    else:
        outcome.refused[response.status_code] += 1
        outcome.refusals.append(seconds)


async def load(url: str, trace: list[tuple[float, dict[str, Any]]]) -> tuple[Outcome, float]:
    """Sends every request at its moment; returns what became of them and the seconds until the last answer."""
    outcome, started = Outcome(), time.perf_counter()
    limits = httpx2.Limits(max_connections=None)
    async with (
        httpx2.AsyncClient(base_url=url, timeout=TIMEOUT_SECONDS, limits=limits) as client,
        asyncio.TaskGroup() as group,
    ):
        for moment, body in trace:
            await asyncio.sleep(max(0.0, started + moment - time.perf_counter()))
            group.create_task(ask(client, body, outcome))
    return outcome, time.perf_counter() - started


def percentiles(values: list[float]) -> str:
    return ", ".join(f"p{share} {percentile(values, share):.3f}" for share in (50, 95, 99)) + " s" if values else "none"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--rate", type=float, default=2.0, help="requests per second (%(default)s)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of arrivals (%(default)s)")
    parser.add_argument("--sizes", default="128x128,256x256,256x256,512x512", help="drawn evenly (%(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="denoising steps (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the arrivals (%(default)s)")
    args = parser.parse_args()
    trace = arrivals(args.rate, args.seconds, args.sizes.split(","), args.steps, args.seed)
    outcome, elapsed = asyncio.run(load(args.url, trace))
    print(f"{args.url}: {len(trace)} arrivals in {args.seconds:g} s, sizes {args.sizes}, {args.steps} steps")
    print(f"images/s    {len(outcome.latencies) / elapsed:.2f} ({len(outcome.latencies)} in {elapsed:.1f} s)")
    print(f"latency     {percentiles(outcome.latencies)}")
    print(f"first byte  {percentiles(outcome.first_bytes)}")
    print(f"refused     {dict(outcome.refused)}, answered in {percentiles(outcome.refusals)}")
    if outcome.broken:
        print(f"broken      {dict(outcome.broken)}")


if __name__ == "__main__":
    main()
