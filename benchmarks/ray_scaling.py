"""Autoscaling of the engine on Ray Serve under a step of load, 1 to 2 to 1 replicas. Needs the extra `ray`.

    python -m benchmarks.ray_scaling --seconds 120

Prints the seconds from the start of the load to the second replica's first moment, and from its end to the one replica
that is left. Exit status 1 when a request was lost.
"""

import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import httpx2

from .arguments import make_parser, parse
from .chaos import HUNG_SECONDS
from .ray_chaos import generate
from .ray_live import RayApplication, demo_config, serve_on_ray

IN_FLIGHT = 12


async def keep_busy(client: httpx2.AsyncClient, first: int, stop: asyncio.Event, outcomes: "Counter[str]") -> None:
    """Sends one request after the other until `stop`."""
    i = first
    while not stop.is_set():
        files = await generate(client, i, stream=False)
        outcomes[files if isinstance(files, str) else "answered"] += 1
        i += IN_FLIGHT


async def run(application: RayApplication, seconds: float) -> bool:
    outcomes: Counter[str] = Counter()
    stop = asyncio.Event()
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=application.url, timeout=HUNG_SECONDS, limits=limits) as client:
        async with asyncio.TaskGroup() as group:
            started = time.perf_counter()
            for i in range(IN_FLIGHT):
                group.create_task(keep_busy(client, i, stop, outcomes))
            await asyncio.to_thread(application.wait_for, 2)
            print(f"1 -> 2 replicas {time.perf_counter() - started:6.1f} s after the load began", flush=True)
            await asyncio.sleep(seconds)
            stop.set()
        ended = time.perf_counter()
        await asyncio.to_thread(application.wait_for, 1)
        print(f"2 -> 1 replicas {time.perf_counter() - ended:6.1f} s after the load ended")
    print(", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common()))
    return set(outcomes) == {"answered"}


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser("ray_scaling", __doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="load after scaling up (default: %(default)s)")
    parser.add_argument("--target", type=float, default=2.0, help="target_seconds of the policy (default: %(default)s)")
    parser.add_argument("--delay", type=float, default=10.0, help="delays of scaling in seconds (default: %(default)s)")
    args = parse(parser, argv, seconds=1.0, target=0.2, delay=1.0)
    with tempfile.TemporaryDirectory() as folder:
        config = demo_config(Path(folder))
        engine = config["applications"][0]["deployments"][1]
        engine["num_replicas"] = "auto"
        engine["autoscaling_config"] = {
            "min_replicas": 1,
            "max_replicas": 2,
            "look_back_period_s": max(args.delay, 11.0),  # replicas report every 10 s
            "upscale_delay_s": args.delay,
            "downscale_delay_s": args.delay,
            "policy": {
                "policy_function": "deploy.ray.scaling:QueueSecondsPolicy",
                "policy_kwargs": {"target_seconds": args.target},
            },
        }
        with serve_on_ray(config, Path(folder)) as application:
            return 0 if asyncio.run(run(application, args.seconds)) else 1


if __name__ == "__main__":
    sys.exit(main())
