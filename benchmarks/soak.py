"""Minutes of overload: does memory stay flat, does /health answer, are requests refused in time?

python -m benchmarks.soak --minutes 10
"""

import asyncio
import statistics
from collections.abc import Sequence

from server.bench import percentile

from .arguments import make_parser, parse
from .live import probe_health, sample_memory, serve
from .serving import arrivals, load, percentiles, report

BURST = 24
"""Simultaneous requests that measure the server's capacity."""
SETTLING = 0.2
"""Share of the time after which memory should have settled: by then the queue is full and the caches are warm."""


async def capacity(url: str, sizes: list[str], steps: int) -> float:
    """Requests per second while one is always waiting."""
    trace = [(0.0, body) for _, body in arrivals(BURST, 10.0, sizes, steps, seed=1)[:BURST]]
    outcome, seconds = await load(url, trace)
    return len(outcome.latencies) / seconds


def memory_report(memory: list[int]) -> str:
    """Median, range and trend of the resident memory after settling; `memory` is in bytes, one sample a second."""
    settled = memory[int(SETTLING * len(memory)) :]
    middle = statistics.median(settled)
    low, high = min(settled) / middle - 1, max(settled) / middle - 1
    last = statistics.median(memory[-max(1, len(memory) // 10) :]) / middle - 1
    flat = "yes" if low >= -0.05 and high <= 0.05 else "NO"
    return (
        f"memory      {middle / 2**20:.0f} MiB resident after the first {SETTLING:.0%}, {low:+.1%} to {high:+.1%}, "
        f"last tenth {last:+.1%}; flat within 5 %: {flat}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("soak", __doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="duration of the arrivals (default: %(default)s)")
    times_help = "arrival rate as a multiple of the server's measured capacity (default: %(default)s)"
    parser.add_argument("--times", type=float, default=3.0, help=times_help)
    sizes_help = "WIDTHxHEIGHT in pixels, chosen uniformly (default: %(default)s)"
    parser.add_argument("--sizes", default="128x128,256x256,256x256,512x512", help=sizes_help)
    parser.add_argument("--steps", type=int, default=20, help="denoising steps per image (default: %(default)s)")
    args = parse(parser, argv, minutes=0.03, sizes="64x64", steps=1)
    sizes = args.sizes.split(",")
    with serve() as server:
        best = asyncio.run(capacity(server.url, sizes, args.steps))
        trace = arrivals(args.times * best, 60 * args.minutes, sizes, args.steps, seed=2)
        print(f"capacity    {best:.2f} requests/s; {len(trace)} follow in {args.minutes:g} minutes", flush=True)
        with probe_health(server.url) as health, sample_memory(server) as memory:
            outcome, seconds = asyncio.run(load(server.url, trace))
        print(report(outcome, len(trace), seconds))
        fast = "yes" if percentile(health, 99) < 0.02 else "NO"
        print(f"/health     {percentiles(health)} of {len(health)}; p99 under 20 ms: {fast}")
        print(memory_report(memory))


if __name__ == "__main__":
    main()
