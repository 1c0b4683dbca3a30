"""Requests while the engine process is killed, clients disconnect, and one prompt ends the process each time.

    python -m benchmarks.chaos --requests 200 --kills 3

Afterwards every image is generated again, alone, and compared. Exit status 1 when a request was lost, hung, wrong or
answered with too many images.
"""

import argparse
import asyncio
import base64
import io
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from PIL import Image

from .arguments import make_parser, parse
from .live import Server, serve

POISON = Path(__file__).parents[1] / "tests" / "server" / "poison"  # makes one prompt fatal to engine processes
HUNG_SECONDS = 300.0
DISCONNECTED_SHARE = 0.2
DISCONNECT_SECONDS = 3.0
"""A client that disconnects does so within this time after its request."""
POLL_SECONDS = 0.02
Outcomes = dict[int, httpx2.Response | str]
"""By request number: the response, or what happened in its place."""


def request_body(i: int) -> dict[str, Any]:
    """Body of request i; no two requests are equal."""
    rng = random.Random(i)
    return {
        "prompt": rng.choice(("a red circle", "a blue square left of a green triangle", "two yellow squares")),
        "size": f"{rng.choice((128, 192, 256))}x{rng.choice((128, 192, 256))}",
        "num_inference_steps": rng.randint(2, 12),
        "guidance_scale": rng.choice((1.0, 4.5, 7.0)),
        "negative_prompt": rng.choice(("", "", "red")),
        "n": rng.choice((1, 1, 1, 2)),
        "seed": 100 * i,
    }


async def post(client: httpx2.AsyncClient, body: dict[str, Any]) -> httpx2.Response:
    return await client.post("/v1/images/generations", json=body)


async def send(client: httpx2.AsyncClient, i: int, at: float, outcomes: Outcomes, rng: random.Random) -> None:
    """Sends request i after `at` seconds; some clients disconnect before the response."""
    disconnects = rng.random() < DISCONNECTED_SHARE
    timeout = rng.uniform(0, DISCONNECT_SECONDS) if disconnects else HUNG_SECONDS
    await asyncio.sleep(at)
    try:
        outcomes[i] = await asyncio.wait_for(post(client, request_body(i)), timeout)
    except TimeoutError:
        outcomes[i] = "disconnected" if disconnects else "hung"
    except httpx2.HTTPError as error:
        outcomes[i] = f"broken: {type(error).__name__}"


async def kill(server: Server, client: httpx2.AsyncClient, at: float) -> float:
    """Kills the engine process after `at` seconds. Returns the seconds until the server is ready with another."""
    await asyncio.sleep(at)
    while not (killed := server.engines()):
        await asyncio.sleep(POLL_SECONDS)
    started = time.perf_counter()
    os.kill(killed[0], signal.SIGKILL)
    while True:
        await asyncio.sleep(POLL_SECONDS)
        engines = server.engines()
        if engines and engines != killed and (await client.get("/ready")).status_code == httpx2.codes.OK:
            return time.perf_counter() - started


def decode_images(response: httpx2.Response) -> list[np.ndarray]:
    files = [base64.b64decode(entry["b64_json"]) for entry in response.json()["data"]]
    return [np.asarray(Image.open(io.BytesIO(file))).astype(int) for file in files]


async def verdict(client: httpx2.AsyncClient, i: int, outcome: httpx2.Response | str) -> str:
    """What became of request i; its images are generated again, alone, and compared."""
    if isinstance(outcome, str):
        return outcome
    if outcome.status_code != httpx2.codes.OK:
        return f"lost: {outcome.status_code} {outcome.text[:200]}"
    images, expected = decode_images(outcome), decode_images(await post(client, request_body(i)))
    if len(images) != len(expected):
        return f"{len(images)} images instead of {len(expected)}"
    errors = [int(np.abs(a - b).max()) if a.shape == b.shape else 255 for a, b in zip(images, expected, strict=True)]
    return "right" if max(errors) <= 1 else f"wrong by {max(errors)}/255"


async def run(server: Server, args: argparse.Namespace) -> bool:
    """Prints what became of the requests. Returns whether every request was answered right."""
    rng = random.Random(args.seed)
    outcomes: Outcomes = {}
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=server.url, timeout=HUNG_SECONDS, limits=limits) as client:
        async with asyncio.TaskGroup() as group:
            for i in range(args.requests):
                group.create_task(send(client, i, rng.uniform(0, args.seconds), outcomes, rng))
            moments = sorted(rng.uniform(0.1, 1) * args.seconds for _ in range(args.kills))
            kills = [group.create_task(kill(server, client, at)) for at in moments]
            await asyncio.sleep(rng.uniform(0.1, 1) * args.seconds)
            poisoned = [await post(client, {"prompt": "poison", "size": "64x64"}) for _ in range(args.poisoned)]
        verdicts = Counter([await verdict(client, i, outcome) for i, outcome in sorted(outcomes.items())])
    kill_times = ", ".join(f"{at:.1f}" for at in moments)
    print(f"{args.requests} requests in {args.seconds:g} s, {args.kills} kills after {kill_times} s")
    print(f"ready again after {', '.join(f'{task.result():.1f}' for task in kills)} s")
    for response in poisoned:
        print(f"poisoned: {response.status_code} {response.text[:200]}")
    for outcome, count in verdicts.most_common():
        print(f"{count:5} of {args.requests} {outcome}")
    refused = all(response.status_code == httpx2.codes.INTERNAL_SERVER_ERROR for response in poisoned)
    return refused and set(verdicts) <= {"right", "disconnected"}


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser("chaos", __doc__)
    parser.add_argument("--requests", type=int, default=200, help="number of requests (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60.0, help="duration of the arrivals (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=3, help="kills of the engine process (default: %(default)s)")
    poisoned_help = "requests that end the engine process each time they run (default: %(default)s)"
    parser.add_argument("--poisoned", type=int, default=1, help=poisoned_help)
    parser.add_argument("--seed", type=int, default=0, help="seed of the random choices (default: %(default)s)")
    args = parse(parser, argv, requests=4, seconds=0.5, kills=1, poisoned=0)  # an engine takes seconds to start again
    path = os.pathsep.join(filter(None, (str(POISON), str(Path.cwd()), os.environ.get("PYTHONPATH"))))
    with serve("--max-queue-seconds", "600", environment={"PYTHONPATH": path}) as server:
        return 0 if asyncio.run(run(server, args)) else 1


if __name__ == "__main__":
    sys.exit(main())
