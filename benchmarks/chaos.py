"""The engine process is killed, clients hang up, one prompt ends the process each time: is any other request the worse?

    python -m benchmarks.chaos --requests 200 --kills 3

Then every picture is drawn again, alone, and compared. Exit status 1 when a request was lost, hung, wrong or answered
with too many pictures.
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
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from PIL import Image

from .live import Server, serve

POISON = Path(__file__).parents[1] / "tests" / "server" / "poison"  # makes one prompt fatal to engine processes
HUNG_SECONDS = 300.0
LEAVERS = 0.2
PATIENCE = 3.0
"""Seconds after which every leaver has left."""
POLL_SECONDS = 0.02
Answers = dict[int, httpx2.Response | str]  # by number of request; a word for what came instead of an answer


def body(i: int) -> dict[str, Any]:
    """Request number i: no two agree in all."""
    draw = random.Random(i)
    return {
        "prompt": draw.choice(("a red circle", "a blue square left of a green triangle", "two yellow squares")),
        "size": f"{draw.choice((128, 192, 256))}x{draw.choice((128, 192, 256))}",
        "num_inference_steps": draw.randint(2, 12),
        "guidance_scale": draw.choice((1.0, 4.5, 7.0)),
        "negative_prompt": draw.choice(("", "", "red")),
        "n": draw.choice((1, 1, 1, 2)),
        "seed": 100 * i,
    }


async def post(client: httpx2.AsyncClient, request: dict[str, Any]) -> httpx2.Response:
    return await client.post("/v1/images/generations", json=request)


async def ask(client: httpx2.AsyncClient, i: int, at: float, answers: Answers, draw: random.Random) -> None:
    leaves = draw.random() < LEAVERS
    patience = draw.uniform(0, PATIENCE) if leaves else HUNG_SECONDS
    await asyncio.sleep(at)
    try:
        answers[i] = await asyncio.wait_for(post(client, body(i)), patience)
    except TimeoutError:
        answers[i] = "left" if leaves else "hung"
    except httpx2.HTTPError as error:
        answers[i] = f"broken: {type(error).__name__}"


async def kill(server: Server, client: httpx2.AsyncClient, at: float) -> float:
    """Kills the engine process; seconds until the server is ready with another."""
    await asyncio.sleep(at)
    while not (victims := server.engines()):
        await asyncio.sleep(POLL_SECONDS)
    started = time.perf_counter()
    os.kill(victims[0], signal.SIGKILL)
    while True:
        await asyncio.sleep(POLL_SECONDS)
        engines = server.engines()
        if engines and engines != victims and (await client.get("/ready")).status_code == httpx2.codes.OK:
            return time.perf_counter() - started


def pictures(answer: httpx2.Response) -> list[np.ndarray]:
    files = [base64.b64decode(entry["b64_json"]) for entry in answer.json()["data"]]
    return [np.asarray(Image.open(io.BytesIO(file))).astype(int) for file in files]


async def verdict(client: httpx2.AsyncClient, i: int, answer: httpx2.Response | str) -> str:
    """Of request i, whose pictures are now drawn alone."""
    if isinstance(answer, str):
        return answer
    if answer.status_code != httpx2.codes.OK:
        return f"lost: {answer.status_code} {answer.text[:200]}"
    got, alone = pictures(answer), pictures(await post(client, body(i)))
    if len(got) != len(alone):
        return f"{len(got)} pictures instead of {len(alone)}"
    worst = max(int(np.abs(a - b).max()) if a.shape == b.shape else 255 for a, b in zip(got, alone, strict=True))
    return "right" if worst <= 1 else f"wrong by {worst}/255"


async def run(server: Server, arguments: argparse.Namespace) -> bool:
    draw = random.Random(arguments.seed)
    answers: Answers = {}
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=server.url, timeout=HUNG_SECONDS, limits=limits) as client:
        async with asyncio.TaskGroup() as group:
            for i in range(arguments.requests):
                group.create_task(ask(client, i, draw.uniform(0, arguments.seconds), answers, draw))
            moments = sorted(draw.uniform(0.1, 1) * arguments.seconds for _ in range(arguments.kills))
            kills = [group.create_task(kill(server, client, at)) for at in moments]
            await asyncio.sleep(draw.uniform(0.1, 1) * arguments.seconds)
            poisoned = await post(client, {"prompt": "poison", "size": "64x64"})
        verdicts = Counter([await verdict(client, i, answer) for i, answer in sorted(answers.items())])
    print(f"{arguments.requests} requests in {arguments.seconds:g} s, {arguments.kills} kills at {moments}")
    print(f"ready again after {', '.join(f'{task.result():.1f}' for task in kills)} s")
    print(f"poison: {poisoned.status_code} {poisoned.text[:200]}")
    for what, count in verdicts.most_common():
        print(f"{count:5} {what}")
    return set(verdicts) <= {"right", "left"} and poisoned.status_code == httpx2.codes.INTERNAL_SERVER_ERROR


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--requests", type=int, default=200, help="(%(default)s)")
    parser.add_argument("--seconds", type=float, default=60.0, help="in which they arrive (%(default)s)")
    parser.add_argument("--kills", type=int, default=3, help="of the engine process (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random (%(default)s)")
    arguments = parser.parse_args()
    path = os.pathsep.join(filter(None, (str(POISON), str(Path.cwd()), os.environ.get("PYTHONPATH"))))
    with serve("--max-queue-seconds", "600", environment={"PYTHONPATH": path}) as server:
        return 0 if asyncio.run(run(server, arguments)) else 1


if __name__ == "__main__":
    sys.exit(main())
