"""Small pictures beside an endless stream of large ones: what does the company cost, and do the large ones advance?

python -m benchmarks.beside_large --large 1024
"""

import argparse
import asyncio
import time

import httpx2

from server.bench import percentile

from .live import serve

SMALL = 256
STEPS = 20


async def draw(client: httpx2.AsyncClient, side: int, seed: int) -> float:
    """Seconds until the picture is there."""
    started = time.perf_counter()
    body = {"prompt": "a red circle", "size": f"{side}x{side}", "num_inference_steps": STEPS, "seed": seed}
    answer = await client.post("/v1/images/generations", json=body)
    answer.raise_for_status()
    return time.perf_counter() - started


async def in_turn(client: httpx2.AsyncClient, side: int, count: int) -> list[float]:
    return [await draw(client, side, seed) for seed in range(count)]


async def endless(client: httpx2.AsyncClient, side: int, seconds: list[float]) -> None:
    while True:
        seconds.append(await draw(client, side, len(seconds)))


async def measure(url: str, large: int, streams: int, count: int) -> None:
    async with httpx2.AsyncClient(base_url=url, timeout=600) as client:
        await in_turn(client, SMALL, 3)
        alone = await in_turn(client, SMALL, count)
        (large_alone,) = await in_turn(client, large, 1)
        finished: list[float] = []
        company = [asyncio.create_task(endless(client, large, finished)) for _ in range(streams)]
        await asyncio.sleep(1)
        started = time.perf_counter()
        beside = await in_turn(client, SMALL, count)
        elapsed = time.perf_counter() - started
        for task in company:
            task.cancel()
    p95 = [percentile(seconds, 95) for seconds in (alone, beside)]
    print(f"{SMALL} px alone             p50 {percentile(alone, 50):.2f} s, p95 {p95[0]:.2f} s of {count}")
    print(f"beside {streams} x {large} px      p50 {percentile(beside, 50):.2f} s, p95 {p95[1]:.2f} s of {count}")
    print(f"ratio of p95             {p95[1] / p95[0]:.2f} (wanted at most 2)")
    print(
        f"{large} px meanwhile       {len(finished)} finished in {elapsed:.0f} s; alone one takes {large_alone:.2f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.beside_large", description=__doc__)
    parser.add_argument("--large", type=int, default=512, help="side of the large ones in pixels (%(default)s)")
    parser.add_argument("--streams", type=int, default=1, help="of large ones (%(default)s)")
    parser.add_argument("--count", type=int, default=40, help="small pictures (%(default)s)")
    arguments = parser.parse_args()
    with serve("--max-queue-seconds", "600") as server:
        asyncio.run(measure(server.url, arguments.large, arguments.streams, arguments.count))


if __name__ == "__main__":
    main()
