"""Open-loop load on any OpenAI-compatible server: requests are sent at their arrival times, however slow it answers.

python -m benchmarks.serving http://127.0.0.1:8000 --rate 2 --seconds 60 --sizes 128x128,256x256,512x512
"""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2

from server.bench import percentile

from .arguments import make_parser, parse

TIMEOUT_SECONDS = 600.0
PROMPTS = ("a red circle", "a blue square to the left of a green star", "two yellow hearts", "a pink ring above a box")


@dataclass
class Outcome:
    """What became of the requests; times in seconds."""

    latencies: list[float] = field(default_factory=list)
    first_bytes: list[float] = field(default_factory=list)
    refused: Counter[int] = field(default_factory=Counter)  # by HTTP status
    refusals: list[float] = field(default_factory=list)  # time until a refusal was answered
    broken: Counter[str] = field(default_factory=Counter)  # by exception


def arrivals(
    rate: float, seconds: float, sizes: list[str], steps: int, seed: int
) -> list[tuple[float, dict[str, Any]]]:
    """(moment, body) of a Poisson process of `rate` requests per second, the same for the same seed."""
    rng = random.Random(seed)
    trace: list[tuple[float, dict[str, Any]]] = []
    moment = rng.expovariate(rate)
    while moment < seconds:
        body = {"prompt": rng.choice(PROMPTS), "size": rng.choice(sizes), "seed": len(trace)}
        trace.append((moment, body | {"num_inference_steps": steps, "response_format": "b64_json"}))
        moment += rng.expovariate(rate)
    return trace


async def send(client: httpx2.AsyncClient, body: dict[str, Any], outcome: Outcome) -> None:
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
    """Sends every request at its moment. Returns what became of them and the seconds until the last response."""
    outcome, started = Outcome(), time.perf_counter()
    limits = httpx2.Limits(max_connections=None)
    async with (
        httpx2.AsyncClient(base_url=url, timeout=TIMEOUT_SECONDS, limits=limits) as client,
        asyncio.TaskGroup() as group,
    ):
        for moment, body in trace:
            await asyncio.sleep(max(0.0, started + moment - time.perf_counter()))
            group.create_task(send(client, body, outcome))
    return outcome, time.perf_counter() - started


def percentiles(values: list[float]) -> str:
    return ", ".join(f"p{share} {percentile(values, share):.3f}" for share in (50, 95, 99)) + " s" if values else "none"


def report(outcome: Outcome, requests: int, seconds: float) -> str:
    """One line per figure, each with the number of requests it is of."""
    answered, refused = len(outcome.latencies), len(outcome.refusals)
    return "\n".join(
        (
            f"images/s    {answered / seconds:.2f} ({answered} of {requests} requests answered in {seconds:.1f} s)",
            f"latency     {percentiles(outcome.latencies)}",
            f"first byte  {percentiles(outcome.first_bytes)}",
            f"refused     {refused} {dict(outcome.refused) or ''}, answered in {percentiles(outcome.refusals)}",
            f"broken      {dict(outcome.broken) or 'none'}",
        )
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("serving", __doc__)
    parser.add_argument("url", help="base URL of the server")
    parser.add_argument("--rate", type=float, default=2.0, help="requests per second (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60.0, help="duration of the arrivals (default: %(default)s)")
    sizes_help = "WIDTHxHEIGHT in pixels, chosen uniformly (default: %(default)s)"
    parser.add_argument("--sizes", default="128x128,256x256,256x256,512x512", help=sizes_help)
    parser.add_argument("--steps", type=int, default=20, help="denoising steps per image (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the arrivals (default: %(default)s)")
    args = parse(parser, argv, rate=10.0, seconds=0.5, sizes="64x64", steps=1)
    trace = arrivals(args.rate, args.seconds, args.sizes.split(","), args.steps, args.seed)
    outcome, elapsed = asyncio.run(load(args.url, trace))
    print(f"{args.url}: {len(trace)} arrivals in {args.seconds:g} s, sizes {args.sizes}, {args.steps} steps")
    print(report(outcome, len(trace), elapsed))


if __name__ == "__main__":
    main()
