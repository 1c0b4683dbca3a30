"""Minutes of three times more than the server can do: does its memory stay, does it answer, does it refuse in time?

python -m benchmarks.soak --minutes 10
"""

import argparse
import asyncio
import statistics
import time

from server.bench import percentile

from .live import health_asked, memory_watched, serve
from .serving import Outcome, arrivals, load, percentiles

SIZES = ["128x128", "256x256", "256x256", "512x512"]
STEPS = 20
BURST = 24
"""Requests at once that show what the server can do."""
SETTLING = 0.2
"""Share of the time after which memory should have settled: by then the queue is full and the caches are warm."""


async def capacity(url: str) -> float:
    """Requests per second when there is always one waiting."""
    trace = [(0.0, body) for _, body in arrivals(BURST, 10.0, SIZES, STEPS, seed=1)[:BURST]]
    outcome, seconds = await load(url, trace)
    return len(outcome.latencies) / seconds


def report(outcome: Outcome, health: list[float], memory: list[int]) -> str:
    settled = memory[int(SETTLING * len(memory)) :]
    middle = statistics.median(settled)
    low, high = min(settled) / middle - 1, max(settled) / middle - 1
    return "\n".join(
        (
            f"answered    {len(outcome.latencies)}, latency {percentiles(outcome.latencies)}",
            f"refused     {dict(outcome.refused)}, answered in {percentiles(outcome.refusals)}",
            f"broken      {dict(outcome.broken) or 'none'}",
            f"/health     {percentiles(health)} of {len(health)}",
            f"memory      {middle / 2**20:.0f} MiB after the first {SETTLING:.0%}, {low:+.1%} to {high:+.1%}, "
            f"last tenth {statistics.median(memory[-max(1, len(memory) // 10) :]) / middle - 1:+.1%}",
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="of arrivals (%(default)s)")
    parser.add_argument("--times", type=float, default=3.0, help="what the server can do (%(default)s)")
    arguments = parser.parse_args()
    with serve() as server:
        able = asyncio.run(capacity(server.url))
        trace = arrivals(arguments.times * able, 60 * arguments.minutes, SIZES, STEPS, seed=2)
        print(f"{able:.2f} requests/s at best; {len(trace)} in {arguments.minutes:g} minutes follow", flush=True)
        started = time.perf_counter()
        with health_asked(server.url) as health, memory_watched(server) as memory:
            outcome, _ = asyncio.run(load(server.url, trace))
        print(report(outcome, health, memory))
        print(f"images/s    {len(outcome.latencies) / (time.perf_counter() - started):.2f}")
        print(f"flat within 5 %: {'yes' if flat(memory) else 'NO'}; /health p99 under 20 ms: ", end="")
        print("yes" if percentile(health, 99) < 0.02 else "NO")


def flat(memory: list[int]) -> bool:
    settled = memory[int(SETTLING * len(memory)) :]
    middle = statistics.median(settled)
    return 0.95 * middle <= min(settled) and max(settled) <= 1.05 * middle


if __name__ == "__main__":
    main()
